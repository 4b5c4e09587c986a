"""Fine-tunes open language models on CPUs, from one values file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_finetune.api import Model, Results, generate, load_model, read_results, run

__version__ = "0.1.0"  # Stands here alone; tests/test_version.py holds what cannot read it against it.
__all__ = ["Model", "Results", "generate", "load_model", "read_results", "run"]


def __getattr__(name: str) -> Any:
    """Loads the public names when they are first asked for: the command starts without them."""
    if name in __all__:
        from llm_finetune import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
