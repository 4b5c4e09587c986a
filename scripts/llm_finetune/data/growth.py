"""How much longer a tokenizer can make a text before it reads it, or after it has written it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from llm_finetune.errors import ModelError

_MOST = 64  # Unicode's own forms make 18 characters of one


def check_growth(backend: Any) -> None:
    """Raises:
    ModelError: its normalizer or its decoder makes very long texts of short ones, as no model needs.
    """
    for part in ("normalizer", "decoder"):
        component = getattr(backend, part)
        growth = _growth(json.loads(component.__getstate__())) if component else 1
        if growth > _MOST:
            raise ModelError(
                f"tokenizer.json: its {part} makes up to {growth:,.0f} characters of one; "
                f"expected {_MOST} at most"
            )


def _growth(component: Mapping[str, Any]) -> float:
    """The most characters that a component makes of one."""
    match component:
        case {"type": "Sequence", "normalizers": parts} | {"type": "Sequence", "decoders": parts}:
            return prod(map(_growth, parts))
        case {"type": "Replace", "pattern": {"String": pattern}, "content": content}:
            return max(1.0, len(content) / max(len(pattern), 1))
        case {"type": "Replace", "content": content}:
            return max(1.0, len(content) + 1)  # a pattern may fit between any two characters
        case {"type": "Prepend", "prepend": text}:
            return max(1.0, len(text))
    return 1
