"""A base model from its folder: configuration, tokenizer, outline, weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llm_finetune.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


log = logging.getLogger(__name__)


def load_config(folder: Path, trust_remote_code: bool) -> PretrainedConfig:
    """The model's configuration. Raises ModelError where it cannot be read or would run code of its own."""
    from transformers import AutoConfig

    return _from_folder(AutoConfig, folder, trust_remote_code)


def load_tokenizer(folder: Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Raises ModelError where there is none, or none with an end-of-sequence token."""
    from transformers import AutoTokenizer

    tokenizer = _from_folder(AutoTokenizer, folder, trust_remote_code)
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: only a slow tokenizer; expected tokenizer.json beside config.json")
    if tokenizer.eos_token_id is None:
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


def outline(config: PretrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
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

    from llm_finetune.model.rotary import keep_lengths_apart

    try:
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **options)
    except ValueError as error:
        raise ModelError(
            f"model type {config.model_type!r} is not a causal language model: {_first_line(error)}"
        ) from error
    except Exception as error:  # whatever a model's own code raises at a configuration that cannot be
        raise ModelError(
            f"config.json describes no {config.model_type} model that can be made: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error
    keep_lengths_apart(model)
    return model


def load_weights(
    folder: Path, dtype: torch.dtype, trust_remote_code: bool, *, is_exact: bool = False
) -> PreTrainedModel:
    """The model with its weights, ready for training or evaluation on the CPU.

    Args:
        is_exact: the files hold this model and nothing else, as those that this project wrote. A base may
            come with parts that a causal language model has no place for, which are named and left out.

    Raises:
        ModelError: weights are missing, broken or of other shapes than config.json says.
    """
    from transformers import AutoModelForCausalLM

    from llm_finetune.model.rotary import keep_lengths_apart

    model = read_weights(
        AutoModelForCausalLM, folder, is_exact=is_exact, dtype=dtype, trust_remote_code=trust_remote_code
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
    try:
        model, report = loader.from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, in our words
            **options,
        )
    except Exception as error:  # whatever a broken file raises
        raise ModelError(f"{folder}: the weights cannot be read: {_first_line(error)}") from error
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
        told = (
            f"{folder}: {len(left_over)} weights of its files are none of this model's, first {left_over[0]}"
        )
        if is_exact:
            raise ModelError(f"{told}: they belong to different models")
        log.warning("%s; they are left out", told)
    return cast("PreTrainedModel", model)


def check_ends(model: PreTrainedModel, folder: Path) -> None:
    """Said before a training, not at the first answer after it."""
    named = model.generation_config.eos_token_id
    for one in named if isinstance(named, list) else [named]:
        if not isinstance(one, int | None):
            raise ModelError(
                f"{folder / 'generation_config.json'}, eos_token_id: found {one!r}, expected a token's "
                "number, a list of such, or null"
            )


def _from_folder(loader: Any, folder: Path, trust_remote_code: bool) -> Any:
    try:
        # False is said, not left out: left out, transformers would ask a terminal that may not be there.
        return loader.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever a broken file raises, the user needs its name and not a traceback
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"{folder}: this model brings Python code of its own, which runs only where "
                "distributed.trustRemoteCode is true; read that code first"
            ) from error
        kind = "tokenizer" if "Tokenizer" in loader.__name__ else "config.json"
        raise ModelError(f"{folder}: its {kind} cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
