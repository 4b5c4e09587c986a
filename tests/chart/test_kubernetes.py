"""Kubernetes and the operator would take what the chart renders; Helm finds nothing to complain of."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from rendering import CHECKOUT, Chart, Object, helm, worker

VALUES = [CHECKOUT / "values.yaml", *sorted(CHECKOUT.glob("*_values.yaml"))]
KUBERNETES = ("1.27", "1.37")
FULL = {
    "commonLabels": {"team": "a"},
    "image": {"pullSecrets": ["r"]},
    "secret": {"existingSecret": "s"},
    "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}],
    "affinity": {"podAntiAffinity": {}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "priorityClassName": "high",
    "podAnnotations": {"a/b": "c"},
    "podLabels": {"a": "b"},
    "serviceAccount": {"create": True, "annotations": {"a": "b"}},
    "securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3},
    "resources": {"cpuLimit": 2, "memoryLimit": "4Gi", "nodeSelectorLabel": "a/b", "nodeSelectorValue": True},
    "elasticPolicy": {"rdzvBackend": "etcd-v2", "rdzvHost": "etcd", "waitForWorkers": 2},
    "extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    "extraVolumes": [{"name": "lake", "persistentVolumeClaim": {"claimName": "lake"}}],
    "extraVolumeMounts": [{"name": "lake", "mountPath": "/lake", "readOnly": True}],
    "queueName": "q",
    "schedulingPolicy": {"minAvailable": 4, "minResources": {"cpu": "4"}, "scheduleTimeoutSeconds": 60},
    "activeDeadlineSeconds": 100,
    "ttlSecondsAfterFinished": 0,
}


def strict(schema: Any) -> Any:
    """A CRD's schema in which a mapping holds no keys but those it knows, as strict validation has it."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    tight = {key: strict(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in schema:
        tight.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        tight.pop("type", None)
    return tight


@pytest.fixture(scope="module")
def operator(shared: Path) -> jsonschema.Draft7Validator:
    text = (shared / "crds" / "kubeflow.org_pytorchjobs.yaml").read_text()
    crd = yaml.load(text, yaml.CSafeLoader)
    schema = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft7Validator(schema)


def job_of(objects: list[Object]) -> Object:
    (job,) = (item for item in objects if item["kind"] == "PyTorchJob")
    return job


@pytest.mark.parametrize("file", VALUES, ids=lambda file: file.name)
def test_shipped_files_lint_and_validate(chart: Chart, file: Path) -> None:
    helm("lint", "--strict", chart.folder, "-f", file)
    validate(chart.render(None, "-f", str(file)))


def test_every_key_at_once_validates(chart: Chart) -> None:
    validate(chart.render(FULL))


@pytest.mark.parametrize("name", ["0", "1e3", "0x1f", "1.5", "null", "true"])
def test_names_that_look_like_numbers_stay_names(
    chart: Chart, operator: jsonschema.Draft7Validator, name: str
) -> None:
    values = {
        "serviceAccount": {"name": name},
        "secret": {"existingSecret": name},
        "image": {"pullSecrets": [name]},
        "priorityClassName": name,
        "queueName": name,
        "resources": {"nodeSelectorLabel": name, "nodeSelectorValue": name},
    }
    for storage in ({"storageClassName": name}, {"existingClaim": name}):
        objects = chart.render({**values, "storage": storage}, "--namespace", "5", release="7")
        validate(objects)
        operator.validate(job_of(objects))


def validate(objects: list[Object]) -> None:
    job = job_of(objects)
    pod = {"apiVersion": "v1", "kind": "Pod", **worker(job)}
    pod["metadata"] = {**pod["metadata"], "name": "worker"}
    for item in [*objects, pod]:
        if item["kind"] != "PyTorchJob":
            for version in KUBERNETES:
                kubernetes_validate.validate(item, version, strict=True)


def test_the_operators_own_schema_takes_the_job(chart: Chart, operator: jsonschema.Draft7Validator) -> None:
    for file in VALUES:
        operator.validate(job_of(chart.render(None, "-f", str(file))))
    full = job_of(chart.render(FULL))
    operator.validate(full)
    full["spec"]["elasticPolicy"]["minReplica"] = 1
    assert not operator.is_valid(full)


def test_a_checkout_packages_small(tmp_path: Path) -> None:
    """Helm reads a whole checkout, and a release is kept in a Secret of 1 MiB at most."""
    checkout = tmp_path / "checkout"
    (checkout / ".venv" / "lib").mkdir(parents=True)
    (checkout / ".venv" / "lib" / "torch.so").write_bytes(bytes(6_000_000))
    for name in ("templates", "scripts", "docs", "demo", "requirements"):
        shutil.copytree(CHECKOUT / name, checkout / name, ignore=shutil.ignore_patterns("out", "__pycache__"))
    for file in CHECKOUT.iterdir():
        if file.is_file():
            shutil.copy(file, checkout)
    helm("package", checkout, "--destination", tmp_path)
    (package,) = tmp_path.glob("*.tgz")
    assert package.stat().st_size < 200_000
    with tarfile.open(package) as archive:
        inside = {name.removeprefix("llm-finetune/").split("/")[0] for name in archive.getnames()}
    assert inside == {
        "Chart.yaml",
        "LICENSE",
        "README.md",
        "templates",
        "values.schema.json",
        "values.yaml",
    }
