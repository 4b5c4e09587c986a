"""run.json: which run an output folder holds, and which of its stages are done."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from llm_finetune.pipeline.fingerprint import StageInputs
from llm_finetune.storage.result import Result

LIBRARIES = ("llm-finetune", "torch", "transformers", "peft", "datasets", "accelerate", "tokenizers")


@with_config(ConfigDict(extra="allow"))
class TrainValues(TypedDict, total=False):
    """The values keys of `train` that the report explains."""

    datasetName: str | None
    dataFile: str | None
    useLora: bool
    loraRank: int
    loraTargetModules: list[str] | str | None


@with_config(ConfigDict(extra="allow"))
class Values(TypedDict, total=False):
    """A tree of values keys; an earlier version may have written it, which knew other ones."""

    modelNameOrPath: str
    train: TrainValues


class RunRecord(Result):
    """What is known of the run in an output folder.

    Attributes:
        deciding: all that decides the training's result; None where the folder's jobs did not train.
        step_rows: sequences of a step as the run began; 0: not known.
        settings: the values that made it.
        versions: of Python and the libraries that made it.
        stages: of each stage that is done, all that decided its result.
    """

    model_config = ConfigDict(extra="allow")

    file_name = "run.json"

    deciding: StageInputs | None = None
    step_rows: Annotated[int, Field(ge=0)] = 0
    settings: Values = Field(default_factory=Values)
    versions: dict[str, str] = Field(default_factory=dict)
    stages: dict[str, StageInputs]

    def with_stage(self, name: str, inputs: StageInputs) -> RunRecord:
        """The same run, with one more stage done."""
        return self.model_copy(update={"stages": {**self.stages, name: inputs}})


def versions() -> dict[str, str]:
    """What a run is made with: Python and the libraries that decide its result."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
