"""Settings reach the workers as a file, as they were written."""

from __future__ import annotations

import pytest
from rendering import Chart, container, settings, worker

PROMPTS = {
    "quotes": "a 'single' \"double\" `back` and \\ slash \\n",
    "dollars": "$HOME ${HOME} $(id) $$ %s %(a)s",
    "line breaks": "one\ntwo\r\nthree\rfour\n\n  indented\t\n",
    "braces": "{{ .Values.secret }} {{- end }} {instruction} {%",
    "emoji": "🦭🏽 é \u200d 你好",
    "YAML's own": "--- : # | > & * ! % @ null true 1e6 \u0085 \u2028 \u2029",
    "spaces around": "  x  ",
    "long": "Summarize, then answer. <&> " * 366,
}


@pytest.mark.parametrize("name", PROMPTS)
def test_any_prompt_arrives(chart: Chart, name: str) -> None:
    train = {"promptWithInput": PROMPTS[name], "promptWithoutInput": PROMPTS[name][::-1]}
    arrived = settings(chart.render({"distributed": {"train": train}}))["train"]
    assert arrived["promptWithInput"] == PROMPTS[name]
    assert arrived["promptWithoutInput"] == PROMPTS[name][::-1]


def test_numbers_arrive(chart: Chart) -> None:
    train = {"maxSteps": 1000000, "learningRate": "2e-4", "weightDecay": 1e-20, "seed": 2**32 - 1}
    arrived = settings(chart.render({"distributed": {"train": train}}))["train"]
    assert {key: arrived[key] for key in train} == train
    assert (
        settings(chart.render(None, "--set", "distributed.train.maxSteps=1000000"))["train"]["maxSteps"]
        == 1000000
    )


def test_a_removed_key_is_none(chart: Chart) -> None:
    train = {"datasetName": None, "dataFile": "/tmp/pvc-mount/a.json", "promptWithInput": None}
    arrived = settings(chart.render({"distributed": {"train": train}}))["train"]
    assert arrived.get("datasetName") is None
    assert arrived.get("promptWithInput") is None


def test_other_settings_are_another_file_and_another_job(chart: Chart) -> None:
    def names(epochs: int) -> tuple[str, str]:
        objects = chart.render({"distributed": {"train": {"epochs": epochs}}})
        by_kind = {o["kind"]: o for o in objects}
        mounted = {v["name"]: v for v in worker(by_kind["PyTorchJob"])["spec"]["volumes"]}["settings"]
        assert by_kind["ConfigMap"]["immutable"] is True
        assert mounted["configMap"]["name"] == by_kind["ConfigMap"]["metadata"]["name"]
        return by_kind["ConfigMap"]["metadata"]["name"], by_kind["PyTorchJob"]["metadata"]["name"]

    assert names(2) == names(2)
    assert not set(names(2)) & set(names(3))


def test_all_that_the_job_says_is_in_its_name(chart: Chart) -> None:
    values = [
        {},
        {"shm": {"sizeLimit": "2Gi"}},
        {"queueName": "q"},
        {"podLabels": {"a": "b"}},
        {"backoffLimit": 3},
    ]
    assert len({chart.one("PyTorchJob", v)["metadata"]["name"] for v in values}) == len(values)
    elsewhere = {"commonLabels": {}, "dataAccess": {"image": "busybox:1"}, "replaceRunningJob": True}
    assert (
        chart.one("PyTorchJob", elsewhere)["metadata"]["name"] == chart.one("PyTorchJob")["metadata"]["name"]
    )


def test_the_command_holds_no_value_in_a_shell_string(chart: Chart) -> None:
    job = chart.one("PyTorchJob", {"distributed": {"train": {"promptWithInput": PROMPTS["dollars"]}}})
    assert container(job)["command"] == ["env", "llm-finetune", "worker"]
    assert "HOME" not in str(container(job)["args"])
