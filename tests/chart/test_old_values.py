"""A values file written for the chart that this one replaces renders, and means what it meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from rendering import Chart, container, environment, helm, settings, worker

from llm_finetune.config import from_values

FILE = Path(__file__).with_name("old_values.yaml")
OLD = yaml.safe_load(FILE.read_text())


def old(*removed: str, **changed: Any) -> Any:
    values = {**OLD, **changed}
    return {section: keys for section, keys in values.items() if section not in removed}


def test_it_says_what_it_said(chart: Chart) -> None:
    job = chart.one("PyTorchJob", OLD)
    spec = job["spec"]
    assert spec["elasticPolicy"] | {"rdzvId": None} == {
        "rdzvBackend": "c10d",
        "rdzvId": None,
        "minReplicas": 1,
        "maxReplicas": 4,
        "maxRestarts": 30,
    }
    assert spec["pytorchReplicaSpecs"]["Worker"]["replicas"] == 4
    main = container(job)
    assert main["image"] == "intel/ai-workflows:torch-2.3.0-huggingface-multinode-py3.10"
    assert main["imagePullPolicy"] == "Always"
    amounts = {"cpu": "32", "memory": "64Gi"}
    assert main["resources"] == {"requests": amounts, "limits": amounts}
    assert main["securityContext"]["allowPrivilegeEscalation"] is False
    assert main["envFrom"] == [{"configMapRef": {"name": "proxy-config"}}]
    assert worker(job)["spec"]["nodeSelector"] == {"node-type": "clx"}
    assert "runAsUser" not in worker(job)["spec"]["securityContext"]


def test_its_variables(chart: Chart) -> None:
    variables = environment(chart.one("PyTorchJob", OLD))
    assert "LD_PRELOAD" not in variables  # left empty: none
    expected = {
        "CCL_WORKER_COUNT": "0",
        "LOG_LEVEL": "INFO",
        "LOGLEVEL": "INFO",
        "HF_HOME": "/tmp/home",
        "HF_DATASETS_CACHE": "/tmp/pvc-mount/hf_dataset_cache",
        "HF_HUB_CACHE": "/tmp/pvc-mount/transformers_cache",
        "https_proxy": "http://proxy:911",
        "HTTPS_PROXY": "http://proxy:911",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert not {"http_proxy", "no_proxy", "HTTP_PROXY"} & set(variables)


def test_its_settings_are_read_by_the_job(chart: Chart) -> None:
    arrived = settings(chart.render(OLD))
    train = from_values(arrived).train
    assert train.dataset_name is None
    assert train.data_file == OLD["distributed"]["train"]["dataFile"]
    assert train.learning_rate == 2e-4
    assert train.lora_target_modules == (
        "q_proj",
        "vproj",
    )  # the job refuses it, since only it knows the model
    for key, value in OLD["distributed"]["train"].items():
        assert arrived["train"].get(key) == value, key


def test_helm_itself_reads_the_file(chart: Chart) -> None:
    """Helm's reader takes 2e-4 for a number, which Python's takes for text."""
    text = helm("template", "llama2-distributed", chart.folder, "-n", "kubeflow", "-f", FILE)
    objects = [found for found in yaml.safe_load_all(text) if found]
    assert from_values(settings(objects)).train.learning_rate == 2e-4
    assert {found["metadata"]["namespace"] for found in objects} == {"kubeflow"}


def test_no_token_no_secret_and_no_mount(chart: Chart) -> None:
    objects = chart.render(OLD)
    assert not [found for found in objects if found["kind"] == "Secret" and "token" in found["data"]]
    (job,) = (found for found in objects if found["kind"] == "PyTorchJob")
    assert "token" not in {volume["name"] for volume in worker(job)["spec"]["volumes"]}


def test_notes_tell_loudly_what_is_not_so_any_more(chart_with_notes: Chart) -> None:
    notes = chart_with_notes.notes(OLD)
    assert "WARNING: image.name is intel/ai-workflows" in notes
    assert "WARNING: metadata has no effect" in notes
    assert "WARNING" not in chart_with_notes.notes(old("metadata", "image"))
