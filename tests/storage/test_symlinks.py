"""Links in a model folder: the Hub and Kubernetes lay such, and none gives away what lies elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llm_finetune.errors import ModelError
from llm_finetune.export.merge import merge
from llm_finetune.models.model_directory import kind_of
from llm_finetune.models.resolve import fetch


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def as_the_hub_caches(model: Path, place: Path) -> Path:
    snapshot, blobs = place / "snapshots" / "0a1b", place / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in model.iterdir():
        shutil.copyfile(file, blobs / f"{hash(file.name):x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{hash(file.name):x}")
    return snapshot


def as_kubernetes_projects(model: Path, place: Path) -> Path:
    shutil.copytree(model, place / "..2026_11")
    (place / "..data").symlink_to("..2026_11")
    for file in model.iterdir():
        (place / file.name).symlink_to(Path("..data") / file.name)
    return place


@pytest.mark.parametrize("laid", [as_the_hub_caches, as_kubernetes_projects])
def test_layouts_that_are_made_of_links_serve(laid, folder: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    place = laid(folder, tmp_path / "laid")
    (tmp_path / "link").symlink_to(place)
    for name in (place, tmp_path / "link"):
        assert fetch(str(name), None, weights=True, code=False) == name
    assert merge(tmp_path / "link", tmp_path / "merged")
    assert not any(file.is_symlink() for file in (tmp_path / "merged").iterdir())


@pytest.mark.parametrize("kind", ["config.json", "adapter_config.json", "quantization.json"])
@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "more.py", "notes.txt"])
def test_a_link_that_leads_out_is_refused_by_name(name: str, kind: str, folder: Path, tmp_path: Path) -> None:
    (folder / kind).touch()
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(ModelError) as raised:
        kind_of(folder)
    with pytest.raises(ModelError, match="a link that leads out"):
        fetch(str(folder), None, weights=False, code=False)
    assert f"{folder / name}: a link that leads out of the model's folder, to {secret}" in str(raised.value)


def test_folders_named_as_the_hubs_do_not_open_what_lies_beside_them(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "secret").touch()
    snapshot = tmp_path / "theirs" / "snapshots" / "1"
    shutil.copytree(folder, snapshot)
    (tmp_path / "theirs" / "blobs").symlink_to(tmp_path / "mine")
    (snapshot / "notes.txt").symlink_to("../../blobs/secret")
    with pytest.raises(ModelError, match=r"notes\.txt: a link that leads out"):
        fetch(str(snapshot), None, weights=True, code=False)


@pytest.mark.parametrize("named", ["../elsewhere.safetensors", "/elsewhere.safetensors"])
def test_an_index_names_files_of_its_folder_alone(named: str, folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": named}}))
    with pytest.raises(ModelError, match="which is no file of this folder"):
        fetch(str(folder), None, weights=True, code=False)


@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_the_base_is_published_only_where_it_is_trusted(
    trusted: bool, folder: Path, tmp_path: Path
) -> None:
    (folder / "modeling_own.py").touch()
    file = folder / "config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "auto_map": {"AutoModel": "modeling_own.Own"}})
    )
    merge(folder, tmp_path / "merged", trust_remote_code=trusted)
    assert (tmp_path / "merged" / "modeling_own.py").exists() == trusted
    assert ("auto_map" in json.loads((tmp_path / "merged" / "config.json").read_text())) == trusted
