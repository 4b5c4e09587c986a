"""What must hold between keys is refused when Helm renders, with the keys named."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from rendering import Chart


def distributed(**keys: Any) -> Any:
    return {"distributed": keys}


def train(**keys: Any) -> Any:
    return distributed(train=keys)


FILE = {"datasetName": None, "dataFile": "/tmp/pvc-mount/dataset/a.json"}
REFUSED = {
    "a path that a shell would read": (
        train(datasetName=None, dataFile="~/dataset/a.json"),
        "distributed.train.dataFile: found ~/dataset/a.json, but no shell reads ~ in a pod",
    ),
    "such a path where nothing is written or read": (
        distributed(quantize={"peftModelDir": "~/adapter"}),
        "distributed.quantize.peftModelDir: found ~/adapter, but no shell reads ~ in a pod",
    ),
    "more workers than most": (distributed(workers=5), "distributed.workers: found 5, expected from"),
    "fewer workers than fewest": (
        {"elasticPolicy": {"minReplicas": 2}, **distributed(workers=1)},
        "distributed.workers: found 1, expected from elasticPolicy.minReplicas (2)",
    ),
    "fewest above most": (
        {"elasticPolicy": {"minReplicas": 5}},
        "elasticPolicy.minReplicas: found 5, but elasticPolicy.maxReplicas is 4",
    ),
    "waits for more than there are": (
        {"elasticPolicy": {"waitForWorkers": 5}},
        "elasticPolicy.waitForWorkers: found 5, expected from elasticPolicy.minReplicas (1) to",
    ),
    "etcd without a host": (
        {"elasticPolicy": {"rdzvBackend": "etcd-v2"}},
        "elasticPolicy.rdzvHost: none, but",
    ),
    "token that is no base64": (
        {"secret": {"encodedToken": "hf_abc"}},
        "secret.encodedToken: is not a token",
    ),
    "token of bytes": ({"secret": {"encodedToken": "AAECAwQF"}}, "secret.encodedToken: is not a token"),
    "token of several words": ({"secret": {"encodedToken": "YSBi"}}, "secret.encodedToken: is not a token"),
    "two tokens": (
        {"secret": {"encodedToken": "aGZfYQ==", "existingSecret": "mine"}},
        "secret.encodedToken: secret.existingSecret names a Secret already",
    ),
    "label without a value": (
        {"resources": {"nodeSelectorLabel": "a"}},
        "goes with resources.nodeSelectorValue",
    ),
    "value without a label": (
        {"resources": {"nodeSelectorValue": "a"}},
        "goes with resources.nodeSelectorValue",
    ),
    "more CPU asked for than allowed": (
        {"resources": {"cpuRequest": 2, "cpuLimit": "1500m"}},
        "resources.cpuRequest: found 2, which is more than resources.cpuLimit (1500m)",
    ),
    "more memory asked for than allowed": (
        {"resources": {"memoryRequest": "2Gi", "memoryLimit": "2G"}},
        "resources.memoryRequest: found 2Gi, which is more than resources.memoryLimit (2G)",
    ),
    "environment without a name": ({"deploy": {"env": {"enabled": True}}}, "deploy.env.configMapName: none"),
    "a volume's name twice": ({"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}, "the name tmp is taken"),
    "a mount without a volume": (
        {"extraVolumeMounts": [{"name": "lake", "mountPath": "/lake"}]},
        "extraVolumeMounts: no volume has the name lake",
    ),
    "a mount over another": (
        {"extraVolumeMounts": [{"name": "storage", "mountPath": "/dev/shm/"}]},
        "something is mounted at /dev/shm/ already",
    ),
    "a variable twice": (
        {"extraEnv": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]},
        "extraEnv: the name A stands there twice",
    ),
    "data pod asks for more than allowed": (
        {"dataAccess": {"resources": {"requests": {"memory": "2Gi"}}}},
        "dataAccess.resources.requests.memory: found 2Gi, which is more than dataAccess",
    ),
    "no data": (train(datasetName=None), "distributed.train.dataFile: none, and no"),
    "file and data set": (
        train(dataFile="/tmp/pvc-mount/a.json"),
        "distributed.train.datasetName is set too",
    ),
    "output beside the volume": (
        train(outputDir="/output/x"),
        "distributed.train.outputDir: found /output/x",
    ),
    "output that climbs out": (
        train(outputDir="/tmp/pvc-mount/../escaped"),
        "write /tmp/pvc-mount/tmp/escaped",
    ),
    "output beside a like name": (
        train(outputDir="/tmp/pvc-mount2/x"),
        "write /tmp/pvc-mount/tmp/pvc-mount2/x",
    ),
    "output on the mount itself": (train(outputDir="/tmp/pvc-mount"), "write /tmp/pvc-mount/output"),
    "relative output": (train(outputDir="tuned"), "write /tmp/pvc-mount/tuned"),
    "file beside the volume": (
        train(datasetName=None, dataFile="/data/a.json"),
        "write /tmp/pvc-mount/data/a.json",
    ),
    "validation beside the volume": (
        distributed(eval={"dataFile": "heldout.json"}),
        "distributed.eval.dataFile: found heldout.json",
    ),
    "quantized beside the volume": (
        distributed(doQuantize=True, quantize={"outputDir": "/q"}),
        "distributed.quantize.outputDir: found /q",
    ),
    "adapter beside the volume": (
        distributed(doQuantize=True, doTrain=False, quantize={"peftModelDir": "/q"}),
        "distributed.quantize.peftModelDir: found /q",
    ),
    "model folder beside the volume": (
        distributed(modelNameOrPath="demo/out/base"),
        "distributed.modelNameOrPath: found demo/out/base",
    ),
    "cache beside the volume": (
        {"envVars": {"transformersCache": "/tmp/home/hub"}},
        "envVars.transformersCache: found /tmp/home/hub",
    ),
    "defaults on another mount": (
        {"storage": {"pvcMountPath": "/data"}},
        "distributed.train.outputDir: found /tmp/pvc-mount/output/saved_model, which is not below "
        "storage.pvcMountPath (/data); write /data/output/saved_model",
    ),
    "mount over the image": (
        {"storage": {"pvcMountPath": "/workspace/data"}},
        "would hide files of the image",
    ),
    "HF_HOME on the volume": ({"envVars": {"hfHome": "/tmp/pvc-mount/home"}}, "envVars.hfHome: found"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(chart: Chart, name: str) -> None:
    values, said = REFUSED[name]
    assert said in chart.refusal(values)


def test_all_is_told_at_once(chart: Chart) -> None:
    values = {"elasticPolicy": {"rdzvBackend": "etcd"}, **distributed(workers=9, train={"outputDir": "/x"})}
    said = chart.refusal(values)
    for key in ("elasticPolicy.rdzvHost: ", "distributed.workers: ", "distributed.train.outputDir: "):
        assert key in said


def test_a_refusal_never_shows_the_token(chart: Chart) -> None:
    for token in ("hf_abcSECRET", b64encode(b"hf_abc\x00SECRET").decode()):
        assert token not in chart.refusal({"secret": {"encodedToken": token}})


ALLOWED = {
    "file on the volume": train(**FILE),
    "no data for quantizing alone": distributed(
        doTrain=False, doEval=False, doQuantize=True, train={"datasetName": None}
    ),
    "volume elsewhere": {
        "storage": {"pvcMountPath": "/data/"},
        "envVars": {"hfDatasetsCache": "/data/c", "transformersCache": None},
        **train(outputDir="/data/out"),
    },
    "data on a mount of the user's": {
        "extraVolumes": [{"name": "lake", "persistentVolumeClaim": {"claimName": "lake"}}],
        "extraVolumeMounts": [{"name": "lake", "mountPath": "/lake", "readOnly": True}],
        **distributed(modelNameOrPath="/lake/model", train={"datasetName": None, "dataFile": "/lake/a.json"}),
    },
    "etcd": {"elasticPolicy": {"rdzvBackend": "etcd-v2", "rdzvHost": "etcd.infra.svc"}},
    "node label without a value": {
        "resources": {"nodeSelectorLabel": "node-role.kubernetes.io/worker", "nodeSelectorValue": ""}
    },
    "equal amounts in other words": {
        "resources": {"cpuRequest": "2", "cpuLimit": "2000m", "memoryLimit": 4e9}
    },
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(chart: Chart, name: str) -> None:
    assert chart.one("PyTorchJob", ALLOWED[name])


SCHEMA = {
    "unknown key": ({"imagee": {}}, "imagee"),
    "unknown key inside": ({"storage": {"size": "5Gi"}}, "size"),
    "unknown key of the job": (train(epoch=3), "epoch"),
    "no amount": ({"resources": {"memoryLimit": "64 GB"}}, "memoryLimit"),
    "root": ({"securityContext": {"runAsUser": 0}}, "runAsUser"),
    "tag in the name": ({"image": {"name": "registry/x:1"}}, "name"),
    "backend": ({"elasticPolicy": {"rdzvBackend": "static"}}, "rdzvBackend"),
    "label that is no text": ({"podLabels": {"a": True}}, "podLabels"),
    "section removed": ({"storage": None}, "storage"),
    "fractional workers": ({"elasticPolicy": {"maxReplicas": 2.5}}, "maxReplicas"),
}


@pytest.mark.parametrize("name", SCHEMA)
def test_refused_by_the_schema(chart: Chart, name: str) -> None:
    values, named = SCHEMA[name]
    said = chart.refusal(values)
    assert "schema" in said
    assert named in said


def test_a_chart_around_this_one_may_have_globals(chart: Chart) -> None:
    assert chart.render({"global": {"imageRegistry": "x", "deep": {"a": [1]}}})
