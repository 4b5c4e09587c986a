"""What must hold between keys."""

from __future__ import annotations

from collections.abc import Iterator

from llm_finetune.config.schema import Settings
from llm_finetune.config.validation import Problem

SHARE, FRACTION = ("eval", "validationSplitPercentage"), ("eval", "validationFraction")
SHARE_DEFAULT = 0.2  # what the chart says, which says nothing of what the user wants
SHARE_TWICE = Problem(
    "eval.validationSplitPercentage is the same under its older name, and both are set; write only one",
    (FRACTION, SHARE),
)


def broken(settings: Settings) -> Iterator[Problem]:
    """The rules that these settings break. A problem's first key is the one to change."""
    yield from _data(settings)
    yield from _evaluation(settings)
    yield from _adapter(settings)


def _problem(text: str, *keys: str) -> Problem:
    return Problem(text, tuple(tuple(key.split(".")) for key in keys))


def _data(settings: Settings) -> Iterator[Problem]:
    train, evaluation = settings.train, settings.eval
    if train.dataset_name and train.data_file:
        yield _problem(
            "datasetName and dataFile are both set; write `datasetName: null` to use the file, "
            "or `dataFile: null` to use the data set",
            "train.dataFile",
            "train.datasetName",
        )
    if (settings.do_train or settings.do_eval) and not train.dataset_name and not train.data_file:
        yield _problem(
            "neither datasetName nor dataFile is set; write the name of a Hub data set or the path of a file",
            "train.datasetName",
            "train.dataFile",
        )
    if evaluation.validation_fraction is not None and evaluation.validation_split_percentage != SHARE_DEFAULT:
        yield SHARE_TWICE
    no_validation = evaluation.validation_share == 0 and not evaluation.data_file
    if settings.do_eval and train.data_file and not train.dataset_name and no_validation:
        yield _problem(
            "found 0, so nothing is left to evaluate on; write a share such as 0.2, set eval.dataFile, "
            "or write `doEval: false`",
            ".".join(SHARE if evaluation.validation_fraction is None else FRACTION),
            "eval.dataFile",
            "train.dataFile",
            "doEval",
        )


def _evaluation(settings: Settings) -> Iterator[Problem]:
    train, evaluation = settings.train, settings.eval
    strategy = evaluation.strategy
    if strategy != "no" and not settings.do_eval:
        yield _problem(
            f'found "{strategy}", which needs evaluation; write `doEval: true`, or "no" here',
            "eval.strategy",
            "doEval",
        )
    if evaluation.early_stopping_patience and strategy == "no":
        yield _problem(
            "needs evaluations during training; write `strategy: epoch` or `strategy: steps` beside it, "
            "or 0 here",
            "eval.earlyStoppingPatience",
            "eval.strategy",
        )
    if not evaluation.load_best_model:
        return
    if strategy == "no":
        yield _problem(
            "needs evaluations during training; write `strategy: epoch` or `strategy: steps` beside it, "
            "or false here",
            "eval.loadBestModel",
            "eval.strategy",
        )
    elif train.save_strategy != strategy:
        yield _problem(
            f'needs a checkpoint for each evaluation, but eval.strategy is "{strategy}" and '
            f'train.saveStrategy is "{train.save_strategy}"; write `saveStrategy: {strategy}`',
            "eval.loadBestModel",
            "eval.strategy",
            "train.saveStrategy",
        )
    elif strategy == "steps" and train.save_steps % evaluation.steps:
        yield _problem(
            f"needs an evaluation at each checkpoint, but train.saveSteps ({train.save_steps}) is not a "
            f"multiple of eval.steps ({evaluation.steps})",
            "eval.loadBestModel",
            "train.saveSteps",
            "eval.steps",
        )


def _adapter(settings: Settings) -> Iterator[Problem]:
    train = settings.train
    if train.use_lora and not train.lora_target_modules:
        yield _problem(
            "names no module, but useLora is true; name some, such as `q_proj v_proj`, "
            "or write `useLora: false`",
            "train.loraTargetModules",
            "train.useLora",
        )
    of_lora = {
        "useRslora": train.use_rslora,
        "useDora": train.use_dora,
        "loraTargetParameters": bool(train.lora_target_parameters),
    }
    for key, on in of_lora.items():
        if on and not train.use_lora:
            yield _problem(
                "is a kind of LoRA, but useLora is false; write `useLora: true`, or false here",
                f"train.{key}",
                "train.useLora",
            )
