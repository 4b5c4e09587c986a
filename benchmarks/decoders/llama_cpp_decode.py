"""llama.cpp through llama-cpp-python.     python llama_cpp_decode.py FILE.gguf PROMPT NEW THREADS"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import llama_cpp
import numpy as np
from answering import Decode, prompt, take_turns

file, prompt_tokens, new_tokens, threads = sys.argv[1], *map(int, sys.argv[2:5])


def load() -> tuple[Decode, dict[str, object]]:
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(file.encode(), llama_cpp.llama_model_default_params())
    assert model, f"{file} could not be loaded"
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = prompt_tokens + new_tokens + 32
    settings.n_threads = settings.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(model, settings)
    vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def decode() -> Iterator[object]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        ids = prompt(prompt_tokens)
        for _ in range(new_tokens):
            tokens = (llama_cpp.llama_token * len(ids))(*ids)
            failed = llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
            assert not failed, f"llama_decode: {failed}"
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (vocabulary,))
            ids = [int(logits.argmax())]
            yield ids

    return decode, {}


take_turns(load, llama_cpp_python=llama_cpp.__version__)
