"""What a job does with its model, one stage a module, in this order."""

from __future__ import annotations

from llm_finetune.pipeline.stage import Stage
from llm_finetune.stages.benchmark import Benchmark
from llm_finetune.stages.evaluate import Evaluate
from llm_finetune.stages.quantize import Quantize
from llm_finetune.stages.report import Report
from llm_finetune.stages.train import Train

STAGES: tuple[Stage, ...] = (Train(), Evaluate(), Quantize(), Benchmark(), Report())
