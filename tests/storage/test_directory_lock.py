"""Two runs of one output folder take turns: neither breaks what the other writes."""

from __future__ import annotations

import time
from pathlib import Path

from cli_runner import assignments
from minimal_settings import PLAIN
from process_pool import PATIENCE, Warm, ended, go_on, in_step, reached


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
    hasty = warm.run([*options, *assignments(lostWorkerTimeoutMinutes=0.001)])
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


def test_two_runs_that_would_quantize_into_one_folder_take_turns(
    warm: Warm, model_folder: Path, data_file: Path, tmp_path: Path
) -> None:
    quantized = tmp_path / "quantized"
    values = {
        **PLAIN,
        "modelNameOrPath": str(model_folder),
        "train__dataFile": str(data_file),
        "doEval": False,
        "doQuantize": True,
        "quantize__outputDir": str(quantized),
        "train__maxSteps": 1,
    }
    first = warm.start(
        ["run", *assignments(**values, train__outputDir=str(tmp_path / "one"))], in_step(1, "waits")
    )
    reached(*first)
    (tmp_path / "link").symlink_to(quantized)  # the same folder by another name
    other = {"train__outputDir": str(tmp_path / "two"), "quantize__outputDir": str(tmp_path / "link")}
    hasty = warm.run(["run", *assignments(**{**values, **other}, lostWorkerTimeoutMinutes=0.001)])
    assert hasty.code == 128
    assert f"another run works in {quantized}: process {first[0].pid} on " in hasty.text
    assert "(distributed.quantize.outputDir)" in hasty.text
    go_on(first[1])
    assert ended(*first).code == 0
    assert (quantized / "quantization.json").is_file()
    assert not list(tmp_path.glob(".*"))
