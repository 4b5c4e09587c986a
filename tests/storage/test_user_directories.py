"""Caches of what is run are nobody else's to write; without a home that can be written there is a way."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_finetune.kernels.compile import compiled
from llm_finetune.pipeline.prepare_data import cache_folder
from llm_finetune.storage import user_directories

NOBODY = 65534


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; no cache is named."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_DATASETS_CACHE", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    user_directories.private_cache.cache_clear()
    user_directories.private_temporary.cache_clear()
    return place


def given_away(path: Path) -> None:
    if os.geteuid():
        pytest.skip("giving a file away needs root")
    os.chown(path, NOBODY, NOBODY)


def turned_into_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


FOREIGN: dict[str, Callable[[Path], object]] = {
    "others": lambda path: path.chmod(0o777),
    "the group": lambda path: path.chmod(0o770),
    "its owner": given_away,
    "whoever made the link": turned_into_a_link,
}


@pytest.mark.parametrize("spoil", FOREIGN.values(), ids=list(FOREIGN))
def test_a_folder_that_somebody_else_could_fill_is_not_taken_and_that_is_said(
    spoil: Callable[[Path], object],
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = user_directories.private_cache("compiled")
    assert folder == Path.home() / ".cache" / "llm-finetune" / "compiled"
    assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
    spoil(folder)
    user_directories.private_cache.cache_clear()
    other = user_directories.private_cache("compiled")
    assert other == temporary / f"llm-finetune-{os.getuid()}" / "compiled"
    assert str(folder) in caplog.text
    assert f"{other} is taken in its place" in caplog.text
    # The one among the temporary folders may be foreign too.
    spoil(other.parent)
    user_directories.private_cache.cache_clear()
    user_directories.private_temporary.cache_clear()
    assert user_directories.private_cache("compiled").parent not in (folder.parent, other.parent)
    named = temporary.parent / "volume"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(named))
    user_directories.private_cache.cache_clear()
    assert user_directories.private_cache("compiled") == named / "llm-finetune" / "compiled"


@pytest.mark.parametrize("spoil", FOREIGN.values(), ids=list(FOREIGN))
def test_a_library_that_somebody_else_could_have_put_there_is_compiled_anew(
    spoil: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("gcc"):
        pytest.skip("needs a compiler")
    monkeypatch.setattr("llm_finetune.kernels.compile.ALWAYS", ("-fPIC", "-shared"))
    source = tmp_path / "own.c"
    source.write_text("int whose(void) { return 1; }")
    assert compiled([source], []).whose() == 1
    (kept,) = user_directories.private_cache("compiled").glob("*.so")
    before = kept.stat().st_ino
    assert compiled([source], []).whose() == 1
    assert kept.stat().st_ino == before
    theirs = tmp_path / "theirs.c"
    theirs.write_text("int whose(void) { return 2; }")
    os.system(f"gcc -fPIC -shared {theirs} -o {kept}.new && mv {kept}.new {kept}")
    kept.chmod(0o700)
    spoil(kept)
    assert compiled([source], []).whose() == 1


def test_a_home_that_is_read_only_leaves_no_folder_at_each_start(temporary: Path, tmp_path: Path) -> None:
    (tmp_path / "home").touch()  # no folder can be made in it, not even by root
    folders = set()
    for _ in range(2):
        user_directories.private_cache.cache_clear()
        user_directories.private_temporary.cache_clear()
        folders.add(user_directories.private_cache("compiled"))
    assert len(folders) == 1
    assert len(list(temporary.iterdir())) == 1


def test_without_home_and_name_there_is_both(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    own = temporary / f"llm-finetune-{os.getuid()}"
    assert cache_folder().is_relative_to(own)
    user_directories.provide()
    assert os.environ["HOME"] == str(own)
    assert os.environ["USER"]
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(own)
