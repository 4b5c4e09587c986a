"""Volumes that fail while a job writes: one clear error, the last good checkpoint kept, the job resumable."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pods import Pods
from tally import TALLY

from cli_runner import SCRIPTS, assignments
from llm_finetune.checkpoints import directories
from minimal_settings import PLAIN
from process_pool import Ended, Moment, Warm, ended, go_on, in_step, reached

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
def values(model_folder: Path, data_file: Path, volume: Path) -> dict[str, Any]:
    return {
        **PLAIN,
        "modelNameOrPath": str(model_folder),
        "train__dataFile": str(data_file),
        "train__outputDir": str(volume / "out"),
        "train__epochs": 1,
        "train__useLora": False,
        "train__saveStrategy": "steps",
        "train__saveSteps": 4,
        "quantize__outputDir": str(volume / "quantized"),
    }


@pytest.fixture
def options(values: dict[str, Any]) -> list[str]:
    return ["run", *assignments(**values)]


def fill(volume: Path, but_bytes: int = 8192) -> None:
    free = shutil.disk_usage(volume).free
    (volume / "others").write_bytes(b"0" * (free - but_bytes))


def empty(volume: Path) -> None:
    (volume / "others").unlink()


def read_only(volume: Path) -> None:
    """A mount over it: the file system itself cannot be made read-only while a file is open."""
    subprocess.run(["mount", "--bind", str(volume), str(volume)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(volume)], check=True)


def writable(volume: Path) -> None:
    subprocess.run(["umount", str(volume)], check=True)


def the_error(failed: Ended) -> str:
    """The one line that says what could not be written."""
    assert failed.code == 5, failed.text
    assert "Traceback" not in failed.text
    (told,) = (line for line in failed.text.splitlines() if line.startswith("error: "))
    assert "MB free" in told
    return told


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
    told = the_error(failed)
    assert said in told
    assert "checkpoint-4 is intact" in told
    assert "MB needed" in told
    assert directories.newest_whole(volume / "out") == "checkpoint-4"
    again = warm.run(options)
    assert again.code == 0, again.text
    assert "going on from" in again.text
    TALLY.made[f"volume {said.lower()}"] += 1
    TALLY.resumed[f"volume {said.lower()}"] += 1


def test_curves_that_find_no_room_are_one_clear_error_too(
    warm: Warm, values: dict[str, Any], volume: Path
) -> None:
    options = ["run", *assignments(**values | {"train__reportTo": "tensorboard", "train__saveSteps": 100})]
    process, file = warm.start(options, in_step(6, "waits"))
    reached(process, file)
    fill(volume, 0)
    go_on(file)
    failed = ended(process, file)
    empty(volume)
    assert failed.code == 5, failed.text
    assert f"error: {volume / 'out'}: cannot be written: No space left on device" in failed.text
    assert warm.run(options).code == 0


@pytest.mark.parametrize(("break_", "mend", "said"), FAULTS.values(), ids=list(FAULTS))
def test_in_a_group_all_pods_end_with_the_same_words(
    break_: Callable[[Path], None],
    mend: Callable[[Path], None],
    said: str,
    values: dict[str, Any],
    volume: Path,
    tmp_path: Path,
) -> None:
    """The ranks' logs and signs of life are on that volume too."""
    longer = {"train__epochs": 100, "train__saveSteps": 100}  # what is said meanwhile fills a page of the log
    settings = {**values, **longer, "script": str(SCRIPTS / "finetune.py")}
    with Pods(tmp_path / "pods", 2, **settings) as pods:
        pods.arguments = ["--volume", str(volume)]
        pods.start()
        pods.until((pods.out / "checkpoint-100" / "manifest.json").exists, "a checkpoint")
        break_(volume)
        codes = pods.finish()
        mend(volume)
        assert codes == {0: 5, 1: 5}
        for number in range(2):
            assert f"checkpoint-200: cannot be written: {said}" in pods.last_words(number)
            assert "Traceback" not in pods.said(number)
    TALLY.made[f"volume {said.lower()}"] += 1


