"""What the pods are: hardened, without a sidecar, and with a place to write for whoever runs them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import CHECKOUT, Chart, Object, container, environment, worker

SHIPPED = sorted(CHECKOUT.glob("*_values.yaml"))
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123456789AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"


def pods(objects: list[Object]) -> list[Object]:
    found = []
    for item in objects:
        if item["kind"] == "PyTorchJob":
            found.append(worker(item))
        elif item["kind"] == "StatefulSet":
            found.append(item["spec"]["template"])
        elif item["kind"] == "Pod":
            found.append(item)
    assert len(found) == 3
    return found


def mounts(pod: Object) -> dict[str, Object]:
    return {mount["mountPath"]: mount for mount in pod["spec"]["containers"][0]["volumeMounts"]}


def volumes(pod: Object) -> dict[str, Object]:
    return {volume["name"]: volume for volume in pod["spec"]["volumes"]}


@pytest.mark.parametrize("file", [CHECKOUT / "values.yaml", *SHIPPED], ids=lambda file: file.name)
def test_every_pod_meets_the_restricted_standard_and_says_why_it_failed(chart: Chart, file: Path) -> None:
    for pod in pods(chart.render(None, "-f", str(file))):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        for one in spec["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert one["terminationMessagePolicy"] == "FallbackToLogsOnError"
        for volume in spec["volumes"]:
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}


def test_no_sidecar_unless_asked_for(chart: Chart) -> None:
    for pod in pods(chart.render()):
        assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
        assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "false"
    asked = {"sidecar.istio.io/inject": "true"}
    for pod in pods(chart.render({"podLabels": asked, "podAnnotations": asked})):
        assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "true"
        assert pod["metadata"]["annotations"]["sidecar.istio.io/inject"] == "true"


def test_user_and_groups(chart: Chart) -> None:
    for value in (1000, "1000"):
        values = {"securityContext": {"runAsUser": value, "runAsGroup": value, "fsGroup": value}}
        for pod in pods(chart.render(values)):
            context = pod["spec"]["securityContext"]
            assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (1000, 1000, 1000)
            assert context["fsGroupChangePolicy"] == "OnRootMismatch"
    escalating = chart.render({"securityContext": {"allowPrivilegeEscalation": True}})
    for pod in pods(escalating):
        assert pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is True


def test_places_to_write(chart: Chart) -> None:
    pod = worker(chart.one("PyTorchJob", {"shm": {"sizeLimit": "2Gi"}}))
    by_name = volumes(pod)
    for path in ("/tmp", "/tmp/home", "/dev/shm"):
        assert "emptyDir" in by_name[mounts(pod)[path]["name"]]
    assert by_name["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    limited = chart.render({"tmp": {"sizeLimit": "1Gi"}, "home": {"sizeLimit": "2Gi"}})
    for other in pods(limited):
        sizes = {v["name"]: v["emptyDir"]["sizeLimit"] for v in volumes(other).values() if "emptyDir" in v}
        assert sizes.items() <= {"tmp": "1Gi", "home": "2Gi", "shm": "1Gi"}.items()
    claim = by_name[mounts(pod)["/tmp/pvc-mount"]["name"]]["persistentVolumeClaim"]["claimName"]
    assert claim == chart.one("PersistentVolumeClaim")["metadata"]["name"]


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(b64encode(TOKEN.encode()).decode(), id="as it should be"),
        pytest.param(b64encode(f"{TOKEN}\n".encode()).decode(), id="a line break in the token"),
        pytest.param(b64encode(f"{TOKEN}\r\n".encode()).decode() + "\n", id="and at the end"),
        pytest.param(
            "\n".join(b64encode(f"{TOKEN}\n".encode()).decode()[i : i + 76] for i in (0, 76)), id="wrapped"
        ),
    ],
)
def test_the_token_is_a_file_and_nothing_else(chart: Chart, encoded: str) -> None:
    objects = chart.render({"secret": {"encodedToken": encoded}})
    (secret,) = (item for item in objects if item["kind"] == "Secret" and "token" in item["data"])
    assert b64decode(secret["data"]["token"]).decode() == TOKEN
    assert secret["metadata"]["name"] == "hf-token-secret"
    (job,) = (item for item in objects if item["kind"] == "PyTorchJob")
    mount = mounts(worker(job))["/tmp/home/token"]
    assert mount["readOnly"] is True
    assert "subPath" not in mount  # which would keep the old token where the Secret is renewed
    assert environment(job)["HF_TOKEN_PATH"] == "/tmp/home/token/token"
    source = volumes(worker(job))[mount["name"]]["secret"]
    assert (source["secretName"], source["items"]) == ("hf-token-secret", [{"key": "token", "path": "token"}])
    others = yaml.safe_dump_all(item for item in objects if item["kind"] != "Secret")
    assert TOKEN not in others
    assert encoded.split()[0] not in others


def test_an_existing_secret_and_another_hf_home(chart: Chart) -> None:
    values = {"secret": {"existingSecret": "mine"}, "envVars": {"hfHome": "/cache/hf/"}}
    objects = chart.render(values)
    assert not [item for item in objects if item["kind"] == "Secret" and "token" in item["data"]]
    (job,) = (item for item in objects if item["kind"] == "PyTorchJob")
    assert volumes(worker(job))["token"]["secret"]["secretName"] == "mine"
    assert {"/cache/hf", "/cache/hf/token"} <= set(mounts(worker(job)))
    assert environment(job)["HF_TOKEN_PATH"] == "/cache/hf/token/token"


def test_the_workers_share_a_secret_that_is_a_file_and_no_part_of_the_jobs_name(chart: Chart) -> None:
    """Without a cluster to look into, each rendering makes another; that must not be another job."""
    first, second = chart.render(), chart.render()
    (secret,) = (item for item in first if item["kind"] == "Secret")
    assert len(b64decode(secret["data"]["secret"])) == 48
    (job,) = (item for item in first if item["kind"] == "PyTorchJob")
    (file,) = (value for name, value in environment(job).items() if name == "LLM_FINETUNE_SECRET_FILE")
    folder, _, name = file.rpartition("/")
    mount = mounts(worker(job))[folder]
    assert mount["readOnly"] is True
    assert "subPath" not in mount
    source = volumes(worker(job))[mount["name"]]["secret"]
    assert (source["secretName"], source["items"][0]["path"]) == (secret["metadata"]["name"], name)
    assert secret["data"]["secret"] not in yaml.safe_dump_all(i for i in first if i["kind"] != "Secret")
    assert [i for i in first if i["kind"] != "Secret"] == [i for i in second if i["kind"] != "Secret"]


def test_a_secret_of_the_users_for_charts_that_are_rendered_without_a_cluster(chart: Chart) -> None:
    values = {"jobSecret": {"existingSecret": "mine"}}
    objects = chart.render(values)
    assert objects == chart.render(values)
    assert not [item for item in objects if item["kind"] == "Secret"]
    (job,) = (item for item in objects if item["kind"] == "PyTorchJob")
    assert volumes(worker(job))["job-secret"]["secret"]["secretName"] == "mine"
    assert chart.one("PyTorchJob", {"jobSecret": None})


def test_the_job_meets_the_operator_as_it_is(chart: Chart) -> None:
    spec = chart.one("PyTorchJob")["spec"]
    assert spec["nprocPerNode"] == "1"
    assert "nProcPerNode" not in spec["elasticPolicy"]
    assert spec["runPolicy"]["cleanPodPolicy"] == "None"
    assert spec["runPolicy"]["backoffLimit"] >= 1
    replicas = spec["pytorchReplicaSpecs"]
    assert list(replicas) == ["Worker"]
    assert replicas["Worker"]["restartPolicy"] == "ExitCode"
    assert "restartPolicy" not in replicas["Worker"]["template"]["spec"]
    main = replicas["Worker"]["template"]["spec"]["containers"][0]
    assert main["name"] == "pytorch"
    assert not {"livenessProbe", "readinessProbe", "startupProbe"} & set(main)


def test_etcd_is_asked_where_it_listens(chart: Chart) -> None:
    etcd = {"rdzvBackend": "etcd-v2", "rdzvHost": "etcd.infra"}
    policy = chart.one("PyTorchJob", {"elasticPolicy": etcd})["spec"]["elasticPolicy"]
    assert (policy["rdzvHost"], policy["rdzvPort"]) == ("etcd.infra", 2379)
    policy = chart.one("PyTorchJob", {"elasticPolicy": {**etcd, "rdzvPort": 4001}})["spec"]["elasticPolicy"]
    assert policy["rdzvPort"] == 4001
    assert not {"rdzvHost", "rdzvPort"} & set(chart.one("PyTorchJob")["spec"]["elasticPolicy"])


def test_numbers_are_never_written_as_floats(chart: Chart) -> None:
    values = {
        "elasticPolicy": {"maxReplicas": 1000000, "maxRestarts": "1000000"},
        "activeDeadlineSeconds": 10000000,
        "resources": {"memoryLimit": 68719476736, "cpuRequest": 32},
        "storage": {"uploadTimeoutMinutes": 1000000},
        "envVars": {"cclWorkerCount": 1000000},
    }
    job = chart.one("PyTorchJob", values)
    assert job["spec"]["elasticPolicy"]["maxReplicas"] == 1000000
    assert job["spec"]["elasticPolicy"]["maxRestarts"] == 1000000
    assert job["spec"]["runPolicy"]["activeDeadlineSeconds"] == 10000000
    assert container(job)["resources"] == {"requests": {"cpu": "32"}, "limits": {"memory": "68719476736"}}
    assert container(job)["args"][container(job)["args"].index("--upload-timeout-minutes") + 1] == "1000000"
    assert environment(job)["CCL_WORKER_COUNT"] == "1000000"


def test_a_variable_of_the_users_wins(chart: Chart) -> None:
    extra = [{"name": "LD_PRELOAD", "value": "/lib/x.so"}, {"name": "MINE", "value": "1"}]
    job = chart.one("PyTorchJob", {"extraEnv": extra})
    names = [entry["name"] for entry in container(job)["env"]]
    assert len(names) == len(set(names))
    assert environment(job)["LD_PRELOAD"] == "/lib/x.so"
    assert environment(job)["MINE"] == "1"


def test_a_cpu_limit_is_known_only_where_there_is_one(chart: Chart) -> None:
    def names(**resources: Any) -> set[str]:
        env = container(chart.one("PyTorchJob", {"resources": resources}))["env"]
        return {entry["name"] for entry in env} & {"CPU_LIMIT", "CPU_REQUEST"}

    assert names() == set()
    assert names(cpuLimit=4) == {"CPU_LIMIT"}
    assert names(cpuRequest=4, cpuLimit=4) == {"CPU_LIMIT", "CPU_REQUEST"}


def test_a_removed_key_is_none(chart: Chart) -> None:
    """No key comes back as a default, and none is read as 0, which would end the job at once."""
    removed = {
        "backoffLimit": None,
        "activeDeadlineSeconds": None,
        "ttlSecondsAfterFinished": None,
        "queueName": None,
        "schedulingPolicy": None,
        "image": {"pullPolicy": None},
        "storage": {"storageClassName": None},
        "envVars": {"ldPreload": None, "cclWorkerCount": None, "hfDatasetsCache": None},
        "commonLabels": None,
        "podLabels": None,
        "dataAccess": {"resources": None},
    }
    objects = chart.render(removed)
    (job,) = (item for item in objects if item["kind"] == "PyTorchJob")
    assert job["spec"]["runPolicy"] == {"cleanPodPolicy": "None"}
    assert "imagePullPolicy" not in container(job)
    assert not {"LD_PRELOAD", "CCL_WORKER_COUNT", "HF_DATASETS_CACHE"} & set(environment(job))
    assert "storageClassName" not in chart.one("PersistentVolumeClaim", removed)["spec"]
