"""What others bring: environments that `make benchmark-peers` makes, and the allocator they need by hand."""

from __future__ import annotations

import os
from pathlib import Path

from llm_finetune.host import allocator

CACHE = Path.home() / ".cache/llm-finetune"
PEERS = Path(os.environ.get("PEERS", CACHE / "peers"))


def peer(name: str) -> str:
    """The Python of an environment that `make benchmark-peers` makes."""
    python = PEERS / name / "bin/python"
    if not python.is_file():
        raise SystemExit(f"{python} is not there: make benchmark-peers")
    return str(python)


def tcmalloc() -> dict[str, str]:
    """What preloads tcmalloc: by hand for peers, since none of them does it."""
    found = allocator.wanted("auto", {}).get("LD_PRELOAD")
    own = CACHE / "tcmalloc/libtcmalloc_minimal.so.4"
    if not found and not own.is_file():
        raise SystemExit(f"tcmalloc is needed for the peers: {allocator.HOW_TO_GET}; or put it to {own}")
    return {"LD_PRELOAD": found or str(own)}
