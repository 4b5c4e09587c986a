"""Values files and options in, settings or one clear line per problem out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_finetune.config import from_values, load, load_merged
from llm_finetune.errors import SettingsError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a values file into the working folder and returns its name."""
    monkeypatch.chdir(tmp_path)

    def file(text: str, name: str = "mine.yaml") -> Path:
        Path(name).write_text(text)
        return Path(name)

    return file


def under(dotted: str, value: str) -> str:
    """`a.b`, value as YAML: each key on a line of its own."""
    *groups, name = dotted.split(".")
    lines = [f"{'  ' * depth}{group}:" for depth, group in enumerate(groups)]
    return "\n".join([*lines, f"{'  ' * len(groups)}{name}: {value}"]) + "\n"


def problems(*arguments: Any, **options: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(*arguments, **options)
    return caught.value.problems


# Key, value as YAML, and what the line must say after `mine.yaml: distributed.<key>: `.
BROKEN = [
    # unknown keys
    ("train.epoch", "3", "unknown key; did you mean epochs?"),
    ("train.learning_rate", "3", "unknown key; did you mean learningRate?"),
    ("train.LoraRank", "3", "unknown key; did you mean loraRank?"),
    ("train.qqqq", "3", "unknown key"),
    ("epochs", "3", "unknown key; did you mean distributed.train.epochs?"),
    ("trian", "{epochs: 3}", "unknown key; did you mean train?"),
    ("train.epoch", "null", "unknown key; did you mean epochs?"),
    # whole numbers
    ("train.epochs", "three", 'found "three" (string), expected a whole number, 1 or more'),
    ("train.epochs", "0", "found 0 (number), expected a whole number, 1 or more"),
    ("train.epochs", "1.5", "found 1.5 (number), expected a whole number, 1 or more"),
    ("train.epochs", "true", "found true (boolean), expected a whole number, 1 or more"),
    ("train.epochs", "[3]", "found [3] (list), expected a whole number, 1 or more"),
    ("train.epochs", "{a: 3}", "found a group of keys (a), expected a whole number, 1 or more"),
    ("train.epochs", "", "removed (null), expected a whole number, 1 or more"),
    ("train.epochs", "'2.5e0'", 'found "2.5e0" (string), expected a whole number, 1 or more'),
    ("train.maxSteps", "0", "found 0 (number), expected a whole number, 1 or more, or -1"),
    ("train.maxSteps", "-2", "found -2 (number), expected a whole number, 1 or more, or -1"),
    (
        "train.epochs",
        "'3e9'",
        'found "3e9" (string), expected a whole number, 1 or more; 2147483647 at most',
    ),
    (
        "processesPerWorker",
        "1e9",
        "found 1000000000 (number), expected a whole number, from 1 to 1024",
    ),
    ("train.maxSeqLength", "7", "found 7 (number), expected a whole number, 8 or more"),
    ("train.saveTotalLimit", "0", "found 0 (number), expected a whole number, 1 or more, or null (all)"),
    ("train.seed", "-1", "found -1 (number), expected a whole number, from 0 to 4294967295"),
    ("workers", "0", "found 0 (number), expected a whole number, 1 or more"),
    ("quantize.woqBits", "9", "found 9 (number), expected a whole number, from 1 to 8"),
    ("benchmark.coresPerInstance", "0", "found 0 (number), expected a whole number, 1 or more, or -1"),
    # numbers
    ("train.learningRate", "0", "found 0 (number), expected a number, above 0"),
    ("train.learningRate", "2e-4x", 'found "2e-4x" (string), expected a number, above 0'),
    ("train.learningRate", "'nan'", 'found "nan" (string), expected a number, above 0'),
    ("train.learningRate", "1e999", 'found "1e999" (string), expected a number, above 0'),
    ("train.loraDropout", "1", "found 1 (number), expected a number, 0 or more and below 1"),
    ("train.warmupRatio", "true", "found true (boolean), expected a number, 0 or more and below 1"),
    ("eval.validationSplitPercentage", "20", "found 20 (number), expected a number, 0 or more and below 1"),
    ("rendezvousTimeoutMinutes", "-1", "found -1 (number), expected a number, above 0 and 10080 at most"),
    (
        "train.loggingSteps",
        "1.5",
        "found 1.5 (number), expected a whole number, 1 or more, or a share of all steps from 0 to below 1",
    ),
    # true and false
    (
        "doTrain",
        '"true"',
        'found "true" (string), expected true or false; write true without quotes; '
        "use --set, not --set-string",
    ),
    ("doTrain", "1", "found 1 (number), expected true or false"),
    ("train.useLora", "", "removed (null), expected true or false"),
    # text
    ("train.outputDir", "5", 'found 5 (number), expected text; write "5" in quotes, or use --set-string'),
    ("train.outputDir", '""', 'found "" (string), expected text'),
    ("modelNameOrPath", "", "removed (null), expected text"),
    ("modelNameOrPath", "[a]", 'found ["a"] (list), expected text'),
    (
        "train.datasetConfig",
        "true",
        "found true (boolean), expected text, or null (its default); "
        'write "true" in quotes, or use --set-string',
    ),
    # one of a few
    ("logLevel", "INFO", 'found "INFO" (string), expected one of debug, info, warning, error, critical'),
    ("train.bf16", '"true"', 'found "true" (string), expected one of true, false, auto'),
    ("train.bf16", "1", "found 1 (number), expected one of true, false, auto"),
    ("train.saveStrategy", "true", "found true (boolean), expected one of no, steps, epoch"),
    ("train.ddpBackend", "nccl", 'found "nccl" (string), expected one of ccl, gloo'),
    (
        "train.lrScheduler",
        "cosin",
        'found "cosin" (string), expected one of linear, cosine, constant, constant_with_warmup, polynomial, '
        "inverse_sqrt, cosine_with_restarts",
    ),
    ("quantize.woqScheme", "", "removed (null), expected one of sym, asym"),
    # names
    (
        "train.reportTo",
        "wandb",
        'found "wandb" (string), expected names of tensorboard, mlflow, with spaces between, '
        "or null (nowhere)",
    ),
    (
        "train.loraTargetModules",
        "[q_proj, 5]",
        'found ["q_proj", 5] (list), expected names, with spaces between, '
        "or null (only where useLora is false)",
    ),
    # groups
    ("train", "5", "found 5 (number), expected a group of keys"),
    ("eval", "", "found nothing (null), expected a group of keys"),
    # between keys
    (
        "train.dataFile",
        "a.json",
        "datasetName and dataFile are both set; write `datasetName: null` to use the file, "
        "or `dataFile: null` to use the data set",
    ),
    (
        "train.datasetName",
        "",
        "neither datasetName nor dataFile is set; write the name of a Hub data set or the path of a file",
    ),
    (
        "eval.loadBestModel",
        "true",
        "needs evaluations during training; write `strategy: epoch` or `strategy: steps` beside it, "
        "or false here",
    ),
    (
        "eval.earlyStoppingPatience",
        "2",
        "needs evaluations during training; write `strategy: epoch` or `strategy: steps` beside it, "
        "or 0 here",
    ),
    (
        "train.loraTargetModules",
        "",
        "names no module, but useLora is true; name some, such as `q_proj v_proj`, or write `useLora: false`",
    ),
]


@pytest.mark.parametrize(("key", "value", "line"), BROKEN)
def test_one_broken_key_is_one_line(write: Write, key: str, value: str, line: str) -> None:
    mine = write(under(f"distributed.{key}", value))
    assert problems([mine]) == [f"mine.yaml: distributed.{key}: {line}"]


# Broken only together: the options of --set, and the key and a part of the line.
TOGETHER = [
    (["doEval=false", "eval.strategy=epoch"], "eval.strategy", "write `doEval: true`"),
    (["eval.strategy=steps", "eval.loadBestModel=true"], "eval.loadBestModel", "write `saveStrategy: steps`"),
    (
        ["eval.strategy=steps", "train.saveStrategy=steps", "eval.loadBestModel=true", "eval.steps=300"],
        "eval.loadBestModel",
        "train.saveSteps (500) is not a multiple of eval.steps (300)",
    ),
    (["train.outputDir=/out/" + 256 * "x"], "train.outputDir", "no file system takes that as a path"),
    (["train.outputDir=" + 5000 * "/a"], "train.outputDir", "no file system takes that as a path"),
    *(
        ([f"{key}=~/a b"], key, f"write {Path.home()}/a b, or ./~/a b")
        for key in ("modelNameOrPath", "train.outputDir", "quantize.outputDir", "quantize.peftModelDir")
    ),
    (["train.datasetName=null", "train.dataFile=~user/a"], "train.dataFile", "no shell reads ~ here"),
    (["modelNameOrPath=a\0b"], "modelNameOrPath", "no file system takes that as a path"),
    (["train.useLora=false", "train.useDora=true"], "train.useDora", "useLora is false"),
    (["train.useLora=false", "train.useRslora=true"], "train.useRslora", "useLora is false"),
    (
        ["train.datasetName=null", "train.dataFile=a.json", "eval.validationSplitPercentage=0"],
        "eval.validationSplitPercentage",
        "nothing is left to evaluate on",
    ),
]


@pytest.mark.parametrize(("options", "key", "part"), TOGETHER)
def test_keys_that_do_not_fit_together(options: list[str], key: str, part: str) -> None:
    (line,) = problems([], set_values=[f"distributed.{option}" for option in options])
    assert line.startswith(f"--set: distributed.{key}: ")
    assert part in line


@pytest.mark.parametrize(
    "options",
    [
        ["eval.strategy=epoch", "eval.loadBestModel=true", "eval.earlyStoppingPatience=3"],
        ["eval.strategy=steps", "train.saveStrategy=steps", "eval.loadBestModel=true", "eval.steps=250"],
        ["train.useLora=false", "train.loraTargetModules=null"],
        ["train.datasetName=null", "train.dataFile=a.json"],
        ["train.datasetName=", "train.dataFile=a.json"],
        ["train.datasetName=null", "doTrain=false", "doEval=false"],
        ["eval.validationSplitPercentage=0"],
        [
            "train.datasetName=null,distributed.train.dataFile=a",
            "eval.validationSplitPercentage=0",
            "doEval=false",
        ],
    ],
)
def test_keys_that_fit_together(options: list[str]) -> None:
    load([], set_values=[f"distributed.{option}" for option in options])


def test_all_problems_of_all_files_at_once(write: Write) -> None:
    first = write("distributed: {train: {epoch: 3, epochs: three}}\nimages: {}\n", "first.yaml")
    second = write(
        "distributed:\n  eval: {steps: 0}\n  train: {dataFile: a.json, useLora: yess}\n", "second.yaml"
    )
    found = problems([first, second], set_values=["distributed.workers=x"])
    assert sorted(found) == [
        '--set: distributed.workers: found "x" (string), expected a whole number, 1 or more',
        "first.yaml: distributed.train.epoch: unknown key; did you mean epochs?",
        'first.yaml: distributed.train.epochs: found "three" (string), expected a whole number, 1 or more',
        "first.yaml: images: unknown key; did you mean image?",
        "second.yaml: distributed.eval.steps: found 0 (number), expected a whole number, 1 or more",
        "second.yaml: distributed.train.dataFile: datasetName and dataFile are both set; "
        "write `datasetName: null` to use the file, or `dataFile: null` to use the data set",
        'second.yaml: distributed.train.useLora: found "yess" (string), expected true or false',
    ]


def test_files_that_cannot_be_read_do_not_hide_other_problems(write: Write) -> None:
    broken = write("distributed: {\n", "broken.yaml")
    items = write("- a\n", "items.yaml")
    mine = write("distributed: {workers: x, train: {datasetName: null}}\n")
    found = problems([broken, items, Path("absent.yaml"), mine], set_values=["a", "distributed.script.x=1,b"])
    assert found[0].startswith("broken.yaml: not YAML: line 2: ")
    # And no word about data: one of the files that cannot be read may have said where it is.
    assert found[1:] == [
        "items.yaml: expected keys with values (`distributed:` and so on), found something else",
        "absent.yaml: No such file or directory",
        "--set a: key 'a' has no value",
        "--set distributed.script.x=1,b: key 'b' has no value",
        'mine.yaml: distributed.workers: found "x" (string), expected a whole number, 1 or more',
    ]


def test_a_later_file_mends_an_earlier_one_and_is_blamed_for_its_own(write: Write) -> None:
    first = write("distributed: {train: {epochs: three, outputDir: /a}}\n", "first.yaml")
    second = write("distributed: {train: {epochs: 3}}\n", "second.yaml")
    assert load([first, second]).settings.train.epochs == 3
    assert problems([second, first])[0].startswith("first.yaml: distributed.train.epochs: ")
    assert problems([first, second], set_strings=["distributed.train.epochs=x"])[0].startswith(
        "--set-string: "
    )


def test_unknown_sections_are_refused(write: Write) -> None:
    mine = write("imagee: {name: a}\ntrain: {epochs: 3}\nzzz: 1\nglobal: {a: 1}\n")
    found = problems([mine])
    assert found[:2] == [
        "mine.yaml: imagee: unknown key; did you mean image?",
        "mine.yaml: train: unknown key; did you mean distributed.train?",
    ]
    assert found[2].startswith("mine.yaml: zzz: unknown key; known: ")
    assert " image, " in found[2]
    assert len(found) == 3


def test_null_never_brings_a_default_back(write: Write) -> None:
    mine = write(
        "distributed:\n  train:\n    datasetName:\n    dataFile: a.json\n    promptWithInput: null\n"
        "    reportTo:\n    saveTotalLimit: null\n"
    )
    train = load([mine]).settings.train
    assert train.dataset_name is None
    assert train.prompt_with_input is None
    assert train.report_to is None
    assert train.save_total_limit is None


@pytest.mark.parametrize("spelled", ["8", "8.0", "0x8", "0o10", '"8"', "'8.0'", "8e0", '"8e+00"'])
def test_whole_numbers_in_every_spelling(write: Write, spelled: str) -> None:
    settings = load([write(under("distributed.train.epochs", spelled))]).settings
    assert settings.train.epochs == 8
    assert type(settings.train.epochs) is int


def test_numbers_from_options() -> None:
    options = ["learningRate=2e-4", "maxSteps=1e+06", "loggingSteps=0.1", "warmupRatio=.5", "maxGradNorm=0"]
    train = load([], set_values=[f"distributed.train.{option}" for option in options]).settings.train
    assert (train.learning_rate, train.max_steps, train.logging_steps) == (2e-4, 1_000_000, 0.1)
    assert (train.warmup_ratio, train.max_grad_norm) == (0.5, 0.0)
    assert type(train.max_steps) is int
    assert type(train.max_grad_norm) is float


def test_names_as_text_or_list(write: Write) -> None:
    text = load([write(under("distributed.train.loraTargetModules", "q_proj   vproj"))]).settings
    items = load([], set_values=["distributed.train.loraTargetModules={q_proj,vproj}"]).settings
    assert text.train.lora_target_modules == items.train.lora_target_modules == ("q_proj", "vproj")


def test_no_without_quotes_is_the_word(write: Write) -> None:
    assert load([write(under("distributed.train.saveStrategy", "no"))]).settings.train.save_strategy == "no"


def test_text_that_looks_like_a_number_stays_text() -> None:
    settings = load(
        [], set_strings=["distributed.modelRevision=0123", "distributed.train.outputDir=5"]
    ).settings
    assert settings.model_revision == "0123"
    assert settings.train.output_dir == "5"


OLD = """
metadata:
  namespace: kubeflow
image:
  name: intel/ai-workflows
  tag: torch-2.3.0-huggingface-multinode-py3.10
secret:
  encodedToken:
securityContext:
  runAsUser:
  runAsGroup:
resources:
  cpuRequest: 32
  memoryLimit: 128Gi
elasticPolicy:
  maxRestarts: 30
envVars:
  cclWorkerCount: 0
distributed:
  modelNameOrPath: meta-llama/Llama-2-7b-chat-hf
  train:
    datasetName:
    dataFile: /tmp/pvc-mount/dataset/financial.json
    learningRate: 2e-4
    useFastTokenizer: false
    loraTargetModules: q_proj vproj
    instructionColumnName:
"""


def test_an_old_values_file(write: Write) -> None:
    loaded = load([write(OLD)])
    train = loaded.settings.train
    assert (train.dataset_name, train.data_file) == (None, "/tmp/pvc-mount/dataset/financial.json")
    assert train.learning_rate == 2e-4
    assert train.lora_target_modules == ("q_proj", "vproj")
    assert [line.split(": ")[:2] for line in loaded.warnings] == [
        ["mine.yaml", "metadata"],
        ["mine.yaml", "distributed.train.useFastTokenizer"],
    ]


def test_what_helm_passes_over_in_silence_is_said(write: Write) -> None:
    mine = write("distributed:\n  workers: 2\n  workers: 3\n---\ndistributed: {workers: 4}\n")
    loaded = load([mine])
    assert loaded.settings.workers == 3
    assert loaded.warnings == [
        "mine.yaml: line 3: key workers stands twice; the last one counts",
        "mine.yaml: only the first YAML document is read; what follows `---` has no effect",
    ]


def test_the_charts_own_values_load_without_a_word() -> None:
    assert load([]).warnings == []


def test_settings_pass_from_process_to_process() -> None:
    settings = load(
        [], set_values=["distributed.train.datasetName=null,distributed.train.dataFile=a b\\,c"]
    ).settings
    assert from_values(json.loads(json.dumps(settings.to_values()))) == settings
    with pytest.raises(ValueError, match="frozen"):
        settings.workers = 5  # type: ignore[misc]


def test_mounted_settings_are_checked_as_strictly() -> None:
    tree = load([]).settings.to_values()
    del tree["train"]["epochs"]
    del tree["train"]["datasetName"]
    tree["train"]["epoch"] = 1
    with pytest.raises(SettingsError) as caught:
        from_values(tree, origin="/job/settings.json")
    assert sorted(caught.value.problems) == [
        "/job/settings.json: distributed.train.datasetName: neither datasetName nor dataFile is set; "
        "write the name of a Hub data set or the path of a file",
        "/job/settings.json: distributed.train.epoch: unknown key; did you mean epochs?",
        "/job/settings.json: distributed.train.epochs: removed (null), expected a whole number, 1 or more",
    ]


@pytest.mark.parametrize("tree", [None, [], "text", 5])
def test_mounted_settings_that_are_no_group_of_keys(tree: Any) -> None:
    with pytest.raises(SettingsError, match=r"distributed: found .*, expected a group of keys"):
        from_values(tree)


def test_an_installed_package_brings_the_charts_values(tmp_path: Path) -> None:
    checkout = Path(__file__).parents[2]
    package = tmp_path / "site" / "llm_finetune"
    package.mkdir(parents=True)
    for part in ("__init__.py", "errors.py"):
        shutil.copy(checkout / "src" / "llm_finetune" / part, package)
    shutil.copytree(checkout / "src" / "llm_finetune" / "config", package / "config")
    shutil.copy(checkout / "values.yaml", package / "config/helm")
    code = "from llm_finetune.config import load; print(load([]).settings.workers)"
    alone = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    output = subprocess.check_output([sys.executable, "-c", code], text=True, env=alone, cwd=tmp_path)
    assert int(output) == load([]).settings.workers


@pytest.mark.parametrize("opened", ["[", "- ", "{a: ", "? "])
@pytest.mark.parametrize("levels", [150, 200_000])
def test_a_file_too_deep_is_refused(write: Write, opened: str, levels: int) -> None:
    (line,) = problems([write(opened * levels)])
    assert "more than 100 levels inside each other" in line


def test_a_file_too_large_is_refused_before_it_is_read_whole(write: Write) -> None:
    (line,) = problems([Path("/dev/zero")])
    assert "found more than 1,048,576 bytes" in line


def test_a_number_that_does_not_end_is_refused_at_once(write: Write) -> None:
    digits = "1" * 200_000
    found = problems([write(f"distributed: {{train: {{epochs: '{digits}x', learningRate: {digits}}}}}")])
    assert 'epochs: found "1111' in found[0]


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("set_values", "a" + "[0]" * 2000 + "=1"),
        ("set_values", "a" + "[0].a" * 2000 + "=1"),
        ("set_values", ",".join(f"a{number}[65536]=1" for number in range(1000))),
        ("set_values", "a[1000000000]=x"),
        ("set_json", "a=" + "[" * 50_000),
        ("set_json", "a=" + "[" * 500 + "]" * 500),
    ],
)
def test_an_option_without_end_is_refused(option: str, text: str) -> None:
    (line,) = problems([], **{option: [text]})
    assert line.startswith("--set")


