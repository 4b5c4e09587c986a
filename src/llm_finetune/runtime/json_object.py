"""Objects of JSON from outside, where any text may stand."""

from __future__ import annotations

import json
from typing import Any


def parsed(words: str) -> dict[str, Any]:
    """What a line says: an object of JSON; empty where it is anything else."""
    try:
        content = json.loads(words)
    except (ValueError, RecursionError):  # nonsense; brackets in brackets
        return {}
    return content if isinstance(content, dict) else {}
