"""Checks a job and shows what it would train on, in seconds: `llm-finetune run --dry-run`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PretrainedConfig

from llm_finetune.config import Settings
from llm_finetune.data.preview import Preview, preview
from llm_finetune.models import adapters, loading
from llm_finetune.models.resolve import fetch, has_weights
from llm_finetune.pipeline.inputs import describe_model, fitted_to_model, lora_plan
from llm_finetune.pipeline.pipeline import check
from llm_finetune.pipeline.prepare_data import prepare_spec, remarks
from llm_finetune.pipeline.stage import Stage
from llm_finetune.runtime.logging import entry, indented
from llm_finetune.storage.errors import check_writable

TOO_LONG = {
    "truncate": "prompts are truncated on the left, then answers at their end",
    "split": "they are split",
}


def check_job(settings: Settings, stages: Iterable[Stage]) -> str:
    """Checks model and data, and shows what training would see; downloads no weights and writes no result.

    Args:
        stages: all that there are.

    Raises:
        UserError: what is wrong, where, and what to do.
    """
    check_writable(Path(settings.train.output_dir))
    name, trust = settings.model_name_or_path, settings.trust_remote_code
    folder = fetch(name, settings.model_revision, weights=False, code=trust)
    config, tokenizer, meta_model = describe_model(settings, folder)
    check(settings, stages, folder, meta_model)
    if has_weights(folder):
        loading.load_weights(folder, torch.float32, trust, device="meta")
    lines = [entry(f"model    {name}: {_model(settings, config)}")]
    if settings.train.data_file or settings.train.dataset_name:
        fitted = fitted_to_model(settings, config)
        seen = preview(prepare_spec(fitted), tokenizer, batch_size=settings.train.per_device_batch_size)
        lines += [*map(entry, _data(seen, fitted)), "", *_examples(seen)]
        if seen.too_long:
            lines += ["", entry(f"WARNING: {_describe_cuts(seen)}")]
    output = Path(settings.train.output_dir).absolute()
    lines += ["", entry(f"Configuration, model and data are valid. Output directory: {output}")]
    return "\n".join(lines)


def _model(settings: Settings, config: PretrainedConfig) -> str:
    model = loading.meta_model(config, settings.trust_remote_code)
    total = model.num_parameters()
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    words = [config.model_type, f"{total:,} parameters", f"context {context:,} tokens" if context else ""]
    if settings.do_train and settings.train.use_lora:
        lora = lora_plan(settings)
        trained = adapters.add_adapters(model, lora).num_parameters(only_trainable=True)
        words.append(f"{trained:,} trained (LoRA of rank {lora.rank} on {' '.join(lora.target_modules)})")
    elif settings.do_train:
        words.append("all trained")
    return ", ".join(filter(None, words))


def _data(seen: Preview, settings: Settings) -> list[str]:
    checked = f"{'all ' if seen.all_checked else 'the first '}{seen.checked:,} records checked"
    lengths = ", ".join(f"{name} {round(tokens):,}" for name, tokens in seen.lengths.items())
    saved = 1 - seen.packed.positions / seen.padded.positions
    share = settings.eval.validation_share if settings.do_eval else 0
    validation = seen.validation_from or (f"{share:g} of them" if share else "none")
    packing = (
        f"{seen.packed.rows:,} rows of {seen.max_length} instead of {seen.padded.rows:,} padded ones: "
        f"{saved:.0%} fewer positions"
    )
    if not settings.train.dataset_concatenation:
        packing += " (but each record has a row of its own)"
    return [
        f"data     {seen.data_type}, {checked}; validation: {validation}",
        f"prompts  {seen.prompt_format}: {seen.prompt_format_reason}",
        f"lengths  {lengths} tokens, of {seen.measured:,} records",
        f"packing  {packing}",
        *(f"note     {one}" for one in remarks(seen.taken_apart, seen.control_words, seen.lost_thoughts)),
    ]


def _describe_cuts(seen: Preview) -> str:
    share = seen.too_long / seen.measured
    return (
        f"{seen.too_long:,} of {seen.measured:,} measured records ({share:.1%}) exceed maxSeqLength "
        f"{seen.max_length}: {TOO_LONG[seen.too_long_fate]}"
    )


def _examples(seen: Preview) -> list[str]:
    lines = ["The first prompts; ⟦what is trained on⟧:"]
    for example in seen.examples:
        cut = f" ({example.cut})" if example.cut else ""
        lines += ["", entry(f"--- {example.place}{cut}"), indented(str(example))]
    return lines
