"""What is generated agrees with the models, and the schema agrees with them under real Helm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from throwaway_chart import HELM, Chart

from llm_finetune.config import Settings, codegen, from_values, load
from llm_finetune.config.fields import Key, keys
from llm_finetune.errors import SettingsError

CHECKOUT = Path(__file__).parents[2]
SCHEMA = (CHECKOUT / "values.schema.json").read_text()


def settings_or_none(*options: str) -> Settings | None:
    try:
        return load([], set_json=options).settings
    except SettingsError:
        return None


def every_key(tree: dict[str, Any], above: str = "distributed") -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{above}.{name}"
        keys |= every_key(value, path) if isinstance(value, dict) else {path: value}
    return keys


KEYS = every_key(load([]).settings.to_values())


def test_files_agree_with_the_models() -> None:
    assert codegen.main(["--check"]) == 0


def test_check_names_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "values.yaml"
    stale.write_text("old")
    monkeypatch.setattr(codegen, "generated", lambda checkout: {stale: "new"})
    assert codegen.main(["--check"]) == 1
    assert "values.yaml differs" in capsys.readouterr().err
    assert codegen.main([]) == 0
    assert stale.read_text() == "new"


def test_a_file_without_its_markers_is_refused(tmp_path: Path) -> None:
    for folder in ("docs", "templates"):
        (tmp_path / folder).mkdir()
    for name in ("values.yaml", "values.schema.json", "docs/configuration.md", "templates/_old_names.tpl"):
        (tmp_path / name).write_text((CHECKOUT / name).read_text())
    (tmp_path / "docs" / "configuration.md").write_text("# Title\n")
    with pytest.raises(ValueError, match=r"configuration\.md: expected one line `<!-- keys"):
        codegen.generated(tmp_path)


def test_help_and_documentation_name_every_key() -> None:
    page = (CHECKOUT / "docs" / "configuration.md").read_text()
    for path in KEYS:
        assert f"{path}  (" in codegen.help_text()
        section, _, name = path.rpartition(".")
        assert f"| `{name}` |" in page.split(f"\n## {section}\n")[1].split("\n## ")[0]


def test_descriptions_are_one_short_sentence() -> None:
    for path, key in keys(Settings):
        assert key.description.endswith("."), path
        assert len(key.description) <= 160, path


PROBES = [None, True, False, 0, 1, -1, 2, 7, 8, 8.0, 0.2, 1e6, 2**32, "8", "2e-4", "1e+06", "true", "auto"]
PROBES += [
    "",
    " ",
    "text",
    "no",
    "steps",
    "RTN",
    "q_proj k_proj",
    "mlflow tensorboard",
    [],
    ["mlflow"],
    ["a", 1],
    {},
]


def test_the_schema_accepts_what_the_models_accept() -> None:
    """Key by key, over values of every type. Beyond the schema is only the size of a number in a string."""
    root = json.loads(SCHEMA)["properties"]["distributed"]
    agreed = refused = 0
    for path, key in keys(Settings):
        schema = root
        for name in path.split("."):
            schema = schema["properties"][name]
        for probe in PROBES:
            passes = jsonschema.Draft7Validator(schema).is_valid(probe)
            if reads(key, probe):
                assert passes, (path, probe)
                agreed += 1
            else:
                assert not passes or isinstance(probe, str), (path, probe)
                refused += not passes
    assert min(agreed, refused) > 200


def reads(key: Key, probe: Any) -> bool:
    try:
        key.read(probe)
    except ValueError:
        return False
    return True


GOOD = [
    "distributed.train.epochs=3.0",
    "distributed.train.maxSteps=1e+06",
    'distributed.train.learningRate="2e-4"',
    'distributed.train.bf16="auto"',
    "distributed.train.saveStrategy=false",
    'distributed.train.loraTargetModules=["q_proj","k_proj"]',
    "distributed.train.reportTo=null",
    "distributed.train.datasetConfig=null",
    'distributed={"train":{"datasetName":null,"dataFile":"/data/a.json"}}',
]
BAD = [
    "distributed.train.epochs=0",
    "distributed.train.epochs=null",
    "distributed.train.epochs=1.5",
    'distributed.train.epochs="three"',
    "distributed.train.epoch=3",
    "distributed.train.outputDir=5",
    'distributed.doTrain="true"',
    "distributed.train.bf16=1",
    "distributed.train.loggingSteps=1.5",
    'distributed.train.saveStrategy="epochs"',
    'distributed.train.reportTo="wandb"',
    "distributed.train=null",
    "distributed.train=5",
    "distributed=null",
]


@pytest.mark.skipif(HELM is None, reason="needs helm")
def test_helm_and_the_job_refuse_the_same(tmp_path: Path) -> None:
    chart = Chart.make(tmp_path / "chart", (CHECKOUT / "values.yaml").read_text(), SCHEMA)
    together = [part for option in GOOD for part in ("--set-json", option)]
    assert chart.values(*together) is not None
    assert settings_or_none(*GOOD) is not None
    for option in BAD:
        assert chart.values("--set-json", option) is None, option
        assert settings_or_none(option) is None, option


@pytest.mark.skipif(HELM is None, reason="needs helm")
def test_what_the_chart_mounts_is_what_the_workstation_loads(tmp_path: Path) -> None:
    """Helm's merged section as JSON, removed keys absent, read back without the chart's values beneath."""
    chart = Chart.make(tmp_path / "chart", (CHECKOUT / "values.yaml").read_text(), SCHEMA)
    options = [
        "distributed.train.datasetName=null",
        "distributed.train.promptWithInput=null",
        'distributed.train.promptWithoutInput="a $(quote) \\" and\\na break"',
        'distributed.train.dataFile="/data/a.json"',
    ]
    merged = chart.values(*[part for option in options for part in ("--set-json", option)])
    assert merged is not None
    assert "datasetName" not in merged["distributed"]["train"]
    mounted = from_values(merged["distributed"])
    assert mounted == settings_or_none(*options)
    assert mounted.train.dataset_name is None
    assert mounted.train.prompt_with_input is None
    assert from_values(json.loads(json.dumps(mounted.to_values()))) == mounted
