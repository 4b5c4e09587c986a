"""prompt_config.json: how a model was prompted in training, beside its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator

from llm_finetune.errors import ModelError
from llm_finetune.storage.result import Result

ModelPromptFormat = Literal["alpaca", "chat", "text"]


def _current(prompt_format: Any) -> Any:
    """An earlier release called the Alpaca format sections."""
    return "alpaca" if prompt_format == "sections" else prompt_format


class PromptConfig(Result):
    """The form of a model's prompts.

    Attributes:
        format: alpaca, chat or text.
        with_input, without_input: what comes before an instruction with an input, and before one without.
    """

    file_name = "prompt_config.json"
    former_name = "prompt.json"

    format: Annotated[ModelPromptFormat, BeforeValidator(_current)]
    with_input: str
    without_input: str

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What stands beside a model; None where it does not say how it was prompted.

        Raises:
            ModelError: the file is broken: where in it, what was found and what expected.
        """
        try:
            return cls.load(folder)
        except ValueError as error:
            raise ModelError(f"{cls.path_in(folder)}: {error}") from error
