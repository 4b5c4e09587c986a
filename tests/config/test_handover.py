"""Values are read once, also where a process starts itself again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm_finetune.cli import main
from llm_finetune.config import handed_on, handing_on, load
from llm_finetune.config.handover import VARIABLE
from llm_finetune.errors import SettingsError

STARTS_ITSELF_AGAIN = """if True:
    import os
    from pathlib import Path
    from llm_finetune.host import allocator
    from llm_finetune.config import handed_on, handing_on, load
    loaded = handed_on()
    if loaded is None:
        with handing_on(load([Path("-")])):
            allocator.start_again_with({"MARK": "x"})
    print(os.environ["MARK"], loaded.settings.train.epochs, len(loaded.warnings), handed_on())
"""


def test_standard_input_is_read_by_the_first_of_a_process_and_itself() -> None:
    said = subprocess.run(
        [sys.executable, "-c", STARTS_ITSELF_AGAIN],
        input="distributed: {train: {epochs: 7}}\nmetadata: {}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "x 7 1 None\n"


def test_settings_arrive_as_they_are_and_only_where_they_are_meant_for() -> None:
    loaded = load([], set_values=["distributed.train.promptWithInput=null,metadata.namespace=a"])
    assert handed_on() is None
    with handing_on(loaded):
        assert handed_on() == loaded
        os.environ[VARIABLE] = "taken"
    assert handed_on() is None


def test_one_of_several_processes_reads_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun gives all of them the same one: the first to read would leave the others the defaults."""
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SettingsError, match="-f -: only one of several processes"):
        main.run([Path("-")])
