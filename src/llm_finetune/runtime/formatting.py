"""Figures as people read them."""

from __future__ import annotations

import json
from typing import Any

UNITS = ("bytes", "kB", "MB", "GB", "TB")


def number(value: float) -> str:
    """Four digits, and commas between thousands."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def size(in_bytes: float) -> str:
    """Bytes in the unit that fits, a thousand of one being the next."""
    amount, unit = in_bytes, 0
    while amount >= 999.5 and unit + 1 < len(UNITS):
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.3g} {UNITS[unit]}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two that count most."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def percent(share: float) -> str:
    """A share as three digits of a hundred."""
    return f"{100 * share:.3g}%"


def setting(value: Any) -> str:
    """A setting as a values file has it, a list with spaces between."""
    if isinstance(value, list):
        return " ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)
