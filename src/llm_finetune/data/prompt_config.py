"""prompt_config.json: how a model was prompted in training, beside its weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

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
    error = ModelError
    remedy = ""  # the folder may be a model that no run made

    format: Annotated[ModelPromptFormat, BeforeValidator(_current)]
    with_input: str
    without_input: str
