"""Volumes that fail while a job writes: one clear error, the last good checkpoint kept, the job resumable."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tally import TALLY

from command import assignments
from llm_finetune.checkpoints import folders
from plain import PLAIN
from warm import Moment, Warm, ended, go_on, in_step, reached

MEGABYTES = 50


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 50 MB."""
    place = tmp_path / "volume"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(place)], check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def options(model_folder: Path, data_file: Path, volume: Path) -> list[str]:
    values: dict[str, Any] = {
        "modelNameOrPath": str(model_folder),
        "train__dataFile": str(data_file),
        "train__outputDir": str(volume / "out"),
        "train__epochs": 1,
        "train__useLora": False,
        "train__saveStrategy": "steps",
        "train__saveSteps": 4,
    }
    return ["run", *assignments(**{**values, **PLAIN})]


def fill(volume: Path) -> None:
    free = subprocess.run(
        ["df", "--output=avail", "-B1", str(volume)], check=True, capture_output=True, text=True
    )
    (volume / "others").write_bytes(b"0" * (int(free.stdout.split()[1]) - 8192))


def empty(volume: Path) -> None:
    (volume / "others").unlink()


def read_only(volume: Path) -> None:
    """A mount over it: the file system itself cannot be made read-only while a file is open."""
    subprocess.run(["mount", "--bind", str(volume), str(volume)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(volume)], check=True)


def writable(volume: Path) -> None:
    subprocess.run(["umount", str(volume)], check=True)


FAULTS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None], str]] = {
    "full": (fill, empty, "No space left on device"),
    "read-only": (read_only, writable, "Read-only file system"),
}


@pytest.mark.parametrize(("break_", "mend", "said"), FAULTS.values(), ids=list(FAULTS))
@pytest.mark.parametrize("when", ["before the second checkpoint", "in the middle of it"])
def test_one_clear_error_and_the_last_good_checkpoint_stays(
    when: str,
    break_: Callable[[Path], None],
    mend: Callable[[Path], None],
    said: str,
    warm: Warm,
    options: list[str],
    volume: Path,
) -> None:
    # The weights are the first file of a checkpoint, the optimizer's the second.
    moment = Moment("saving", 3, "waits") if when == "in the middle of it" else in_step(6, "waits")
    process, file = warm.start(options, moment)
    reached(process, file)
    break_(volume)
    go_on(file)
    failed = ended(process, file)
    mend(volume)
    assert failed.code == 5, failed.text
    (told,) = (line for line in failed.text.splitlines() if line.startswith("error: "))
    assert said in told
    assert "checkpoint-4 is whole" in told
    assert "MB needed" in told
    assert "Traceback" not in failed.text
    assert folders.newest_whole(volume / "out") == "checkpoint-4"
    again = warm.run(options)
    assert again.code == 0, again.text
    assert "going on from" in again.text
    TALLY.made[f"volume {said.lower()}"] += 1
    TALLY.resumed[f"volume {said.lower()}"] += 1