def test_a_thousand_problems_are_told_in_a_few_lines(write: Write) -> None:
    found = problems([write("".join(f"k{number}: 1\n" for number in range(20_000)))])
    assert len(found) == 51
    found = problems([write("distributed:\n" + "".join(f"  k{number}: 1\n" for number in range(20_000)))])
    assert len(found) == 51


def test_an_empty_file_changes_nothing_and_that_is_said(write: Write) -> None:
    assert "mine.yaml: holds no values, so it changes none" in load([write("")]).warnings


def test_a_number_too_large_is_refused() -> None:
    tree = load([]).settings.to_values()
    tree["train"]["epochs"] = 10**400
    with pytest.raises(SettingsError, match="expected a whole number"):
        from_values(tree)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from llm_finetune.config import load; load([]); "
        "print({'torch', 'transformers', 'datasets', 'pyarrow', 'numpy', 'jsonschema'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_settings_that_are_merged_already_are_read_as_they_are(tmp_path: Path) -> None:
    """Nothing lies beneath: a key that Helm's null removed is none, not the chart's default."""
    tree = {"distributed": load([]).settings.to_values()}
    del tree["distributed"]["train"]["promptWithInput"]
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(tree))
    assert load_merged(file).settings.train.prompt_with_input is None
    file.write_text('{"distributed": {"train": {"epochs": 0}}}')
    with pytest.raises(SettingsError, match=r"settings\.json: distributed\.train\.epochs: found 0"):
        load_merged(file)
    for text in ("{", "[]", '{"train": {}}'):
        file.write_text(text)
        with pytest.raises(SettingsError, match=r"settings\.json: "):
            load_merged(file)
