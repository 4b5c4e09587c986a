"""This project's decode loop.     python ours.py FOLDER PROMPT_TOKENS NEW_TOKENS"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from answering import Decode, prompt, take_turns

from llm_finetune.generation.decoding import decode
from llm_finetune.inference_benchmark.instance import weight_bytes_per_token
from llm_finetune.models.loading import load_weights
from llm_finetune.quantization.quantized_model import DESCRIPTION, load_quantized

folder, prompt_tokens, new_tokens = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])


def load() -> tuple[Decode, dict[str, object]]:
    if (folder / DESCRIPTION).is_file():
        model = load_quantized(folder)
    else:
        model = load_weights(folder, torch.bfloat16, trust_remote_code=False).eval()
    said: dict[str, object] = {"weight_bytes_per_token": weight_bytes_per_token(model)}
    return lambda: decode(model, [prompt(prompt_tokens)], max_new_tokens=new_tokens), said


take_turns(load, torch=torch.__version__)
