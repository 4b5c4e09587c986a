"""What the tests of stopping and going on train."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli_runner import assignments
from minimal_settings import PLAIN


@pytest.fixture
def lora_run(model_folder: Path, data_file: Path) -> Callable[..., list[str]]:
    """The arguments of a run with dropout, whose random state must survive, and without evaluation."""

    def build(out: Path, **changes: Any) -> list[str]:
        values = {
            **PLAIN,
            "modelNameOrPath": str(model_folder),
            "train__dataFile": str(data_file),
            "train__outputDir": str(out),
            "doEval": False,
            "train__loraDropout": 0.1,
            **changes,
        }
        return ["run", *assignments(**values)]

    return build
