"""What appears under its name whole, whoever else writes there and whatever stands in the way."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llm_finetune.checkpoints.atomic_write import atomic_checkpoint
from llm_finetune.errors import GroupError, OutputError
from llm_finetune.launcher.rank_logs import RankLogs
from llm_finetune.pipeline.run_directory import mend
from llm_finetune.runtime import heartbeat
from llm_finetune.storage import atomic
from llm_finetune.storage.atomic_directory import atomic_directory, check_replaceable
from llm_finetune.storage.directory_lock import locked
from llm_finetune.storage.json_files import save_text, write_json

KIND = "quantization.json"


def write(folder: Path, content: str) -> None:
    with atomic_directory(folder, 10, KIND) as aside:
        for name in (KIND, "model.safetensors"):
            (aside / name).write_text(content)


def held(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_of_two_at_once_the_second_is_refused_and_no_mixture_appears(tmp_path: Path) -> None:
    folder, refusals = tmp_path / "model", []

    def second() -> None:
        try:
            write(folder, "second")
        except GroupError as error:
            refusals.append(error)

    with atomic_directory(folder, 10, KIND) as aside:
        (aside / "model.safetensors").write_text("first")
        other = threading.Thread(target=second)
        other.start()
        other.join()
        (aside / KIND).write_text("first")
    assert len(refusals) == 1
    assert held(folder) == {KIND: "first", "model.safetensors": "first"}
    write(folder, "second")
    assert held(folder) == {KIND: "second", "model.safetensors": "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("calls", range(1, 20))
def test_whenever_it_is_killed_the_folder_is_the_old_one_or_the_new_one_once_it_is_looked_for(
    calls: int, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    write(folder, "old")
    if (child := os.fork()) == 0:
        left = calls
        for name in ("mkdir", "replace", "unlink", "rmdir", "fsync"):
            call = getattr(os, name)

            def counted(*arguments: object, _call: Callable[..., object] = call, **named: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(9)
                return _call(*arguments, **named)

            setattr(os, name, counted)
        write(folder, "new")
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(OutputError, match="empty or not there yet"), atomic_directory(folder, 10):
        pass
    assert held(folder) in ({KIND: word, "model.safetensors": word} for word in ("old", "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def written_by_a_run(out: Path) -> None:
    with locked(out, 0):
        write_json(out / "run.json", {})
        save_text(out / "report.html", "")
        with atomic_checkpoint(out, 1, 1, 1) as aside:
            (aside / "model.safetensors").write_text("weights")
        with heartbeat.heartbeat_writer(out):
            pass
        write(out / "quantized", "codes")


@pytest.mark.parametrize(
    "name",
    [
        ".lock",
        ".run.json.partial",
        ".report.html.partial",
        ".checkpoint-1.partial",
        ".heartbeat.json",
        ".heartbeat.partial",
        ".quantized.lock",
        ".quantized.partial",
        "run.json",
        "checkpoint-1",
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_no_link_that_stands_in_the_way_is_followed(kind: str, name: str, tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    if kind == "file":
        victim.write_text("my keys\n")
    else:
        victim.mkdir()
        (victim / "file").write_text("my keys\n")
    (out / name).symlink_to(victim)
    try:
        written_by_a_run(out)
    except OutputError as error:
        assert str(out / name) in str(error)  # noqa: PT017
    file = victim if kind == "file" else victim / "file"
    assert file.read_text() == "my keys\n"
    assert kind == "file" or [path.name for path in victim.iterdir()] == ["file"]


def test_what_kills_left_in_an_output_folder_goes_with_the_next_run(tmp_path: Path) -> None:
    for name in ("run.json", "report.html", "model", heartbeat.OWN, "checkpoint-3"):
        atomic.aside_of(tmp_path / name).touch()
    (tmp_path / "run.json").touch()
    mend(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("name", ["runs", "previous", ".previous"])
def test_no_folder_that_a_run_fills_is_a_link(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path)
    with pytest.raises(OutputError, match=f"{name}: a link"):
        mend(tmp_path)


def test_the_output_of_ranks_goes_to_files_of_their_own(tmp_path: Path) -> None:
    logs, keys = RankLogs(tmp_path / "round-1", terminal=False), tmp_path / "keys"
    keys.write_text("my keys\n")
    (tmp_path / "round-1").mkdir()
    (tmp_path / "round-1" / "rank-0.err.log").symlink_to(keys)
    for file in logs.reify({0: {"RANK": "0"}}).stderrs.values():
        Path(file).write_text("said")
    assert keys.read_text() == "my keys\n"
    (tmp_path / "round-2").symlink_to(tmp_path)
    with pytest.raises(OutputError, match="round-2: a link"):
        RankLogs(tmp_path / "round-2", terminal=False).reify({0: {"RANK": "0"}})


def test_no_second_name_of_a_file_is_taken_for_the_lock(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("my keys\n")
    (tmp_path / "out").mkdir()
    os.link(tmp_path / "keys", tmp_path / "out" / ".lock")
    with pytest.raises(OutputError, match="second name"), locked(tmp_path / "out", 0):
        pass
    assert (tmp_path / "keys").read_text() == "my keys\n"


def test_what_is_not_a_writers_own_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".mine.partial").touch()
    (tmp_path / ".model.0123456789abcdef.partial").mkdir()
    atomic.clear(tmp_path, ["model"])
    assert [path.name for path in tmp_path.iterdir()] == [".mine.partial"]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A folder of the same file system that is mounted over another."""
    place = tmp_path / "a place" / "model"
    place.mkdir(parents=True)
    if subprocess.run(["mount", "--bind", str(place), str(place)], check=False).returncode:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_mount_point_is_refused_before_anything_is_made_for_it(mounted: Path) -> None:
    for folder in (mounted, mounted.parent):
        (mounted.parent / KIND).touch()
        with pytest.raises(OutputError, match="is a mount point"):
            check_replaceable(folder, KIND)
    write(mounted / "model", "in it")
    assert held(mounted / "model")[KIND] == "in it"


def test_a_volume_without_inodes_is_told_from_one_without_room(tmp_path: Path) -> None:
    options = ["-t", "tmpfs", "-o", "size=10m,nr_inodes=4", "tmpfs", str(tmp_path)]
    if subprocess.run(["mount", *options], check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        for number in range(3):
            (tmp_path / f"{number}").touch()
        with pytest.raises(OutputError, match=r"10\.5 MB free, but no inode .* delete files there"):
            save_text(tmp_path / "report.html", "")
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_a_link_is_kept_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "volume" / "model")
    for content in ("old", "new"):
        write(tmp_path / "link", content)
        assert held(tmp_path / "volume" / "model")[KIND] == content
    assert (tmp_path / "link").is_symlink()


def test_a_file_system_that_syncs_no_folders_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", fsync)
    write(tmp_path / "model", "content")
    assert held(tmp_path / "model")[KIND] == "content"
