"""Two runs of one output folder take turns: neither breaks what the other writes."""

from __future__ import annotations

import time
from pathlib import Path

from command import assignments
from plain import PLAIN
from warm import PATIENCE, Warm, ended, go_on, in_step, reached


def test_a_command_that_is_started_twice_runs_once(
    warm: Warm, model_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    values = {
        "modelNameOrPath": str(model_folder),
        "train__dataFile": str(data_file),
        "train__outputDir": str(tmp_path / "out"),
        "doEval": False,
        "train__maxSteps": 4,
    }
    options = ["run", *assignments(**{**values, **PLAIN})]
    first = warm.start(options, in_step(3, "waits"))
    reached(*first)
    hasty = warm.run([*options, *assignments(waitForLostMinutes=0.001)])
    assert hasty.code == 128
    assert f"another run works in {tmp_path / 'out'}: process {first[0].pid} on " in hasty.text
    second = warm.start(options)
    end = time.monotonic() + PATIENCE
    while "waiting for its end" not in second[1].read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    go_on(first[1])
    assert ended(*first).code == 0
    done = ended(*second)
    assert done.code == 0
    assert "nothing to do" in done.text
    assert not list((tmp_path / "out").glob(".*"))
