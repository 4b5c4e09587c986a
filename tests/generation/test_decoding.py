"""The decode loop against transformers' own generate, full forward passes and exact probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_finetune.errors import ModelError
from llm_finetune.generation.decoding import Sampling, Token, decode
from tiny_model import ARCHITECTURES, VOCABULARY, tiny_model

LENGTHS = (3, 30, 11)  # the longest goes beyond the sliding windows of gemma2 and mistral
STEPS = 12
CONTEXT = 128


@pytest.fixture(scope="module", params=[*ARCHITECTURES, "gpt2"])
def model(request: pytest.FixtureRequest) -> Any:
    return sharpened(gpt2() if request.param == "gpt2" else tiny_model(request.param))


def gpt2() -> Any:
    """The others know only how far apart tokens are; this model learns absolute positions."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=CONTEXT)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module")
def llama() -> Any:
    return sharpened(tiny_model("llama"))


def sharpened(model: Any) -> Any:
    """Random weights give nearly equal logits; these have likelier tokens, which change from step to step."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    return model


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def rows(steps: Any) -> list[list[Token | None]]:
    return [list(row) for row in zip(*steps, strict=True)]


def ids(row: list[Token | None]) -> list[int]:
    return [token.id for token in row if token]


def generated(model: Any, prompt: list[int], **options: Any) -> list[int]:
    """What transformers' generate adds to one prompt, greedily."""
    defaults = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    output = model.generate(torch.tensor([prompt]), **{**defaults, **options})
    added: list[int] = output[0, len(prompt) :].tolist()
    return added


def test_greedy_is_transformers_generate_alone_and_in_a_batch_of_unequal_prompts(model: Any) -> None:
    asked = prompts(*LENGTHS)
    together = rows(decode(model, asked, max_new_tokens=STEPS))
    assert len(set(map(tuple, map(ids, together)))) == len(asked)
    for prompt, row in zip(asked, together, strict=True):
        (alone,) = rows(decode(model, [prompt], max_new_tokens=STEPS))
        assert ids(alone) == ids(row) == generated(model, prompt)


def test_log_probabilities_are_those_of_one_full_forward_pass(model: Any) -> None:
    asked = prompts(*LENGTHS)
    sampling = Sampling(temperature=1.5, top_k=20, top_p=0.9)
    for prompt, row in zip(
        asked, rows(decode(model, asked, max_new_tokens=STEPS, sampling=sampling)), strict=True
    ):
        whole = torch.tensor([[*prompt, *ids(row)]])
        with torch.no_grad():
            log_probs = model(whole, use_cache=False).logits[0].log_softmax(-1)
        expected = log_probs[len(prompt) - 1 : -1].gather(1, whole[:, len(prompt) :].T).squeeze(1)
        assert [token.log_prob for token in row if token] == pytest.approx(expected.tolist(), abs=1e-4)


def test_the_prompt_is_read_once_and_the_head_sees_its_last_position_alone(llama: Any) -> None:
    read, headed = [], []
    handles = [
        llama.model.embed_tokens.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].shape[1])),
        llama.lm_head.register_forward_hook(lambda _, inputs, __: headed.append(inputs[0].shape[1])),
    ]
    list(decode(llama, prompts(*LENGTHS), max_new_tokens=4))
    for handle in handles:
        handle.remove()
    assert read == [30, 1, 1, 1]
    assert headed == [1, 1, 1, 1]


def test_an_end_token_ends_its_prompt_alone(llama: Any) -> None:
    asked = prompts(5, 8)
    free = [ids(row) for row in rows(decode(llama, asked, max_new_tokens=STEPS))]
    end = next(token for token in free[0][2:] if token not in free[1])
    ended, other = rows(decode(llama, asked, max_new_tokens=STEPS, end_ids={end}))
    assert ids(ended) == generated(llama, asked[0], eos_token_id=end) == free[0][: free[0].index(end) + 1]
    assert set(ended[len(ids(ended)) :]) == {None}
    assert ids(other) == free[1]
    (alone,) = rows(decode(llama, asked[:1], max_new_tokens=STEPS, end_ids={end}))
    assert alone[-1]
    assert alone[-1].id == end


