"""All that happens above a rank: starting them, here or in a cluster, and what their ends mean."""

from __future__ import annotations

from llm_finetune.launcher.local import launch

__all__ = ["launch"]
