"""A release from `helm install` to `helm uninstall` and back, with the demo's values, as NOTES.txt says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kube import CHART, Namespace, Release, sh, until

pytestmark = pytest.mark.cluster

DEMO = ("-f", str(CHART / "demo_values.yaml"))
SHORT = (
    *DEMO,
    *("--set", "distributed.train.maxSteps=20,distributed.train.loggingSteps=5"),
    *("--set", "distributed.benchmark.iterations=5"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user sits: a folder with the demo's files, whose base model has not learned anything yet."""
    home = tmp_path_factory.mktemp("home")
    made = home / "made"
    subprocess.run([sys.executable, str(CHART / "demo" / "make_files.py"), str(made)], check=True)
    (home / "seleki").mkdir()
    shutil.copytree(made / "untrained", home / "seleki" / "base")
    for name in ("train.jsonl", "heldout.jsonl"):
        shutil.copy(made / name, home / "seleki")
    return home


@pytest.fixture(scope="module")
def notes(space: Namespace) -> str:
    return Release("demo", space).install(*SHORT)


@pytest.fixture(scope="module")
def release(space: Namespace, notes: str) -> Release:
    return Release("demo", space)


def commands(notes: str, heading: str) -> list[str]:
    """The command lines below a heading of NOTES.txt."""
    paragraph = next(part for part in notes.split("\n\n") if part.lstrip().startswith(heading))
    return [line.strip() for line in paragraph.splitlines() if line.startswith("    ")]


def test_workers_wait_for_the_data_and_say_what_to_run(release: Release, notes: str) -> None:
    worker = f"pod/{release.worker(0)}"
    # The image of gigabytes comes first.
    release.space.kubectl("wait", worker, "--for=condition=Ready", "--timeout=8m", timeout_seconds=500)
    until(lambda: "kubectl" in release.logs().rpartition("INFO")[2], "what to run", minutes=2)
    assert release.condition() == "Running"


def test_helm_test_finds_nothing_wrong(release: Release, notes: str, home: Path) -> None:
    (command,) = commands(notes, "Check claim")
    assert "Succeeded" in release.space.bash(command, home)


def test_it_trains_once_the_data_is_there(release: Release, notes: str, home: Path) -> None:
    for command in commands(notes, "Upload"):
        release.space.bash(command, home)
    follow = next(command for command in commands(notes, "Watch") if "logs -f" in command)
    told = release.space.bash(follow, home, timeout_seconds=600)
    assert re.search(r"step 20/20 ", told)
    release.wait_for("Succeeded", minutes=2)
    for command in commands(notes, "Watch"):
        if "logs" not in command:
            assert release.space.bash(command, home)


def test_what_is_copied_out_is_loaded_and_used(release: Release, notes: str, home: Path) -> None:
    for command in commands(notes, "When it has succeeded"):
        release.space.bash(command, home)
    tuned = home / "saved_model"
    assert "<html" in (tuned / "report.html").read_text()
    assert json.loads((tuned / "train_results.json").read_text())["steps"] == 20
    adapter = json.loads((tuned / "adapter_config.json").read_text())
    adapter["base_model_name_or_path"] = str(home / "seleki" / "base")
    (tuned / "adapter_config.json").write_text(json.dumps(adapter))
    for folder in (tuned, home / "quantized_model"):
        command = [sys.executable, "-m", "llm_finetune.cli.main", "chat", str(folder)]
        options = ["--instruction", "Make this small.", "--max-new-tokens", "8"]
        assert sh(*command, *options, stdin="menyne\n").strip()


def test_an_unchanged_upgrade_changes_nothing(release: Release) -> None:
    before = release.job()["metadata"]["uid"]
    release.upgrade(*SHORT)
    assert release.job()["metadata"]["uid"] == before


def test_a_changed_upgrade_replaces_the_finished_job(release: Release) -> None:
    before = release.job()["metadata"]["name"]
    release.upgrade(*SHORT, "--set", "distributed.benchmark.iterations=6")
    until(lambda: [job["metadata"]["name"] for job in release.jobs()] != [before], "a new job", minutes=1)
    until(lambda: len(release.jobs()) == 1, "the old job gone", minutes=2)
    release.wait_for("Running", minutes=3)


def test_a_running_job_is_not_replaced_unless_asked(release: Release) -> None:
    running = release.job()["metadata"]["name"]
    other = (*SHORT, "--set", "distributed.benchmark.iterations=7")
    with pytest.raises(AssertionError, match="replaceRunningJob"):
        release.upgrade(*other)
    assert release.job()["metadata"]["name"] == running
    # Training is done and kept: only what is new is done.
    release.wait_for("Succeeded", minutes=5)


def test_uninstall_keeps_the_claim_and_nothing_else(release: Release, notes: str, home: Path) -> None:
    for command in commands(notes, "Remove it"):
        if " delete pvc " not in command:
            release.space.bash(command, home)
    kinds = "pytorchjobs,pods,secrets,configmaps,services,statefulsets,persistentvolumeclaims"
    selector = f"app.kubernetes.io/instance={release.name}"

    def left() -> list[str]:
        return [item["kind"] for item in release.space.get(kinds, "-l", selector)["items"]]

    until(lambda: left() == ["PersistentVolumeClaim"], "all but the claim gone", minutes=2)


SAME_JOB = (*SHORT, "--set", "distributed.benchmark.iterations=6")


def test_a_new_release_finds_what_the_old_one_left(release: Release) -> None:
    release.install(*SAME_JOB)
    release.wait_for("Succeeded", minutes=5)
    assert "nothing to do" in release.logs()
    release.uninstall()


def test_one_of_another_name_takes_the_claim_over(release: Release) -> None:
    (claim,) = release.space.get("persistentvolumeclaims")["items"]
    other = Release("other", release.space)
    other.install(*SAME_JOB, "--set", f"storage.existingClaim={claim['metadata']['name']}")
    other.wait_for("Succeeded", minutes=5)
    assert "nothing to do" in other.logs()
    other.uninstall()
    (kept,) = release.space.get("persistentvolumeclaims")["items"]
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]
