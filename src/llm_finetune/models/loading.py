"""A base model from its folder: configuration, tokenizer, weights; or its modules on the meta device."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llm_finetune.errors import ModelError
from llm_finetune.models.config_limits import CONFIG, TOKENIZER, check_config, check_size, check_tokenizer
from llm_finetune.models.library_errors import blamed

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


log = logging.getLogger(__name__)

GENERATION_CONFIG = "generation_config.json"


def load_config(folder: Path, trust_remote_code: bool) -> PretrainedConfig:
    """The model's configuration.

    Raises:
        ModelError: it cannot be read, would run code of its own, or names a format that is not read.
    """
    from transformers import AutoConfig

    from llm_finetune.models.weight_formats import check_format

    check_config(folder)
    config = _from_folder(AutoConfig, CONFIG, folder, trust_remote_code)
    check_format(config, folder)
    with blamed(folder / CONFIG, "describes no language model"):
        text_config = config.get_text_config()
        vocab_size, context = text_config.vocab_size, getattr(text_config, "max_position_embeddings", None)
        parts = [config, *(getattr(config, name) for name in config.sub_configs)]
    if not isinstance(vocab_size, int) or not isinstance(context, int | None):
        raise ModelError(
            f"{folder / CONFIG}: found vocab_size {vocab_size!r} and max_position_embeddings {context!r}, "
            "expected whole numbers"
        )
    for part in parts:
        _use_own_attention(part, folder)
    return config


def _use_own_attention(config: Any, folder: Path) -> None:
    """What a model was trained with is often made for GPUs; here transformers or this project chooses."""
    named = getattr(config, "_attn_implementation", None)
    if "/" in str(named):
        raise ModelError(
            f"{folder / CONFIG}, attn_implementation: found {named!r}, code from the Hub, which is not run; "
            "remove that key"
        )
    if named not in (None, "eager", "sdpa"):
        config._attn_implementation = None


def load_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises ModelError where there is none, or none with an end-of-sequence token."""
    from transformers import AutoTokenizer

    check_tokenizer(folder)
    tokenizer = _from_folder(AutoTokenizer, "tokenizer", folder, trust_remote_code)
    with blamed(folder, "its tokenizer cannot be used"):
        is_fast, eos_token_id, ids = tokenizer.is_fast, tokenizer.eos_token_id, tokenizer.get_vocab()
        tokenizer.decode(tokenizer("a b").input_ids)
    if not is_fast:
        raise ModelError(f"{folder}: only a slow tokenizer; expected tokenizer.json beside config.json")
    if not ids:
        raise ModelError(f"{folder / TOKENIZER}: it knows no token")
    if eos_token_id is None:
        raise ModelError(
            f"{folder}: the tokenizer has no end-of-sequence token, so an answer could never end; "
            "set eos_token in tokenizer_config.json"
        )
    return tokenizer


