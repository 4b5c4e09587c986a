"""How fast one answer is decoded, against what else decodes on a CPU.

python benchmarks/decode.py [--model 0.7b] [--rounds 5]

Models by config with random weights, the same for all. Batch 1, a prompt of 64 tokens, 128 new ones.
llama.cpp lives in the environment that `make benchmark-peers` makes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from alternating_runner import HERE, Program, in_turns
from inputs import MODELS, VOCABULARY
from peer_environments import CACHE, peer
from worker_protocol import Answer

from report import bars, machine, markdown, parser, peak_memory, spread, write

PROMPT, NEW = 64, 128
JUDGED = ("130m", "0.7b", "0.7b-gqa")
OURS, PEER = "ours, 4 bit", "llama.cpp, Q4_0"
COLUMNS = {
    "name": "",
    "rate": "tokens/s",
    "range": "least - most",
    "share": "of the bandwidth",
    "ratio": "ours, 4 bit, is faster by",
    "first": "prompt (ms)",
    "load": "loaded in (s)",
    "memory": "peak memory (GB)",
}


def main() -> None:
    options = _options()
    results: Answer = {"machine": machine(), "prompt_tokens": PROMPT, "new_tokens": NEW, "models": {}}
    pictured: list[tuple[str, float]] = []
    tables: list[str] = []
    llama_cpp = peer("llama-cpp")
    for name in options.model or JUDGED:
        folder = CACHE / "benchmark" / name / "decode"
        make(folder, MODELS[name], llama_cpp)
        found = in_turns(programs(name, folder, llama_cpp), options.rounds, bandwidth=True)
        results["models"][name] = found
        tables.append(f"#### {name}\n\n{markdown(_rows(found), COLUMNS)}\n")
        print(tables[-1], flush=True)
        pictured += [(f"{name}: {row['name']}", row["tokens_per_second"]) for row in found]
    title = f"Decoding, batch 1, on {results['machine']['cores']} cores (tokens a second)"
    write(options.out, "decode", results, "\n".join(tables), bars(title, pictured, ""))


def programs(name: str, folder: Path, llama_cpp: str) -> list[Program]:
    """All decoders of a model; of the grouped-query variant the two that matter."""
    sizes = [str(PROMPT), str(NEW)]

    def here(file: str, *arguments: str) -> list[str]:
        return [sys.executable, str(HERE / "decoders" / file), *arguments]

    def llama(file: str) -> list[str]:
        program = str(HERE / "decoders" / "llama_cpp_decode.py")
        return [llama_cpp, program, str(folder / file), *sizes, str(machine()["cores"])]

    ours = Program(OURS, here("ours.py", str(folder / "quantized"), *sizes))
    peer = Program(PEER, llama("q4_0.gguf"))
    if name.endswith("gqa"):
        return [ours, peer]
    generate = [str(folder), *sizes]
    return [
        ours,
        peer,
        Program("ours, bf16", here("ours.py", str(folder), *sizes)),
        Program("llama.cpp, bf16", llama("bf16.gguf")),
        Program("transformers, bf16", here("transformers_generate.py", *generate, "dynamic")),
        Program("transformers, bf16, compiled", here("transformers_generate.py", *generate, "static")),
        Program("neural-compressor's module, 4 bit, fp32", here("neural_compressor_module.py", *generate), 1),
    ]


def make(folder: Path, sizes: dict[str, int], llama_cpp: str) -> None:
    """The model with random weights, quantized by rounding (4 bits, groups of 32), and as GGUF."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    from llm_finetune.config import QuantizeSettings
    from llm_finetune.models.merging import TunedModel
    from llm_finetune.quantization.quantize import quantize

    if (folder / "q4_0.gguf").is_file():
        return
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=2048, dtype="bfloat16", **sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    settings = QuantizeSettings.model_validate(
        {
            "peftModelDir": None,
            "outputDir": str(folder / "quantized"),
            "woqAlgo": "RTN",
            "woqBits": 4,
            "woqGroupSize": 32,
            "woqScheme": "sym",
            "calibrationSamples": 1,
        }
    )
    quantize(TunedModel(folder), settings, texts=[])
    program = HERE / "decoders" / "write_gguf.py"
    subprocess.run([llama_cpp, str(program), str(folder)], check=True, capture_output=True)


def _rows(found: list[Answer]) -> list[Answer]:
    ours = next(row["tokens_per_second"] for row in found if row["name"] == OURS)
    rows = []
    for row in found:
        rate = row["tokens_per_second"]
        read = row.get("weight_bytes_per_token")
        rows.append(
            {
                "name": row["name"],
                "rate": f"{rate:.1f}",
                "range": spread(row, "tokens_per_second", ".1f"),
                "share": f"{read * rate / row['bandwidth']:.2f}" if read else "",
                "ratio": f"{ours / rate:.2f}",
                "first": f"{row['first_token_seconds'] * 1000:.0f}",
                "load": f"{row['load_seconds']:.1f}",
                "memory": f"{peak_memory(row) / 1e9:.2f}",
            }
        )
    return rows


def _options() -> Any:
    asked = parser(__doc__, rounds=5)
    asked.add_argument("--model", action="append", choices=MODELS)
    return asked.parse_args()


if __name__ == "__main__":
    main()
