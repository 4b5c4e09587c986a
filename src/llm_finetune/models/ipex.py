"""Intel's extension for PyTorch, where it is installed."""

from __future__ import annotations

import importlib
import importlib.util

NAME = "intel_extension_for_pytorch"


def is_installed() -> bool:
    """Whether the extension can be imported; it is not, since that takes seconds."""
    return importlib.util.find_spec(NAME) is not None


def register_kernels() -> str:
    """Puts the extension's CPU kernels in the place of torch's own; returns its version.

    Importing it does that. Its `optimize`, which rewrites the model's layers, is left alone: on a LoRA step
    it measured slower than what it replaces.
    """
    return str(importlib.import_module(NAME).__version__)
