"""NOTES.txt: the next command for each step, with this release's own names."""

from __future__ import annotations

import re
import shlex

from rendering import CHECKOUT, Chart


def commands(notes: str) -> list[str]:
    return [line.strip() for line in notes.splitlines() if line.startswith("    ")]


def test_every_command_names_what_there_is(chart_with_notes: Chart) -> None:
    values = str(CHECKOUT / "financial_chatbot_values.yaml")
    objects = chart_with_notes.render(None, "-f", values, release="chat")
    names = {item["kind"]: item["metadata"]["name"] for item in objects if "metadata" in item}
    job, claim, data_pod = names["PyTorchJob"], names["PersistentVolumeClaim"], f"{names['StatefulSet']}-0"
    known = {"chat", job, f"{job}-worker-0", claim, data_pod, names["Pod"]}
    found = commands(chart_with_notes.notes(None, "-f", values, release="chat"))
    assert len(found) >= 10
    for command in found:
        assert " -n space " in command, command
        assert not re.search(r"<[a-z]|no value", command), command
        words = {word.split(":")[0].split("=")[-1] for word in shlex.split(command)}
        for word in words:
            if word.startswith("chat"):
                assert word in known, command
    text = "\n".join(found)
    for step in ("helm -n space test chat", f"cp financial-alpaca.json {data_pod}:/tmp/pvc-mount/dataset/"):
        assert step in text.replace("'", "")


def test_the_demos_files_are_one_folder(chart_with_notes: Chart) -> None:
    notes = chart_with_notes.notes(None, "-f", str(CHECKOUT / "demo_values.yaml"))
    uploads = [command for command in commands(notes) if ":/tmp/pvc-mount/'" in command]
    assert uploads == ["kubectl -n space cp 'seleki' 'mine-llm-finetune-dataaccess-0:/tmp/pvc-mount/'"]
    assert "seleki is a folder with base, train.jsonl, heldout.jsonl in it:" in notes
    assert "names its base as /tmp/pvc-mount/seleki/base" in notes
    plain = chart_with_notes.notes()
    assert "Upload" not in plain
    assert "names its base" not in plain


def test_what_uninstall_keeps(chart_with_notes: Chart) -> None:
    claim = "mine-llm-finetune-pvc"
    assert f"The claim {claim} stays" in chart_with_notes.notes()
    assert f"the claim {claim} and the model on it are deleted" in chart_with_notes.notes(
        {"storage": {"keep": False}}
    )
    assert "The claim theirs is not this release's and stays" in chart_with_notes.notes(
        {"storage": {"existingClaim": "theirs"}}
    )


def test_without_a_data_pod(chart_with_notes: Chart) -> None:
    notes = chart_with_notes.notes({"dataAccess": {"enabled": False}})
    assert "no pod of this release holds the volume" in notes
    assert "kubectl -n space cp" not in notes


def test_an_upgrade_that_could_not_look(chart_with_notes: Chart) -> None:
    upgraded = chart_with_notes.notes(None, "--is-upgrade")
    assert "WARNING: no job of this release was found" in upgraded
    assert "WARNING" not in chart_with_notes.notes()
