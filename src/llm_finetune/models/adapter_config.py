"""An adapter's adapter_config.json: read, held to what it can be, and what follows from it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from llm_finetune.errors import ModelError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig

NAME = "adapter_config.json"
LARGEST_BYTES = 4_000_000
PATTERN_SECONDS = 3
# Kinds of initialization that change the base model's weights, which are then not those of its files.
CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
LARGEST_ITERATIONS = 100
LARGEST_DEPTH = 1000
# What is more than two matrices beside a weight, in whatever way.
UNMERGED = (
    "lora_bias",
    "trainable_token_indices",
    "layer_replication",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "use_qalora",
    "use_bdlora",
)

Rank = Annotated[int, Field(ge=1, le=65536)]
Scale = Annotated[float, Field(allow_inf_nan=False)]
Names = str | list[str] | None


@with_config({"strict": True})
class _Lora(TypedDict, total=False):
    r: Rank
    lora_alpha: Scale
    lora_dropout: Annotated[float, Field(ge=0, le=1)]
    bias: Literal["none", "all", "lora_only"]
    target_modules: Names
    exclude_modules: Names
    modules_to_save: list[str] | None
    target_parameters: list[str] | None
    layers_to_transform: int | list[int] | None
    layers_pattern: Names
    rank_pattern: dict[str, Rank] | None
    alpha_pattern: dict[str, Scale] | None
    init_lora_weights: bool | str | None
    layer_replication: list[tuple[int, int]] | None
    trainable_token_indices: list[int] | dict[str, list[int]] | None
    alora_invocation_tokens: list[int] | None
    fan_in_fan_out: bool
    use_rslora: bool
    use_dora: bool
    lora_bias: bool


_LORA = TypeAdapter(_Lora)


def read_config(folder: Path) -> PeftConfig:
    """An adapter's configuration. Raises ModelError where it cannot be read or holds invalid values."""
    from peft import PeftConfig

    file = folder / NAME
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise ValueError(f"{file.stat().st_size:,} bytes")
        text = file.read_text(encoding="utf-8")
        content = json.loads(text)
        if isinstance(content, dict) and content.get("peft_type") == "LORA":
            _check_lora(text, file)
        return PeftConfig.from_pretrained(str(folder))
    except ModelError:
        raise
    except Exception as error:  # whatever a broken file raises, the user needs its name and not a traceback
        raise ModelError(f"{folder}: its {NAME} cannot be read: {first_line(error)}") from error


def why_not_merged(config: PeftConfig) -> str | None:
    """Why an adapter cannot be merged into the weights of its base; None where it can."""
    from peft import LoraConfig

    if not isinstance(config, LoraConfig):
        kind = getattr(config.peft_type, "value", config.peft_type)
        return f"an adapter of kind {kind}; only LoRA (with rsLoRA and DoRA) can be merged"
    unmerged = [name for name in UNMERGED if getattr(config, name, None)]
    if changes_base(config):
        unmerged.append(f"init_lora_weights={config.init_lora_weights}")
    return f"a LoRA adapter with {unmerged[0]}, which cannot be merged" if unmerged else None


def changes_base(config: LoraConfig) -> bool:
    """Whether the base's weights were changed before the adapter was trained beside them."""
    return str(config.init_lora_weights).lower().startswith(CHANGES_BASE)


def check_patterns(config: LoraConfig, names: Iterable[str], folder: Path) -> None:
    """Lets the configuration's patterns run over the names of the model's modules, within a bound of time.

    A process of its own tries them, since only a process can be ended while it backtracks.

    Raises:
        ModelError: one takes too long, or is no pattern.
    """
    patterns = [text for text in (config.target_modules, config.exclude_modules) if isinstance(text, str)]
    layers = config.layers_pattern or []
    patterns += [rf".*\.{one}\.(\d+)\." for one in ([layers] if isinstance(layers, str) else layers)]
    patterns += [rf"(.*\.)?({one})$" for one in (*(config.rank_pattern or ()), *(config.alpha_pattern or ()))]
    patterns += [rf"(^|.*\.){one}($|\..*)" for one in config.modules_to_save or ()]
    plain = {*(config.rank_pattern or ()), *(config.alpha_pattern or ()), *(config.modules_to_save or ())}
    if len(patterns) == len(plain) and all(re.fullmatch(r"[\w.-]*", name) for name in plain):
        return
    command = [sys.executable, "-I", "-S", "-c", _TRIAL, str(PATTERN_SECONDS)]
    asked = json.dumps([patterns, list(names)])
    try:
        tried = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        tried = None
    if tried is None or tried.returncode < 0:
        raise ModelError(
            f"{folder / NAME}: a pattern in target_modules, exclude_modules, modules_to_save, "
            f"layers_pattern, rank_pattern or alpha_pattern takes more than {PATTERN_SECONDS} seconds; "
            "write modules' names"
        )
    if tried.returncode:
        raise ModelError(f"{folder / NAME}: found an invalid pattern: {tried.stderr.splitlines()[-1]}")


_TRIAL = """
import json, re, resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[1]), int(sys.argv[1])))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    tried = re.compile(pattern)
    for name in names:
        tried.fullmatch(name)
        tried.match(name)
"""


def first_line(error: Exception) -> str:
    """What an error of a library says, short enough for a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:500]


def _check_lora(text: str, file: Path) -> None:
    try:
        lora = _LORA.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:60]
        raise ModelError(f"{file}: {where}: found {first['input']!r:.60}: {first['msg']}") from error
    if lora.get("alora_invocation_tokens"):
        raise ModelError(
            f"{file}: found alora_invocation_tokens: an adapter that is active behind these tokens alone, "
            "which this project does not run"
        )
    _, _, iterations = str(lora.get("init_lora_weights")).partition("_niter_")
    if iterations and not (iterations.isdecimal() and int(iterations[:9]) <= LARGEST_ITERATIONS):
        raise ModelError(
            f"{file}: init_lora_weights: found {iterations[:20]!r} iterations, expected up to "
            f"{LARGEST_ITERATIONS}"
        )
    ranges = lora.get("layer_replication") or []
    if sum(abs(end - start) for start, end in ranges) > LARGEST_DEPTH or len(ranges) > LARGEST_DEPTH:
        raise ModelError(f"{file}: layer_replication: makes more than {LARGEST_DEPTH:,} layers")
