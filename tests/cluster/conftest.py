"""The cluster, the image and a namespace under the restricted Pod Security Standard."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from kube import CHART, MOUNT, Namespace, sh

TEST_CLUSTER = CHART.parent / "shared" / "cluster" / "cluster"
IMAGE = "localhost/llm-finetune:test"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path | None]:
    """The cluster that the kubeconfig names, else the test cluster beside the checkout, with two nodes.

    A test cluster that did not run before is taken away again, with all that is on its disks.

    Yields:
        The test cluster's own command where it is that one, None for a user's cluster.
    """
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = _environment_of_test_cluster()
    named = os.environ.get("KUBECONFIG") != own.get("KUBECONFIG")
    if named and _succeeds("kubectl", "config", "current-context"):
        yield None
        return
    if not own:
        pytest.exit("the kubeconfig names no cluster, and none stands beside the checkout", returncode=2)
    os.environ["KUBECONFIG"] = own["KUBECONFIG"]
    os.environ["PATH"] = own["PATH"].replace("$PATH", os.environ["PATH"])
    if _succeeds("kubectl", "get", "--raw", "/readyz", "--request-timeout=5s"):
        yield TEST_CLUSTER
        return
    sh(str(TEST_CLUSTER), "up", "2", timeout_seconds=1800)
    yield TEST_CLUSTER
    sh(str(TEST_CLUSTER), "down", "--wipe")


def _environment_of_test_cluster() -> dict[str, str]:
    if not TEST_CLUSTER.exists():
        return {}
    exports = sh(str(TEST_CLUSTER), "env").replace("export ", "").split(";")
    return dict(export.strip().split("=", 1) for export in exports)  # type: ignore[misc]


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="session")
def cluster_values(cluster: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is the cluster's own: the image, and its storage. $VALUES names it for a user's cluster."""
    if "VALUES" in os.environ:
        return Path(os.environ["VALUES"]).resolve()
    if cluster is None:
        pytest.exit(
            "VALUES=FILE must name a values file with image and storage of your cluster", returncode=2
        )
    # The cluster's stand-in for the base image has its name and not its digest.
    arguments = [
        f"--build-arg={name}" for name in ("STACK=upstream", "PYTHON_IMAGE=python:3.11-slim-bookworm")
    ]
    sh(str(cluster), "image", IMAGE, str(CHART), *arguments, timeout_seconds=1200)
    name, tag = IMAGE.split(":")
    file = tmp_path_factory.mktemp("cluster") / "values.yaml"
    # The tag moves with each build.
    file.write_text(yaml.safe_dump({"image": {"name": name, "tag": tag, "pullPolicy": "Always"}}))
    return file


@pytest.fixture(scope="module")
def new_namespace(cluster_values: Path) -> Iterator[Callable[[], Namespace]]:
    """Makes namespaces that admit only what the restricted Pod Security Standard allows."""
    made: list[str] = []

    def make() -> Namespace:
        name = f"llm-finetune-{uuid.uuid4().hex[:6]}"
        sh("kubectl", "create", "namespace", name)
        made.append(name)
        sh("kubectl", "label", "namespace", name, RESTRICTED)
        return Namespace(name, cluster_values)

    yield make
    if made:
        sh("kubectl", "delete", "namespace", *made, "--wait=false")


@pytest.fixture(scope="module")
def space(new_namespace: Callable[[], Namespace]) -> Namespace:
    """One namespace for the tests of a module."""
    return new_namespace()


@pytest.fixture(scope="session")
def tiny_job(model_folder: Path, data_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the volume: a tiny model, records, and the values that name them there."""
    folder = tmp_path_factory.mktemp("job") / "tiny"
    shutil.copytree(model_folder, folder / "base")
    shutil.copy(data_file, folder)
    train = {"datasetName": None, "dataFile": f"{MOUNT}/tiny/{data_file.name}", "maxSeqLength": 128}
    train |= {"ddpBackend": "gloo", "bf16": "auto", "loggingSteps": 1}
    values = {"workers": 2, "modelNameOrPath": f"{MOUNT}/tiny/base", "train": train}
    (folder / "values.yaml").write_text(yaml.safe_dump({"distributed": values}))
    return folder
