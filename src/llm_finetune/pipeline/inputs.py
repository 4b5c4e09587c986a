"""What a job works on: the base model's files and the prepared rows, checked before weights are read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llm_finetune.checkpoints import weights
from llm_finetune.checkpoints.compatibility import Expected
from llm_finetune.config import Settings
from llm_finetune.data import Prepared, open_prepared
from llm_finetune.distributed import Group
from llm_finetune.errors import ModelError
from llm_finetune.kernels.precision import Precision
from llm_finetune.models import adapters, experts, loading
from llm_finetune.models.config_limits import check_size
from llm_finetune.models.packing_check import keeps_apart
from llm_finetune.models.resolve import fetch
from llm_finetune.models.rotary import check_lengths_apart
from llm_finetune.pipeline.background_preparation import BackgroundPreparation
from llm_finetune.pipeline.prepare_data import log_summary, prepare_data
from llm_finetune.training.memory_check import choose_checkpointing

log = logging.getLogger(__name__)

Check = Callable[[Path, PreTrainedModel], None]


@dataclass(frozen=True)
class Inputs:
    """What every rank has in hand before the weights are loaded.

    Attributes:
        folder: the base model's files.
        prepared: the rows, memory-mapped; None where the settings name no records.
        packed: several records share a row.
    """

    folder: Path
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    prepared: Prepared | None
    packed: bool

    @property
    def pad_id(self) -> int:
        """Fills rows. No record sees it and nothing is trained on it, so the end of a sequence serves too."""
        tokenizer = self.tokenizer
        return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


def load_inputs(settings: Settings, group: Group, preparation: BackgroundPreparation, check: Check) -> Inputs:
    """Model files and rows, fetched and prepared once, by rank 0, and opened by all.

    Args:
        preparation: returns the data that another process prepared meanwhile.
        check: refuses what a stage cannot do, by the base model's folder and meta model.

    Raises:
        UserError: what is wrong with the model, the records, or with a stage that would come hours later.
    """
    deadline = settings.preparation_timeout_minutes * 60
    name, revision, trust = settings.model_name_or_path, settings.model_revision, settings.trust_remote_code
    folder = Path(
        group.on_rank_zero("model", lambda: str(fetch(name, revision, weights=True, code=trust)), deadline)
    )
    config, tokenizer, meta_model = describe_model(settings, folder)
    check(folder, meta_model)
    if not (settings.train.data_file or settings.train.dataset_name):
        return Inputs(folder, config, tokenizer, None, packed=False)
    fitted = fitted_to_model(settings, config)

    def prepared_once() -> str:
        # What was prepared before the model was known may have rows that it cannot take.
        made = preparation() if fitted is settings else None
        return str(made or prepare_data(fitted, tokenizer))

    rows = Path(group.on_rank_zero("data", prepared_once, deadline))
    # Rank 0 has just read every byte. Another machine may see another folder: one rank there reads it too.
    prepared = open_prepared(rows, verify=group.ranks.local_rank == 0 and not group.ranks.is_main_process)
    log_summary(prepared.summary)
    return Inputs(folder, config, tokenizer, prepared, fitted.train.dataset_concatenation)


def describe_model(
    settings: Settings, folder: Path
) -> tuple[PretrainedConfig, PreTrainedTokenizerBase, PreTrainedModel]:
    """Configuration, tokenizer and meta model, held against the settings before any weight is read."""
    trust = settings.trust_remote_code
    config, tokenizer = loading.load_config(folder, trust), loading.load_tokenizer(folder, trust)
    loading.check_fits(config, tokenizer, settings.train.max_seq_length)
    loading.check_generation_config(folder)
    meta_model = loading.meta_model(config, trust)
    check_size(meta_model.num_parameters(), folder)
    check_lengths_apart(meta_model, settings.train.max_seq_length)
    return config, tokenizer, meta_model


def check_adapter(settings: Settings, meta_model: PreTrainedModel) -> None:
    """Refuses an adapter that is not possible, and warns of what it leaves out."""
    plan = lora_plan(settings)
    adapters.check_targets(meta_model, plan.target_modules)
    experts.check_parameters(meta_model, plan.target_parameters)
    tuned = adapters.add_adapters(loading.meta_model(meta_model.config, settings.trust_remote_code), plan)
    if warning := experts.left_out(meta_model, tuned, plan):
        log.warning("%s", warning)
    if warning := experts.unmerged(meta_model, tuned):
        if settings.do_quantize:
            raise ModelError(f"{warning}; choose other modules, or write doQuantize: false")
        log.warning("%s; chat answers with the adapter beside the model", warning)


def tuned_folder(settings: Settings, base_folder: Path) -> Path:
    """The model just trained; where this job does not train, the adapter that is named, or the base."""
    if settings.do_train:
        return Path(settings.train.output_dir)
    return Path(settings.quantize.peft_model_dir) if settings.quantize.peft_model_dir else base_folder


def fitted_to_model(settings: Settings, config: PretrainedConfig) -> Settings:
    """The settings, with a row for each record where the model would mix those that share one."""
    train, trust = settings.train, settings.trust_remote_code
    if not train.dataset_concatenation or keeps_apart(config, train.max_seq_length, trust):
        return settings
    log.warning(
        "distributed.train.datasetConcatenation: a model of type %s lets records of one row see each other: "
        "each record gets a row of its own, as with false",
        config.model_type,
    )
    alone = train.model_copy(update={"dataset_concatenation": False})
    return settings.model_copy(update={"train": alone})


def fitted_to_memory(settings: Settings, inputs: Inputs, precision: Precision, processes: int) -> Settings:
    """The settings with what they leave to the memory that there is, before the weights are read.

    Args:
        processes: that share the machine.

    Raises:
        SettingsError: this machine cannot hold the training.
    """
    assert inputs.prepared
    rows = inputs.prepared.summary.train
    model = loading.meta_model(inputs.config, settings.trust_remote_code)
    checkpointing = choose_checkpointing(
        adapters.add_adapters(model, lora_plan(settings)) if settings.train.use_lora else model,
        settings.train,
        precision,
        row_positions=rows.positions / rows.rows,
        row_labels=rows.trained_tokens / rows.rows,
        processes=processes,
    )
    train = settings.train.model_copy(update={"gradient_checkpointing": checkpointing})
    return settings.model_copy(update={"train": train})


def expected_checkpoints(settings: Settings, inputs: Inputs) -> Expected:
    """What the checkpoints of this run hold."""
    assert inputs.prepared
    train = settings.train
    model = loading.meta_model(inputs.config, settings.trust_remote_code)
    tied = model.all_tied_weights_keys
    if train.use_lora:
        model = adapters.add_adapters(model, lora_plan(settings))
    return Expected(
        rows=len(inputs.prepared.train),
        epochs=train.epochs,
        max_steps=train.max_steps,
        may_stop_early=settings.eval.early_stopping_patience > 0,
        held=frozenset(weights.trained_weights(model)),
        tied=frozenset(tied),
        shapes=[tuple(weight.shape) for weight in model.parameters() if weight.requires_grad],
    )


def lora_plan(settings: Settings) -> adapters.LoraPlan:
    """The adapter that the settings ask for."""
    train = settings.train
    return adapters.LoraPlan(
        rank=train.lora_rank,
        alpha=train.lora_alpha,
        dropout=train.lora_dropout,
        target_modules=train.lora_target_modules or (),
        target_parameters=train.lora_target_parameters or (),
        rslora=train.use_rslora,
        dora=train.use_dora,
    )
