"""Checkpoint folders: whole or absent, the newest whole one used, the last good one never lost."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_finetune.checkpoints import directories, manifest
from llm_finetune.checkpoints.atomic_write import atomic_checkpoint
from llm_finetune.errors import OutputError
from llm_finetune.storage import atomic


def write(path: Path, step: int, content: bytes = b"weights") -> Path:
    with atomic_checkpoint(path, step, world_size=1, tensor_bytes=len(content)) as folder:
        (folder / "model.safetensors").write_bytes(content)
        (folder / "progress.json").write_text(json.dumps({"step": step}))
    return path / directories.name_of(step)


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is cut": (edit("model.safetensors", lambda b: b[:3]), "model.safetensors: 3 bytes found, 7"),
    "a file is longer": (edit("model.safetensors", lambda b: b * 2), "model.safetensors: 14 bytes found, 7"),
    "a bit has fallen": (edit("model.safetensors", lambda b: b"Weights"), "model.safetensors: sha256"),
    "a file is gone": (lambda f: (f / "progress.json").unlink(), "progress.json: missing"),
    "one file more": (lambda f: (f / "rng_state.pth").touch(), "rng_state.pth: not in manifest.json"),
    "no manifest": (lambda f: (f / manifest.NAME).unlink(), "no manifest.json: it was never finished"),
    "half a manifest": (edit(manifest.NAME, lambda b: b[: len(b) // 2]), "manifest.json cannot be read"),
    "an empty manifest": (edit(manifest.NAME, lambda b: b"{}"), "manifest.json cannot be read"),
    "it names nothing": (edit(manifest.NAME, lambda b: b'{"files": {}}'), "manifest.json names no files"),
    "a list": (edit(manifest.NAME, lambda b: b"[1]"), "manifest.json cannot be read"),
}


@pytest.mark.parametrize(("spoil", "said"), BROKEN.values(), ids=list(BROKEN))
def test_a_broken_one_is_set_aside_and_the_one_before_is_used(
    spoil: Callable[[Path], object], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, 9)
    spoil(write(tmp_path, 10))
    with caplog.at_level(logging.WARNING):
        assert directories.newest_whole(tmp_path) == "checkpoint-9"
    assert said in caplog.text
    assert (tmp_path / "corrupt-checkpoint-10").is_dir()
    assert not (tmp_path / "checkpoint-10").exists()


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["files", "size", "sha256", "x"]) | st.text(), inner)
        ),
    )
)
def test_no_content_of_a_manifest_makes_a_checkpoint_that_is_not_there_whole(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    folder = write(tmp_path_factory.mktemp("any"), 1)
    (folder / manifest.NAME).write_text(json.dumps(content))
    assert manifest.problem(folder)


def test_the_newest_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    for step in (9, 100, 10):
        write(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-999").touch()
    assert directories.newest_whole(tmp_path) == "checkpoint-100"
    assert directories.newest_whole(tmp_path / "nowhere") is None


def test_what_kills_interrupted_is_ended(tmp_path: Path) -> None:
    write(tmp_path, 5)
    shutil.copytree(tmp_path / "checkpoint-5", atomic.aside_of(tmp_path / "checkpoint-6"))
    (tmp_path / "checkpoint-5").rename(atomic.aside_of(tmp_path / "checkpoint-5", atomic.REPLACED))
    assert directories.newest_whole(tmp_path) == "checkpoint-5"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_the_same_step_can_be_kept_again(tmp_path: Path) -> None:
    write(tmp_path, 5, b"before")
    write(tmp_path, 5, b"after it was evaluated")
    assert directories.newest_whole(tmp_path) == "checkpoint-5"
    assert (tmp_path / "checkpoint-5" / "model.safetensors").read_bytes() == b"after it was evaluated"
    assert len(list(tmp_path.iterdir())) == 1


def test_rotation_spares_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
    (tmp_path / "checkpoint-5").mkdir()  # somebody's, or one that never was finished: it counts for nothing
    directories.rotate(tmp_path, limit=1, best=2)
    assert directories.steps(tmp_path) == [4, 2]
    directories.rotate(tmp_path, limit=None)
    assert directories.steps(tmp_path) == [4, 2]


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(OutputError), atomic_checkpoint(tmp_path, 2, 1, 0) as folder:
        folder.write_bytes(b"half")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize("number", [28, 30, 122, 116], ids=["full", "read-only", "quota", "stale"])
def test_a_volume_that_fails_is_one_clear_error(number: int, tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(OutputError) as raised, atomic_checkpoint(tmp_path, 2, 1, 5_000_000):
        raise OSError(number, "as the system says it")
    (told,) = raised.value.problems
    assert str(tmp_path / "checkpoint-2") in told
    assert "6.0 MB needed" in told
    assert "checkpoint-1 is intact" in told
    assert directories.newest_whole(tmp_path) == "checkpoint-1"