def test_a_volume_that_is_full_before_the_start_is_told_before_anything_is_trained(
    warm: Warm, options: list[str], volume: Path
) -> None:
    for free, named in ((0, "out"), (65536, "out")):
        fill(volume, free)
        told = the_error(warm.run(options))
        assert f"{volume / named}: cannot be written: No space left on device" in told
        assert not (volume / "out" / "checkpoint-4").exists()
        empty(volume)
    again = warm.run(options)
    assert again.code == 0, again.text


def test_full_while_data_is_prepared_nothing_half_written_stays(
    warm: Warm, options: list[str], volume: Path
) -> None:
    cache = volume / "cache"
    environment = {"HF_DATASETS_CACHE": str(cache)}
    cache.mkdir()
    fill(volume)
    told = the_error(ended(*warm.start(options, environment=environment)))
    assert f"{cache / 'llm-finetune'}/" in told
    assert "cannot be written: No space left on device" in told
    assert "of it were written; make room" in told
    assert not list(cache.rglob("*.bin"))
    empty(volume)
    again = ended(*warm.start(options, environment=environment))
    assert again.code == 0, again.text
    assert list(cache.rglob("*.bin"))


LATER: dict[str, tuple[Moment, int, str]] = {
    "the word that it is trained": (Moment("finishing", 1, "waits"), 0, "run.json"),
    "the quantized model": (Moment("quantizing", 1, "waits"), 8192, "quantized"),
    "too little room for the quantized model": (Moment("finishing", 4, "waits"), 65536, "quantized"),
    "the report": (Moment("reporting", 1, "waits"), 0, "report.html"),
}


@pytest.mark.parametrize(("moment", "free", "named"), LATER.values(), ids=list(LATER))
def test_full_in_a_later_stage_the_model_is_kept_and_the_rest_is_done_once_there_is_room(
    moment: Moment, free: int, named: str, warm: Warm, values: dict[str, Any], volume: Path
) -> None:
    options = ["run", *assignments(**{**values, "doQuantize": True, "quantize__woqAlgo": "RTN"})]
    process, file = warm.start(options, moment)
    reached(process, file)
    fill(volume, free)
    go_on(file)
    told = the_error(ended(process, file))
    assert f"{named}: cannot be written: No space left on device" in told
    assert "MB needed" in told
    left = [path.name for path in [*volume.iterdir(), *(volume / "out").iterdir()]]
    assert "model.safetensors" in left
    assert not [name for name in left if name.startswith(".")]
    empty(volume)
    again = warm.run(options)
    assert again.code == 0, again.text
    assert again.counts["step"] == 0
    assert (volume / "out" / "report.html").is_file()
    TALLY.made["volume full after the training"] += 1
    TALLY.resumed["volume full after the training"] += 1


def test_full_when_the_model_is_to_be_left_its_last_checkpoint_is_kept(
    warm: Warm, options: list[str], volume: Path
) -> None:
    process, file = warm.start(options, Moment("leaving a model", 1, "waits"))
    reached(process, file)
    fill(volume)
    go_on(file)
    told = the_error(ended(process, file))
    assert f"{volume / 'out'}: cannot be written: No space left on device" in told
    assert "MB needed" in told
    assert not [path.name for path in (volume / "out").iterdir() if path.name.startswith((".", "model"))]
    empty(volume)
    again = warm.run(options)
    assert again.code == 0, again.text
    assert again.counts["step"] == 0
    TALLY.made["volume full after the training"] += 1
    TALLY.resumed["volume full after the training"] += 1


def test_full_a_merge_says_what_it_needs_and_leaves_nothing(
    warm: Warm, model_folder: Path, volume: Path
) -> None:
    command = ["merge", str(model_folder), str(volume / "merged")]
    fill(volume, 65536)
    told = the_error(warm.run(command))
    assert f"{volume / 'merged'}: cannot be written: No space left on device (0.1 MB needed" in told
    assert [file.name for file in volume.iterdir()] == ["others"]
    empty(volume)
    assert warm.run(command).code == 0
