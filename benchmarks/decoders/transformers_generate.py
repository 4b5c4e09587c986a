"""transformers' generate in bf16.     python transformers_generate.py FOLDER PROMPT NEW dynamic|static"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from queue import Queue
from threading import Thread
from typing import Any

import torch
import transformers
from answering import Decode, prompt, take_turns

folder, prompt_tokens, new_tokens, cache = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]


class Streamer:
    """Hands tokens on as they come: the prompt first, then one after another."""

    def __init__(self) -> None:
        self.queue: Queue[object] = Queue()

    def put(self, tokens: Any) -> None:
        if tokens.numel() == 1:
            self.queue.put(tokens)

    def end(self) -> None:
        self.queue.put(None)


def load() -> tuple[Decode, dict[str, object]]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    ids = torch.tensor([prompt(prompt_tokens)])
    options: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
        "attention_mask": torch.ones_like(ids),
        **({"cache_implementation": "static"} if cache == "static" else {}),
    }

    def decode() -> Iterator[object]:
        streamer = Streamer()
        run = Thread(target=lambda: model.generate(ids, streamer=streamer, **options))
        run.start()
        yield from iter(streamer.queue.get, None)
        run.join()

    if cache == "static":
        model.forward = torch.compile(model.forward)  # type: ignore[method-assign]
        list(decode())  # compiles
    return decode, {}


take_turns(load, transformers=transformers.__version__, torch=torch.__version__)
