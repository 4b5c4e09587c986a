"""The report: what the other stages left, on a page to look at."""

from __future__ import annotations

from llm_finetune.config import Settings
from llm_finetune.config.single_stage import SWITCHES
from llm_finetune.pipeline.fingerprint import Sources, StageInputs
from llm_finetune.pipeline.stage import Run, Stage
from llm_finetune.report.html import ReportPage, make_report
from llm_finetune.stages.benchmark import Benchmark
from llm_finetune.stages.evaluate import Evaluate


class Report(Stage):
    """Writes report.html."""

    name = "report"
    results = (ReportPage,)
    sums_up = True

    def enabled(self, settings: Settings) -> bool:
        """Where there is something to report."""
        return any(settings.to_values()[switch] for switch in SWITCHES.values())

    def inputs(self, sources: Sources) -> StageInputs:
        """See `Stage`."""
        switches = {f"distributed.{switch}": sources.values[switch] for switch in SWITCHES.values()}
        return {**Evaluate().inputs(sources), **Benchmark().inputs(sources), **switches}

    def run(self, run: Run) -> ReportPage:
        """See `Stage`."""
        return make_report(run.directory.path)
