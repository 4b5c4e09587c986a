"""Speed never changes what is learned: each fast way against the model's own, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from llm_finetune.data.prepared_dataset import IGNORE_INDEX
from llm_finetune.errors import ModelError
from llm_finetune.kernels.compile import NotCompiledError
from llm_finetune.kernels.equivalence_check import on_trial
from llm_finetune.kernels.precision import Precision
from llm_finetune.kernels.training import attention, bindings, output_head
from llm_finetune.kernels.training.optimize import Switches, optimize_lora_layers, optimize_model
from llm_finetune.kernels.training.output_head import FusedLinearCrossEntropyHead
from llm_finetune.models.adapters import ALL_LINEAR, LoraPlan, add_adapters
from llm_finetune.objectives.log_probs import label_log_probs
from tiny_model import ARCHITECTURES, VOCABULARY, tiny_model

# Within one window, over a window, over a block of queries; and one of a single trained token.
LENGTHS = ((7, 50, 2), (3, 40, 9, 4), (59,))


@pytest.fixture(params=["compiled", "torch"])
def passes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With the compiled kernels, and without a compiler."""
    if request.param == "torch":
        monkeypatch.setattr(bindings, "compiled", none_here)
    bindings.kernels.cache_clear()
    if request.param == "compiled" and bindings.kernels() is None:
        pytest.skip("no C++ compiler here")
    yield request.param
    bindings.kernels.cache_clear()


def none_here(*_: object) -> Any:
    raise NotCompiledError("no compiler")


def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three rows of records, padded; some of each record is trained on."""
    generator = torch.Generator().manual_seed(1)
    width = max(map(sum, LENGTHS))
    input_ids = torch.zeros(len(LENGTHS), width, dtype=torch.long)
    position_ids, labels = input_ids.clone(), torch.full_like(input_ids, IGNORE_INDEX)
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for length in lengths:
            place = slice(start, start + length)
            input_ids[row, place] = torch.randint(3, VOCABULARY, (length,), generator=generator)
            position_ids[row, place] = torch.arange(length)
            labels[row, start + 1 + length // 3 : start + length] = input_ids[
                row, start + 1 + length // 3 : start + length
            ]
            start += length
        position_ids[row, start:] = torch.arange(width - start)
    return input_ids, position_ids, labels


def made_fast(model: Any, switches: Switches | None = None, precision: Precision | None = None) -> Any:
    ask = partial(label_log_probs, model)
    optimize_model(model, switches or Switches(), ask, ignored=IGNORE_INDEX, precision=precision)
    return model


def with_adapter(model: Any, dropout: float = 0.0) -> Any:
    torch.manual_seed(3)
    tuned = add_adapters(model, LoraPlan(4, 8, dropout, (ALL_LINEAR,)))
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:  # zero at first: nothing would reach A's gradient
            torch.nn.init.normal_(weights, std=0.1)
    return tuned


def outcome(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Log-probabilities, and the gradients of a loss that weighs each label differently."""
    log_probs = label_log_probs(model, *rows())
    (log_probs * torch.linspace(0.5, 1.5, len(log_probs))).sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return log_probs.detach(), grads


