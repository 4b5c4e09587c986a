"""What `helm test` finds out in a pod."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_finetune.config import load
from llm_finetune.errors import SettingsError, UserError
from llm_finetune.launcher import helm_test

VARIABLES = ("HF_HOME", "HF_TOKEN_PATH", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "LD_PRELOAD")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def written(folder: Path, output: str = "out") -> Path:
    distributed = load([], set_json=[f'distributed.train.outputDir="{folder / output}"']).settings.to_values()
    file = folder / "settings.json"
    file.write_text(json.dumps({"distributed": distributed}))
    return file


def problems(file: Path, volume: Path) -> list[str]:
    with pytest.raises(UserError) as caught:
        helm_test.main(file, volume)
    return caught.value.problems


def test_all_is_well(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "token").write_text("hf_abc")
    helm_test.main(written(tmp_path), tmp_path)
    said = capsys.readouterr().out
    for what in (
        "settings: ",
        "image: ",
        "token: ",
        "storage.pvcMountPath: ",
        "distributed.train.outputDir: ",
    ):
        assert what in said
    assert "hf_abc" not in said
    assert not (tmp_path / "out").exists()


def test_what_the_image_lacks(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/nowhere/libtcmalloc.so:/nowhere/libiomp5.so")
    (found,) = problems(written(tmp_path), tmp_path)
    assert found == "envVars.ldPreload: the image has no /nowhere/libtcmalloc.so, /nowhere/libiomp5.so"


def test_a_token_with_a_line_break_is_named_and_never_shown(home: Path, tmp_path: Path) -> None:
    (home / "token").write_text("hf_abc\n")
    (found,) = problems(written(tmp_path), tmp_path)
    assert found.startswith(f"{home / 'token'}: expected a token without spaces or line breaks")
    assert "hf_abc" not in found


def test_a_folder_that_cannot_be_written(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (found,) = problems(written(tmp_path, "file"), tmp_path)
    assert found.startswith(f"distributed.train.outputDir: {tmp_path / 'file'}: Not a directory")


def test_wrong_settings(home: Path, tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_text(file.read_text().replace('"epochs": 1', '"epochs": "x"'))
    with pytest.raises(SettingsError, match=r"distributed\.train\.epochs"):
        helm_test.main(file, tmp_path)
