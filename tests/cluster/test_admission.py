"""Whatever values the schema allows, the API server takes what the chart makes of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, assume, given, settings
from kube import CHART, Namespace, sh
from kubernetes_validate import validate

from random_values import random_values

pytestmark = pytest.mark.cluster

SHIPPED = sorted(file.name for file in CHART.glob("*values*.yaml"))
KUBERNETES = "1.32"
CHECKOV = "checkov==3.3.30"

# checkov's rules that the chart breaks, and why.
EXCEPTIONS = {
    "CKV_K8S_8": "liveness probe: a rank may compute long without a word; the launcher's watch knows better",
    "CKV_K8S_9": "readiness probe: nothing is served, and worker-0 gets its name once it is Ready",
    "CKV_K8S_11": "CPU limit: the user's; a limit throttles what the node has idle",
    "CKV_K8S_13": "memory limit: the user's, who knows the model",
    "CKV_K8S_15": "pullPolicy Always: gigabytes at each start, of an image whose tag does not move",
    "CKV_K8S_40": "user ids from 10000 on: on a volume, the owner of the files decides",
    "CKV_K8S_43": "image.digest: the user's, who pushed the image",
    "CKV2_K8S_6": "network policies: the cluster's own",
}


@pytest.fixture(scope="module")
def package(cluster: Path | None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The chart as an archive: Helm walks through all of a checkout each time."""
    folder = tmp_path_factory.mktemp("package")
    sh("helm", "package", str(CHART), "--destination", str(folder))
    (archive,) = folder.iterdir()
    return str(archive)


def template(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["helm", "template", "random", package, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def objects_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def worker_pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The workers' template as a Pod, which other programs can judge."""
    (job,) = (item for item in objects if item["kind"] == "PyTorchJob")
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    metadata = {**template["metadata"], "name": "worker", "namespace": job["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def admit(space: Namespace, objects: list[dict[str, Any]]) -> None:
    """Asks the API server, which knows the restricted standard for pods, but not for a job's template."""
    objects = [*objects, worker_pod(objects)]
    for pod in (item for item in objects if item["kind"] == "Pod"):
        # A pod must name what there is; a job's template need not yet.
        for key in ("priorityClassName", "serviceAccountName"):
            pod["spec"].pop(key, None)
    text = yaml.safe_dump_all(objects)
    space.kubectl("apply", "--validate=strict", "--dry-run=server", "-f", "-", stdin=text)
    for item in objects:
        if item["kind"] != "PyTorchJob":
            validate(item, KUBERNETES, strict=True)


@pytest.mark.parametrize("file", SHIPPED)
def test_every_shipped_values_file_is_admitted(space: Namespace, package: str, file: str) -> None:
    arguments = ["-n", space.name, "-f", str(CHART / file)]
    sh("helm", "lint", "--strict", package, *arguments)
    admit(space, objects_of(template(package, *arguments)))


# Written as in a pod: their rules are Kubernetes' own, and no schema of ours tells them all.
AS_IN_A_POD = {
    *("affinity", "tolerations", "topologySpreadConstraints", "extraEnv", "extraVolumes"),
    *("extraVolumeMounts", "dataAccess.resources", "schedulingPolicy"),
}
# Whoever sets it to true leaves the restricted standard, and means it.
LOOSENS = {"securityContext.allowPrivilegeEscalation"}
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


# Each example asks Helm and the API server: a failure is told as it came, not made smaller for minutes.
@settings(
    max_examples=100,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(values=random_values(SCHEMA, without=AS_IN_A_POD | LOOSENS))
def test_a_hundred_random_values_are_admitted(
    space: Namespace, package: str, tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    file = tmp_path_factory.mktemp("random") / "values.json"
    file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    arguments = ["-n", space.name, "-f", str(file)]
    done = template(package, *arguments)
    if done.returncode:
        # A rule between keys, which no schema can say, names one of those that were given.
        assert "execution error at" in done.stderr, done.stderr
        assert any(key in done.stderr for key in values), done.stderr
        assume(False)
    sh("helm", "lint", "--strict", package, *arguments)
    admit(space, objects_of(done))


def test_checkov_finds_nothing_but_the_argued_exceptions(package: str, tmp_path: Path) -> None:
    objects = objects_of(template(package, "-n", "space"))
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all([*objects, worker_pod(objects)]))
    checkov = ["uv", "tool", "run", "--from", CHECKOV, "checkov", "--framework", "kubernetes"]
    arguments = ["--skip-download", "--compact", "--output", "json", "--file", str(file)]
    done = subprocess.run([*checkov, *arguments], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 50, done.stderr
    found = {check["check_id"]: check["check_name"] for check in report["results"]["failed_checks"]}
    assert found.keys() <= EXCEPTIONS.keys(), found
    assert found.keys() == EXCEPTIONS.keys(), "an exception that nothing needs"
