"""Imports neural-compressor without its workspace folder in the working directory and its log lines."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from llm_finetune.storage.user_directories import private_cache


def weight_only(name: str) -> Any:
    """A module of its weight-only algorithms, such as gptq."""
    from neural_compressor.common import set_workspace

    # It logs each layer's time and error under a handler of its own.
    logging.getLogger("neural_compressor").addFilter(_is_error)
    set_workspace(str(private_cache("neural-compressor")))
    return importlib.import_module(f"neural_compressor.torch.algorithms.weight_only.{name}")


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
