"""LD_PRELOAD: what is not there is named once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from llm_finetune.launcher.ld_preload import drop_missing


def test_missing_libraries_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    there = tmp_path / "libthere.so"
    there.touch()
    environment = {"LD_PRELOAD": f"/nowhere/libtcmalloc.so:{there} libm.so.6:"}
    with caplog.at_level(logging.WARNING):
        drop_missing(environment)
        drop_missing(environment)
    assert environment["LD_PRELOAD"] == f"{there}:libm.so.6"
    (record,) = caplog.records
    assert "/nowhere/libtcmalloc.so is not in this image" in record.getMessage()