def assert_equal(fast: Any, plain: Any, tolerance: float) -> None:
    (found, found_grads), (expected, expected_grads) = outcome(fast), outcome(plain)
    assert found.dtype == torch.float32
    assert distance(found, expected) < tolerance
    assert found_grads.keys() == expected_grads.keys()
    for name, grad in expected_grads.items():
        assert distance(found_grads[name], grad) < tolerance, name


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / (expected.double().norm() + 1e-12))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapter_in_fp32(architecture: str, passes: str) -> None:
    fast = with_adapter(made_fast(tiny_model(architecture)))
    optimize_lora_layers(fast, "on")
    assert_equal(fast, with_adapter(tiny_model(architecture)), 1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_weights_in_fp32(architecture: str, passes: str) -> None:
    assert_equal(made_fast(tiny_model(architecture)), tiny_model(architecture), 1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapter_in_bf16_is_as_near_to_fp32_as_the_plain_one(architecture: str, passes: str) -> None:
    fast = with_adapter(made_fast(tiny_model(architecture).bfloat16()))
    optimize_lora_layers(fast, "on")
    exact, exact_grads = outcome(with_adapter(tiny_model(architecture).bfloat16().float()))
    plain, plain_grads = outcome(with_adapter(tiny_model(architecture).bfloat16()))
    found, found_grads = outcome(fast)
    assert distance(found, exact) < 2 * distance(plain, exact) + 1e-3
    whole = [torch.cat([g[name].flatten() for name in exact_grads]) for g in (found_grads, plain_grads)]
    grads = torch.cat([grad.flatten() for grad in exact_grads.values()])
    assert distance(whole[0], grads) < 2 * distance(whole[1], grads) + 1e-3


def test_all_weights_under_autocast(passes: str) -> None:
    fast = made_fast(
        tiny_model("llama"), Switches("on", "on", "auto"), Precision(torch.float32, autocast=True)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found, grads = outcome(fast)
        expected, expected_grads = outcome(tiny_model("llama"))
    assert distance(found, expected) < 0.01
    for name, grad in expected_grads.items():
        assert distance(grads[name], grad) < 0.05, name


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_the_head_in_chunks(kept_bytes: int, passes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights' gradient from logits that were kept, and from those computed again."""
    monkeypatch.setattr(output_head, "CHUNK_BYTES", 0)
    monkeypatch.setattr(output_head, "MAX_SAVED_BYTES", kept_bytes)
    assert int((rows()[2][:, 1:] != IGNORE_INDEX).sum()) > 2 * 32  # what a chunk holds at least
    fast = made_fast(tiny_model("llama"), Switches("off", "on", "off"))
    assert_equal(fast, tiny_model("llama"), 1e-5)


def test_what_is_taken() -> None:
    """Otherwise the tests above would compare a model with itself."""
    model = made_fast(tiny_model("llama"))
    assert model.config._attn_implementation == attention.NAME
    assert isinstance(model.get_output_embeddings(), FusedLinearCrossEntropyHead)
    assert bindings.kernels() is None or "forward" in vars(model.model.norm)
    assert with_adapter(model).get_output_embeddings() is model.get_output_embeddings()


def test_off_leaves_the_model_alone() -> None:
    model = made_fast(tiny_model("llama"), Switches("off", "off", "off"))
    assert model.config._attn_implementation == "sdpa"
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    assert not any("forward" in vars(layer) for layer in model.modules())


def test_capped_logits_stay_on_the_plain_path() -> None:
    """Gemma 2 caps attention scores and logits, which the fast ways do not know."""
    model = made_fast(tiny_model("gemma2"))
    assert model.config._attn_implementation != attention.NAME
    assert type(model.get_output_embeddings()) is torch.nn.Linear
    with pytest.raises(ModelError, match=r"optimizations\.fusedCrossEntropy: found on"):
        made_fast(tiny_model("gemma2"), Switches(head="on"))


@pytest.mark.parametrize(
    ("architecture", "rates"),
    [
        ("gpt2", {}),  # attn_pdrop, embd_pdrop and resid_pdrop of 0.1, as it comes
        ("llama", {"attention_dropout": 0.2}),
        ("gpt_neox", {"attention_dropout": 0.2}),
    ],
)
def test_attention_that_drops_weights_stays_the_models_own(
    architecture: str, rates: dict[str, float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        model = made_fast(tiny_model(architecture, **rates)).train()
    assert model.config._attn_implementation != attention.NAME
    assert "not enabled: attention (NotImplementedError: it requires dropout)" in caplog.text
    assert isinstance(model.get_output_embeddings(), FusedLinearCrossEntropyHead)
    outcome(model)
    with pytest.raises(ModelError, match=r"optimizations\.packedAttention: found on.*dropout"):
        made_fast(tiny_model(architecture, **rates), Switches(attention="on"))


@pytest.mark.parametrize(
    ("architecture", "rates"),
    [
        ("gpt2", {"attn_pdrop": 0.0, "resid_pdrop": 0.3, "embd_pdrop": 0.3}),
        ("gpt_neox", {"hidden_dropout": 0.3}),
    ],
)
def test_dropout_of_hidden_states_is_kept_beside_the_fast_ways(
    architecture: str, rates: dict[str, float]
) -> None:
    model, plain = made_fast(tiny_model(architecture, **rates)), tiny_model(architecture, **rates)
    assert model.config._attn_implementation == attention.NAME
    found, expected = (in_training(one) for one in (model, plain))
    assert distance(found, expected) < 1e-5
    assert distance(found, label_log_probs(model, *rows()).detach()) > 1e-4  # it did drop


def in_training(model: Any) -> torch.Tensor:
    with on_trial(model, training=True), torch.no_grad():
        return label_log_probs(model, *rows())


def test_a_way_that_is_equal_in_evaluation_alone_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-in for attention that leaves out the dropout it is asked for."""
    monkeypatch.setattr(attention, "attend", deaf_to_dropout(attention.attend))
    with caplog.at_level("INFO"):
        model = made_fast(tiny_model("llama", attention_dropout=0.2))
    assert model.config._attn_implementation != attention.NAME
    assert "attention (its outputs in training would differ by" in caplog.text


def deaf_to_dropout(attend: Callable[..., Any]) -> Callable[..., Any]:
    def attended(*args: Any, dropout: float = 0.0, **others: Any) -> Any:
        return attend(*args, **others)

    return attended


def test_generating_is_as_before() -> None:
    plain, fast = tiny_model("mistral"), made_fast(tiny_model("mistral"))
    prompts = torch.randint(3, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(prompts)
    mask[0, :5] = 0  # padded on the left
    texts = [
        m.generate(prompts, attention_mask=mask, max_new_tokens=12, do_sample=False) for m in (plain, fast)
    ]
    assert torch.equal(*texts)


def test_checkpointed_activations_change_nothing() -> None:
    """A layer that is run again in the backward pass sees the same records, and the same dropout."""
    results = []
    for checkpointed in (False, True):
        model = with_adapter(made_fast(tiny_model("llama")), dropout=0.3)
        optimize_lora_layers(model, "on")
        model.train()
        if checkpointed:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        results.append(outcome(model))
    assert torch.equal(results[0][0], results[1][0])
    for name, grad in results[0][1].items():
        assert distance(results[1][1][name], grad) < 1e-5, name


def test_dropout_keeps_its_rate_and_scale(passes: str) -> None:
    from llm_finetune.kernels.training.ops import dropped

    ones = torch.ones(200_000)
    result = dropped(ones, 0.1, seed=7)
    assert torch.equal(result, dropped(ones, 0.1, seed=7))
    assert result.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert float((result == 0).float().mean()) == pytest.approx(0.1, abs=0.005)
    assert not torch.equal(result, dropped(ones, 0.1, seed=8))


def test_a_loss_that_is_not_a_number_stays_one(passes: str) -> None:
    model = made_fast(tiny_model("llama"))
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    assert label_log_probs(model, *rows()).isnan().all()


def test_a_batch_without_a_label_gives_none() -> None:
    model = with_adapter(made_fast(tiny_model("llama")))
    optimize_lora_layers(model, "on")
    empty = torch.zeros(1, 2, dtype=torch.long)
    log_probs = label_log_probs(
        model, empty, torch.arange(2).unsqueeze(0), torch.full_like(empty, IGNORE_INDEX)
    )
    assert log_probs.shape == (0,)
    log_probs.sum().backward()


def test_attention_that_cannot_be_replaced_is_not_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    model = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=1, n_head=4))
    with caplog.at_level("INFO"):
        made_fast(model.eval())
    assert "not enabled: attention (its code implements its own)" in caplog.text