def test_nothing_goes_beyond_the_context(llama: Any) -> None:
    asked = prompts(CONTEXT - 3, 10, CONTEXT - 1)
    near, far, nearest = rows(decode(llama, asked, max_new_tokens=STEPS))
    assert [len(ids(row)) for row in (near, far, nearest)] == [3, STEPS, 1]
    assert ids(near) == generated(llama, asked[0], max_new_tokens=3)
    assert ids(far) == generated(llama, asked[1])
    with pytest.raises(ModelError, match="128 tokens"):
        decode(llama, prompts(CONTEXT), max_new_tokens=1)
    with pytest.raises(ValueError, match="has no tokens"):
        decode(llama, [[3], []], max_new_tokens=1)


def test_sampling_is_reproducible_and_leaves_torchs_generator_alone(llama: Any) -> None:
    asked = prompts(*LENGTHS)

    def sampled(seed: int) -> list[list[int]]:
        sampling = Sampling(temperature=1.0, seed=seed)
        return [ids(row) for row in rows(decode(llama, asked, max_new_tokens=STEPS, sampling=sampling))]

    state = torch.get_rng_state()
    first = sampled(1)
    torch.rand(3)
    assert sampled(1) == first
    assert sampled(2) != first
    torch.set_rng_state(state)
    sampled(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5, top_k=7),
        Sampling(temperature=2.0, top_p=0.6),
        Sampling(temperature=1.5, top_k=12, top_p=0.8),
        Sampling(temperature=1.0, top_k=10_000, top_p=0.0),
    ],
)
def test_samples_follow_the_distribution_that_transformers_would_draw_from(
    llama: Any, sampling: Sampling
) -> None:
    from transformers import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    (prompt,) = prompts(6)
    draws = 6000
    (step,) = decode(llama, [prompt] * draws, max_new_tokens=1, sampling=sampling)
    counts = torch.bincount(torch.tensor([token.id for token in step if token]), minlength=VOCABULARY)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    warpers.append(TopPLogitsWarper(sampling.top_p))
    with torch.no_grad():
        logits = llama(torch.tensor([prompt])).logits[:, -1]
    probabilities = warpers(None, logits).softmax(-1)[0]
    # Only tokens of the support, and (Pearson's chi-square, loosely: mean df, standard deviation sqrt(2 df))
    # as often as they are likely.
    assert not counts[probabilities == 0].any()
    expected = probabilities * draws
    frequent = expected >= 5
    chi_square = float(((counts - expected)[frequent] ** 2 / expected[frequent]).sum())
    freedom = int(frequent.sum())
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_a_tiny_temperature_is_greedy(llama: Any) -> None:
    asked = prompts(*LENGTHS)
    greedy, cold = (
        [ids(row) for row in rows(decode(llama, asked, max_new_tokens=STEPS, sampling=sampling))]
        for sampling in (Sampling(), Sampling(temperature=1e-30))
    )
    assert greedy == cold


def test_the_caller_is_not_left_in_inference_mode(llama: Any) -> None:
    for _ in decode(llama, prompts(4), max_new_tokens=2):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_an_adapter_decodes_as_peft_generates(llama: Any) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(sharpened(tiny_model("llama")), config).eval()
    (prompt,) = prompts(9)
    (row,) = rows(decode(tuned, [prompt], max_new_tokens=STEPS))
    output = tuned.generate(
        input_ids=torch.tensor([prompt]),
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert ids(row) == output[0, len(prompt) :].tolist()
    assert ids(row) != generated(llama, prompt)


@pytest.mark.parametrize("kind", ["Mamba", "Mamba2", "Rwkv"])
def test_a_model_without_keys_and_values_is_transformers_generate(kind: str) -> None:
    """It keeps states, or nothing that it hands back; a prompt's padding would be in them."""
    import transformers

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    of_kind = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8} if kind == "Mamba2" else {}
    torch.manual_seed(0)
    ids_of = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**sizes, **of_kind, **ids_of)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.25)
    asked = prompts(*LENGTHS)
    for prompt, row in zip(asked, rows(decode(model, asked, max_new_tokens=STEPS)), strict=True):
        assert ids(row) == generated(model, prompt)
