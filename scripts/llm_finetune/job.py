"""A job from its settings to its results: the stages in order, and who waits for whom."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase, set_seed

from llm_finetune import fingerprint
from llm_finetune.data import Prepared, open_prepared
from llm_finetune.distributed import Group, has_bf16
from llm_finetune.model import adapters, base, extension
from llm_finetune.model.fetch import fetch
from llm_finetune.model.isolation import check_isolation
from llm_finetune.model.precision import Precision, choose_precision
from llm_finetune.model.saving import load_tuned, save_model
from llm_finetune.report import results
from llm_finetune.run_folder import RunFolder, look_into
from llm_finetune.settings import Settings
from llm_finetune.stages.evaluate import Evaluation, evaluate
from llm_finetune.stages.prepare import prepare_data, told
from llm_finetune.stages.train import train

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What every rank has in hand before the weights are loaded.

    Attributes:
        folder: the base model's files.
        prepared: the rows, memory-mapped.
    """

    folder: Path
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    prepared: Prepared

    @property
    def pad_id(self) -> int:
        """Fills rows. No record sees it and nothing is trained on it, so the end of a sequence serves too."""
        tokenizer = self.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def run(settings: Settings, group: Group, *, fresh: bool) -> None:
    """Runs the job. Every rank calls it with the same settings.

    Args:
        fresh: begin anew, even where outputDir holds this very run.

    Raises:
        UserError: what is wrong, where, and what to do.
    """
    wanted = [stage for stage, is_wanted in wanted_stages(settings).items() if is_wanted]
    if not wanted:
        log.warning("nothing to do: distributed.doTrain, doEval, doQuantize and doBenchmark are all false")
        return
    inputs = gather(settings, group)
    folder = _found_output(settings, inputs, group, fresh)
    left = [stage for stage in wanted if stage not in folder.done]
    if not left:
        log.info("nothing to do: %s holds this very run, finished; --fresh runs it anew", folder.path)
        return
    if {"train", "evaluate"} & set(left):
        _train_and_evaluate(settings, inputs, folder, group)
    log.info("done: model and results are in %s", folder.path)


def wanted_stages(settings: Settings) -> dict[str, bool]:
    """The stages in their order, and whether the settings ask for them."""
    return {"train": settings.do_train, "evaluate": settings.do_eval}


def gather(settings: Settings, group: Group) -> Inputs:
    """Model files and rows, fetched and prepared once, by rank 0, and opened by all."""
    deadline = settings.wait_for_preparation_minutes * 60
    name, revision, trust = settings.model_name_or_path, settings.model_revision, settings.trust_remote_code
    folder = Path(group.once("model", lambda: str(fetch(name, revision, weights=True, code=trust)), deadline))
    config, tokenizer = describe_model(settings, folder)
    data = Path(group.once("data", lambda: str(prepare_data(settings, tokenizer)), deadline))
    prepared = open_prepared(data)
    for line in told(prepared.summary):
        log.info("%s", line)
    return Inputs(folder, config, tokenizer, prepared)


