"""neural-compressor's own module, RTN, 4 bits, groups of 32.     python … FOLDER PROMPT NEW

In fp32, since it fails on a bf16 model; its cache is transformers'.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import version

import torch
from answering import Decode, prompt, take_turns

folder, prompt_tokens, new_tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


def load() -> tuple[Decode, dict[str, object]]:
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = RTNConfig(bits=4, group_size=32, use_sym=True).set_local("lm_head", RTNConfig(dtype="fp32"))
    model = convert(prepare(model, config))

    @torch.inference_mode()
    def decode() -> Iterator[object]:
        ids, past = torch.tensor([prompt(prompt_tokens)]), None
        for _ in range(new_tokens):
            output = model(ids, past_key_values=past, use_cache=True, logits_to_keep=1)
            ids, past = output.logits[:, -1].argmax(1, keepdim=True), output.past_key_values
            yield ids

    return decode, {}


take_turns(load, neural_compressor=version("neural-compressor-pt"))
