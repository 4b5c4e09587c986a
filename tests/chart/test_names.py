"""Names that Kubernetes takes, whatever the release is called, and that stay apart."""

from __future__ import annotations

import re

import pytest
from rendering import Chart, Object, container, worker

LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LONG = "a-release-name-that-is-exactly-fifty-three-characters"
RELEASES = [
    "a",
    "llm-finetune",
    "my-llm-finetune-2",
    "1st-try",
    "with.dots.in-it",
    LONG,
    "9" * 53,
    "a." + "b" * 51,
]


def by_kind(objects: list[Object]) -> dict[str, str]:
    return {item["kind"]: item["metadata"]["name"] for item in objects}


@pytest.mark.parametrize("release", RELEASES)
def test_names_fit(chart: Chart, release: str) -> None:
    names = by_kind(chart.render(release=release))
    for name in names.values():
        assert LABEL.fullmatch(name), name
    assert len(names["PyTorchJob"]) <= 53
    assert len(f"{names['PyTorchJob']}-worker-9999") <= 63
    assert len(f"{names['StatefulSet']}-0123456789") <= 63  # its pods' label controller-revision-hash


def test_two_long_releases_stay_apart(chart: Chart) -> None:
    one, other = (set(by_kind(chart.render(release=LONG[:-1] + end)).values()) for end in "xy")
    assert not one & other
    dots, dashes = (set(by_kind(chart.render(release=name)).values()) for name in ("a.b", "a-b"))
    assert not dots & dashes


def test_overrides(chart: Chart) -> None:
    assert by_kind(chart.render({"nameOverride": "tune"}))["PersistentVolumeClaim"] == "mine-tune-pvc"
    assert by_kind(chart.render({"fullnameOverride": "tune"}))["PersistentVolumeClaim"] == "tune-pvc"


def test_image_and_labels(chart: Chart) -> None:
    digest = "sha256:" + "0" * 64
    job = chart.one("PyTorchJob", {"image": {"name": "registry:5000/x/y", "digest": digest}})
    assert container(job)["image"] == f"registry:5000/x/y@{digest}"
    values = {"commonLabels": {"team": "a"}, "queueName": "q", "image": {"pullSecrets": ["r"]}}
    objects = chart.render(values)
    assert all(item["metadata"]["labels"]["team"] == "a" for item in objects)
    (job,) = (item for item in objects if item["kind"] == "PyTorchJob")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    assert worker(job)["spec"]["imagePullSecrets"] == [{"name": "r"}]


def test_claims(chart: Chart) -> None:
    claim = chart.one("PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    dropped = chart.one("PersistentVolumeClaim", {"storage": {"keep": False}})
    assert "annotations" not in dropped["metadata"]
    others = chart.render({"storage": {"existingClaim": "theirs"}})
    assert "PersistentVolumeClaim" not in by_kind(others)
    # An upgrade that names its own claim must not delete it.
    own = chart.render({"storage": {"existingClaim": claim["metadata"]["name"]}})
    assert by_kind(own)["PersistentVolumeClaim"] == claim["metadata"]["name"]


def test_service_account(chart: Chart) -> None:
    made = chart.render({"serviceAccount": {"create": True}})
    name = by_kind(made)["ServiceAccount"]
    (job,) = (item for item in made if item["kind"] == "PyTorchJob")
    assert worker(job)["spec"]["serviceAccountName"] == name
    named = chart.one("PyTorchJob", {"serviceAccount": {"name": "theirs"}})
    assert worker(named)["spec"]["serviceAccountName"] == "theirs"
    assert "serviceAccountName" not in worker(chart.one("PyTorchJob"))["spec"]