def describe_model(settings: Settings, folder: Path) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Configuration and tokenizer, held against the settings before any weight is read."""
    config = base.load_config(folder, settings.trust_remote_code)
    tokenizer = base.load_tokenizer(folder, settings.trust_remote_code)
    base.check_fits(config, tokenizer, settings.train.max_seq_length)
    if settings.do_train and settings.train.use_lora:
        outline = base.outline(config, settings.trust_remote_code)
        adapters.check_targets(outline, lora_plan(settings).target_modules)
    return config, tokenizer


def lora_plan(settings: Settings) -> adapters.LoraPlan:
    """The adapter that the settings ask for."""
    train = settings.train
    return adapters.LoraPlan(
        rank=train.lora_rank,
        alpha=train.lora_alpha,
        dropout=train.lora_dropout,
        target_modules=train.lora_target_modules or (),
        rslora=train.use_rslora,
        dora=train.use_dora,
    )


def _found_output(settings: Settings, inputs: Inputs, group: Group, fresh: bool) -> RunFolder:
    """What the output folder holds of this run, as rank 0 sees it."""
    train = settings.train
    path = Path(train.output_dir)
    if not settings.do_train:
        return RunFolder(path)

    def look() -> str:
        stages = _deciding(settings, inputs)
        found = look_into(path, stages, overwrite=train.overwrite_output_dir, fresh=fresh)
        return json.dumps([found.continues, found.done, found.checkpoint])

    return RunFolder(path, *json.loads(group.once("output folder", look, deadline_seconds=3600)))


def _deciding(settings: Settings, inputs: Inputs) -> dict[str, fingerprint.Deciding]:
    model = fingerprint.of_model(inputs.folder)
    return fingerprint.of_stages(settings.to_values(), model, inputs.prepared.folder.name)


def _train_and_evaluate(settings: Settings, inputs: Inputs, folder: RunFolder, group: Group) -> None:
    """Both at once: the base model has to be judged before its weights are trained."""
    set_seed(settings.train.seed)
    model, precision = _load_base(settings, inputs, group)
    tuned: torch.nn.Module | None
    writes_run = settings.do_train and group.ranks.is_writer
    if writes_run:
        stages = _deciding(settings, inputs)
        folder.begin(
            {
                "deciding": stages["train"],
                "settings": settings.to_values(),
                "versions": results.versions(),
            }
        )
    judge = _judge(settings, inputs, precision, group)
    base_loss = judge("base", model) if settings.eval.base or not settings.do_train else None
    if settings.do_train and "train" not in folder.done:
        tuned = _tuned(model, settings, inputs, precision, folder, group)
        if writes_run:
            folder.finish("train", stages["train"])
    else:
        # Trained by an earlier round of this run, or by another job.
        tuned = load_tuned(model, folder.path, precision.weights, settings.trust_remote_code)
    tuned_loss = judge("tuned", tuned) if tuned else None
    if group.ranks.is_writer:
        _write_results(folder.path, base_loss, tuned_loss)
    if writes_run and settings.do_eval:
        folder.finish("evaluate", stages["evaluate"])


def _tuned(
    model: torch.nn.Module,
    settings: Settings,
    inputs: Inputs,
    precision: Precision,
    folder: RunFolder,
    group: Group,
) -> torch.nn.Module:
    """The model after training, which stands in the output folder then."""
    if settings.train.use_lora:
        model = adapters.add_adapters(model, lora_plan(settings))
        adapters.name_base(model, settings.model_name_or_path, settings.model_revision)
    if folder.checkpoint:
        log.info("going on from %s", folder.path / folder.checkpoint)
    training = train(
        model,
        inputs.prepared,
        settings.train,
        settings.eval,
        pad_id=inputs.pad_id,
        precision=precision,
        group=group,
        checkpoint=folder.path / folder.checkpoint if folder.checkpoint else None,
    )
    if group.ranks.is_writer:
        save_model(model, inputs.tokenizer, folder.path)
        results.write_json(folder.path / results.PROMPT, _asked_as(settings, inputs))
        results.write_json(folder.path / results.HISTORY, training.history)
        results.write_json(folder.path / results.TRAIN, training.to_json())
    return model


def _asked_as(settings: Settings, inputs: Inputs) -> dict[str, str]:
    """How the model was asked in training, for whoever asks it later."""
    return {
        "format": inputs.prepared.summary.prompt_format,
        "with_input": settings.train.prompt_with_input or "",
        "without_input": settings.train.prompt_without_input or "",
    }


def _load_base(settings: Settings, inputs: Inputs, group: Group) -> tuple[torch.nn.Module, Precision]:
    """The base model on its device, proved to keep the records of a row apart."""
    train_settings = settings.train
    if train_settings.use_ipex and extension.is_installed():
        log.info("using the kernels of the Intel extension %s", extension.register_kernels())
    bf16 = train_settings.bf16
    if bf16 == "auto":
        # All ranks or none: the same weights in two formats would not be the same model.
        bf16 = group.sum_([has_bf16()])[0] == group.ranks.size
    precision = choose_precision(bf16, trains_all_weights=settings.do_train and not train_settings.use_lora)
    log.info("loading %s in %s", inputs.folder, str(precision.weights).removeprefix("torch."))
    model = base.load_weights(inputs.folder, precision.weights, settings.trust_remote_code)
    check_isolation(model, inputs.config.get_text_config().vocab_size)
    use_cpu = train_settings.no_cuda or not torch.cuda.is_available()
    return model.to("cpu" if use_cpu else "cuda"), precision


def _judge(
    settings: Settings, inputs: Inputs, precision: Precision, group: Group
) -> Callable[[str, torch.nn.Module], Evaluation | None]:
    """The evaluation that the settings ask for, the same for the base and for the tuned model."""

    def judge(name: str, model: torch.nn.Module) -> Evaluation | None:
        if not settings.do_eval or inputs.prepared.validation is None:
            return None
        result = evaluate(
            model,
            inputs.prepared.validation,
            batch_size=settings.eval.per_device_batch_size,
            pad_id=inputs.pad_id,
            precision=precision,
            group=group,
        )
        log.info("%s model: validation loss %.4f, perplexity %.4g", name, result.loss, result.perplexity)
        return result

    return judge


def _write_results(folder: Path, base_loss: Evaluation | None, tuned_loss: Evaluation | None) -> None:
    """eval_results.json, and all_results.json with what the training left beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    judged = tuned_loss or base_loss
    evaluation: dict[str, Any] = {}
    if judged:
        evaluation = {
            "eval_loss": judged.loss,
            "perplexity": judged.perplexity,
            "base": base_loss.to_json() if base_loss else None,
            "tuned": tuned_loss.to_json() if tuned_loss else None,
        }
        results.write_json(folder / results.EVAL, evaluation)
    training = results.read_json(folder / results.TRAIN) or {}
    results.write_json(folder / results.ALL, {**training, **evaluation})