def check_fits(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Raises ModelError where sequences or token ids would leave what the model can take.

    Args:
        max_length: tokens a sequence (distributed.train.maxSeqLength).
    """
    text_config = config.get_text_config()
    context = getattr(text_config, "max_position_embeddings", None)
    if context is not None and max_length > context:
        raise ModelError(
            f"distributed.train.maxSeqLength: {max_length} is above the model's context of {context} tokens; "
            f"write {context} or less"
        )
    highest = max(tokenizer.get_vocab().values())
    if highest >= text_config.vocab_size:
        raise ModelError(
            f"the tokenizer has token ids up to {highest}, but the model's embedding ends at "
            f"{text_config.vocab_size - 1}: tokenizer and model do not belong together"
        )


def check_generation_config(folder: Path) -> None:
    """Raises ModelError where generation_config.json is there and cannot be read."""
    from transformers import GenerationConfig

    if (folder / GENERATION_CONFIG).is_file():
        with blamed(folder / GENERATION_CONFIG, "cannot be read"):
            GenerationConfig.from_pretrained(folder)


def meta_model(config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    """The model without memory for its weights (on torch's meta device): to look at names and shapes."""
    import torch

    with torch.device("meta"):
        return _made(config, trust_remote_code)


def hollow(config: PretrainedConfig, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The model without memory for its weights, but with what else it computes with: to put weights into."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return _made(config, trust_remote_code, dtype=dtype)


def _made(config: PretrainedConfig, trust_remote_code: bool, **options: Any) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    from llm_finetune.models.rotary import keep_lengths_apart

    if type(config) not in AutoModelForCausalLM._model_mapping and not trust_remote_code:
        raise ModelError(f"model type {config.model_type!r} is not a causal language model")
    with blamed(f"{config.name_or_path}/{CONFIG}", "describes no model that can be made"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **options)
    keep_lengths_apart(model)
    return model


def load_weights(
    folder: Path,
    dtype: torch.dtype,
    trust_remote_code: bool,
    *,
    is_exact: bool = False,
    device: str | None = None,
) -> PreTrainedModel:
    """The model with its weights, ready for training or evaluation on the CPU.

    Args:
        device: meta: nothing is read but the files' headers; all that they can show to be wrong is raised.
        is_exact: the files hold this model and nothing else, as those that this project wrote. A base may
            come with parts that a causal language model has no place for, which are named and ignored.

    Raises:
        ModelError: weights are missing, broken, stored in a format that is not read, or of other shapes than
            config.json says.
    """
    from transformers import AutoModelForCausalLM

    from llm_finetune.models.rotary import keep_lengths_apart
    from llm_finetune.models.weight_formats import Numbers

    config = load_config(folder, trust_remote_code)
    check_size(meta_model(config, trust_remote_code).num_parameters(), folder)
    Numbers(folder, config)  # or transformers would take codes for numbers
    model = read_weights(
        AutoModelForCausalLM,
        folder,
        is_exact=is_exact,
        config=config,
        dtype=dtype,
        device_map=device,
        trust_remote_code=trust_remote_code,
    )
    check_ends(model, folder)
    keep_lengths_apart(model)
    return model


def read_weights(loader: Any, folder: Path, *, is_exact: bool, **options: Any) -> PreTrainedModel:
    """What the loader's from_pretrained makes of the folder, where every weight has found its place.

    Args:
        loader: a class of transformers, automatic or a model's own.
        is_exact: see `load_weights`.

    Raises:
        ModelError: see `load_weights`; or a weight that is left over, where none may be.
    """
    with blamed(folder, "the weights cannot be read"):
        model, report = loader.from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in plain words
            **options,
        )
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise ModelError(
            f"{folder}: {name} has shape {tuple(found)} in its files and {tuple(expected)} by config.json: "
            "they belong to different models"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers would fill these with random numbers and train on.
        raise ModelError(
            f"{folder}: {len(missing)} of the model's weights are not in its files, first {missing[0]}: "
            "the download is incomplete, or config.json belongs to another model"
        )
    if left_over := sorted(report["unexpected_keys"]):
        problem = (
            f"{folder}: {len(left_over)} weights of its files are none of this model's, first {left_over[0]}"
        )
        if is_exact:
            raise ModelError(f"{problem}: they belong to different models")
        log.warning("%s; they are ignored", problem)
    return cast("PreTrainedModel", model)


def check_ends(model: PreTrainedModel, folder: Path) -> None:
    """Raises ModelError where generation_config.json names an invalid end token."""
    named = model.generation_config.eos_token_id
    for one in named if isinstance(named, list) else [named]:
        if not isinstance(one, int | None):
            raise ModelError(
                f"{folder / GENERATION_CONFIG}, eos_token_id: found {one!r}, expected a token's "
                "number, a list of such, or null"
            )


def _from_folder(loader: Any, what: str, folder: Path, trust_remote_code: bool) -> Any:
    with blamed(folder, f"its {what} cannot be read"):
        try:
            # Passed explicitly: with None transformers would prompt at a terminal, which may not exist.
            return loader.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except Exception as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ModelError(
                f"{folder}: this model brings Python code of its own, which runs only where "
                "distributed.trustRemoteCode is true; read that code first"
            ) from error
