"""A whole step in one call gives what the model's own layers give, within what bf16 leaves open."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_finetune.generation import decoding
from llm_finetune.generation.decoding import decode
from llm_finetune.generation.native_decoder import NativeStep, unsupported_reason
from llm_finetune.kernels.inference.library import library
from llm_finetune.quantization.linear import quantized_linear
from llm_finetune.quantization.native_linear import NativeLinear
from llm_finetune.quantization.packed_weights import Scheme, rounded_to_8_bits
from llm_finetune.quantization.rtn import round_to_nearest
from tiny_model import VOCABULARY, tiny_model

pytestmark = pytest.mark.skipif(
    library() is None, reason="no native kernels: no C compiler, or a processor without AVX512-BF16"
)

STEPS = 12
LENGTHS = (3, 30, 11)  # the longest goes beyond mistral's sliding window of 16


def qwen3() -> Any:
    """It norms its queries and keys, and its heads are wider than its hidden states."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        max_position_embeddings=128,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def rotated_otherwise() -> Any:
    """Llama 3's rotation, several heads a key head, tied embeddings, and biases everywhere."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=72,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.02)
    return model


MODELS = {
    "llama": partial(tiny_model, "llama"),
    "qwen2": partial(tiny_model, "qwen2"),
    "mistral": partial(tiny_model, "mistral"),
    "qwen3": qwen3,
    "llama3": rotated_otherwise,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    """In bf16, with likelier tokens than random weights have."""
    made = MODELS[request.param]().bfloat16()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3)
    return made


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def quantized(model: Any, bits: int, group: int, symmetric: bool) -> Any:
    for path, linear in list(model.named_modules()):
        if isinstance(linear, torch.nn.Linear) and path != "lm_head":
            weight = round_to_nearest(linear.weight.float(), Scheme(bits, group, symmetric))
            model.set_submodule(path, quantized_linear(weight, linear.bias, torch.bfloat16))
    model.set_output_embeddings(NativeLinear(rounded_to_8_bits(model.lm_head.weight), None))
    return model


def exact(model: Any) -> Any:
    """The same weights in fp32."""
    plain = deepcopy(model)
    for path, module in list(plain.named_modules()):
        if isinstance(module, NativeLinear):
            linear = torch.nn.Linear(module.in_features, module.out_features, module.bias is not None)
            # The product with one column after the other is the weight.
            bias = torch.zeros(1) if module.bias is None else module.bias
            linear.weight.data = (module(torch.eye(module.in_features)) - bias).T.contiguous()
            if module.bias is not None:
                linear.bias.data = module.bias
            plain.set_submodule(path, linear)
    return plain.float()


def errors(model: Any, asked: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> tuple[float, float]:
    """How far the logits of the step, and of the model's own layers, are from fp32's: means over steps."""

    def reader(model: Any, native: bool) -> Any:
        with monkeypatch.context() as patched:
            if not native:
                patched.setattr(decoding, "native_step", lambda *_, **__: None)
            made = decoding._reader(model, asked, STEPS)
            logits = made.read_prompts()
        assert (made._step is not None) == native
        return made, logits

    found: list[list[float]] = []
    with torch.inference_mode():
        readers, read = zip(
            reader(exact(model), False), reader(model, True), reader(model, False), strict=True
        )
        for _ in range(STEPS - 1):
            truth, step, own = read
            found.append([float((other - truth).norm() / truth.norm()) for other in (step, own)])
            ids = truth.argmax(1, keepdim=True)
            read = [each.read(ids) for each in readers]
    step_off, own_off = torch.tensor(found).mean(0).tolist()
    return step_off, own_off


@pytest.mark.parametrize("lengths", [LENGTHS, (30,), (3,), (100, 70), tuple(range(1, 14))])
def test_logits_are_as_near_to_fp32s_as_those_of_the_models_own_layers(
    model: Any, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, own = errors(model, prompts(*lengths), monkeypatch)
    assert step < 1.5 * own < 0.15


@pytest.mark.parametrize(
    ("bits", "group", "symmetric"), [(4, 32, True), (4, 16, False), (3, -1, True), (8, -1, False)]
)
def test_quantized_logits_too(
    model: Any, bits: int, group: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, own = errors(quantized(model, bits, group, symmetric), prompts(*LENGTHS), monkeypatch)
    assert step < 1.5 * own < 0.15


def test_it_chooses_what_fp32_would_but_for_ties(model: Any) -> None:
    truth = exact(model)
    for prompt in prompts(*LENGTHS):
        ids = [token.id for (token,) in decode(model, [prompt], max_new_tokens=STEPS) if token]
        with torch.no_grad():
            logits = truth(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(ids).unsqueeze(1)).squeeze(1)
        assert ((logits.amax(1) - chosen) / logits.std(1)).max() < 0.5
        assert (logits.argmax(1) == torch.tensor(ids)).float().mean() > 0.6


def hook(model: Any) -> Any:
    model.model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: None)
    return model


def adapt(model: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hook, "up_proj has a hook"),
        (adapt, "PeftModelForCausalLM is not supported"),
        (lambda model: model.float(), "torch.float32"),
        (lambda _: tiny_model("gemma2").bfloat16(), "Gemma2ForCausalLM is not supported"),
    ],
)
def test_what_it_does_not_know_stays_with_the_model(change: Any, reason: str) -> None:
    model = tiny_model("llama").bfloat16()
    assert unsupported_reason(model) is None
    changed = change(model)
    assert reason in (unsupported_reason(changed) or "")
    assert len(list(decode(changed, prompts(4), max_new_tokens=3))) == 3


def test_without_a_compiler_torch_answers(tmp_path: Path) -> None:
    """In a process of its own, since a library stays in a process."""
    program = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "from llm_finetune.kernels.inference.library import library\n"
        "print(library())"
    )
    environment = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None"
    assert done.stderr.count("no compiler; install gcc") == 1


@pytest.mark.parametrize("wrong", [VOCABULARY, -1])
def test_a_token_that_the_model_does_not_know_is_refused(wrong: int) -> None:
    """As torch's embedding does: nothing is read beyond the weights."""
    with pytest.raises(IndexError):
        list(decode(tiny_model("llama").bfloat16(), [[5, wrong]], max_new_tokens=2))


def test_nothing_asked_is_nothing_answered() -> None:
    assert list(decode(tiny_model("llama").bfloat16(), [], max_new_tokens=2)) == []


def test_a_step_holds_the_room_it_was_given() -> None:
    step = NativeStep(tiny_model("llama").bfloat16(), [0], capacity=5)
    step.read(torch.tensor([[5, 6, 7]]))
    step.read(torch.tensor([[8, 9]]))
    with pytest.raises(IndexError):
        step.read(torch.tensor([[9]]))
