"""A stage of a job, and the run that it is part of. A new stage is a module in stages/, and in its list."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from llm_finetune.config import Settings
from llm_finetune.data.prepared_dataset import IGNORE_INDEX
from llm_finetune.distributed.process_group import Group
from llm_finetune.kernels.precision import Precision
from llm_finetune.kernels.training.optimize import Switches, optimize_model
from llm_finetune.models import loading
from llm_finetune.models.packing_check import check_isolation, check_runs
from llm_finetune.objectives.base import Objective
from llm_finetune.objectives.log_probs import label_log_probs
from llm_finetune.pipeline.fingerprint import Sources, StageInputs
from llm_finetune.pipeline.inputs import Inputs
from llm_finetune.pipeline.objective import objective_of
from llm_finetune.pipeline.run_directory import RunDirectory, StageOutput

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from llm_finetune.evaluation.result import ModelEvaluation
    from llm_finetune.storage.result import Result

log = logging.getLogger(__name__)


@dataclass
class Run:
    """A job under way.

    Attributes:
        settings: as given, but for what they leave to the memory that there is.
        outputs: by the stage's name what it leaves, and what decides that; on the main process alone.
        left: the names of the stages that are still to be done.
        model: the base model, once it is loaded.
        tuned: what has come of it, where this process has trained it.
        base_evaluation: of the base model, on the main process, where it was evaluated.
    """

    settings: Settings
    inputs: Inputs
    directory: RunDirectory
    group: Group
    precision: Precision
    outputs: Mapping[str, StageOutput]
    left: frozenset[str]
    model: torch.nn.Module | None = field(default=None, repr=False)
    tuned: torch.nn.Module | None = field(default=None, repr=False)
    base_evaluation: ModelEvaluation | None = None

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes."""
        return self.group.ranks.is_main_process

    @property
    def on_cpu(self) -> bool:
        """Whether the model is there, and not on a GPU."""
        return self.settings.train.no_cuda or not torch.cuda.is_available()

    @property
    def objective(self) -> Objective:
        """What the training minimizes and the evaluation reports."""
        return objective_of(self.settings)

    def base_model(self) -> torch.nn.Module:
        """The base model on its device, checked to keep the records of a row apart; loaded once."""
        if self.model is None:
            self.model = self._load()
        return self.model

    def optimize(self, model: torch.nn.Module) -> None:
        """Gives the model the fast forms of its layers that the settings allow."""
        chosen = self.settings.train.optimizations
        switches = Switches(chosen.packed_attention, chosen.fused_cross_entropy, chosen.fused_layers)
        ask = partial(label_log_probs, model)
        optimize_model(model, switches, ask, ignored=IGNORE_INDEX, precision=self.precision)

    def _load(self) -> torch.nn.Module:
        inputs, weights = self.inputs, self.precision.weights
        log.info("loading %s in %s", inputs.folder, str(weights).removeprefix("torch."))
        model: torch.nn.Module = loading.load_weights(inputs.folder, weights, self.settings.trust_remote_code)
        vocab_size = inputs.config.get_text_config().vocab_size
        check_runs(model, vocab_size)
        if inputs.packed:
            check_isolation(model, vocab_size)
        if not self.on_cpu:
            return model.to("cuda")
        self.optimize(model)
        return model


class Stage(ABC):
    """A part of a job with a result of its own.

    Attributes:
        name: in run.json.
        results: the files that show that it was done; after the first, what need not be there.
        on_all_ranks: all ranks run it, in the process group; else the main process alone, once that is left.
        is_repeatable: a broken result file is reason enough to do it again; else it is an error.
        sums_up: it is done again whenever another stage was.
    """

    name: ClassVar[str]
    results: ClassVar[tuple[type[Result], ...]]
    on_all_ranks: ClassVar[bool] = False
    is_repeatable: ClassVar[bool] = True
    sums_up: ClassVar[bool] = False

    @abstractmethod
    def enabled(self, settings: Settings) -> bool:
        """Whether the settings ask for it."""

    def check(self, settings: Settings, folder: Path, meta_model: PreTrainedModel) -> None:  # noqa: B027
        """Refuses what it could not do, before weights are read.

        Args:
            folder: of the base model; without weights where nothing is to be downloaded.
            meta_model: the base model without memory for its weights; to look at, since all stages get it.

        Raises:
            UserError: what is wrong, where, and what to do.
        """

    @abstractmethod
    def inputs(self, sources: Sources) -> StageInputs:
        """All that decides its result."""

    def model_folder(self, settings: Settings) -> Path | None:
        """Where it leaves a model; None: it leaves none."""
        return None

    def output(self, settings: Settings, sources: Sources) -> StageOutput:
        """What it leaves, and what decides that."""
        folder = self.model_folder(settings)
        return StageOutput(self.name, self.inputs(sources), self.results, folder, self.is_repeatable)

    def prepare(self, run: Run) -> None:  # noqa: B027
        """What has to come before any stage changes the model; for a stage `on_all_ranks`, on each."""

    @abstractmethod
    def run(self, run: Run) -> Any:
        """Does it. What comes back is for `write`; a stage with one result file returns that `Result`."""

    def write(self, run: Run, result: Any) -> None:
        """Writes the result files; on the main process, where no signal interrupts it."""
        result.write(run.directory.path)
