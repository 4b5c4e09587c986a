"""A Llama folder with one safetensors file in bf16, for llama.cpp: in bf16 and in Q4_0.

python write_gguf.py FOLDER      writes FOLDER/bf16.gguf and FOLDER/q4_0.gguf
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def main(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    heads, key_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(folder / "bf16.gguf", "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name, bits in weights(folder / "model.safetensors"):
        path, last = name.removesuffix(".weight"), name.split(".")[-2]
        if last in ("q_proj", "k_proj"):
            bits = interleaved(bits, heads if last == "q_proj" else key_heads)
        target = OUTER.get(path) or in_block(path)
        if bits.ndim == 1:
            writer.add_tensor(f"{target}.weight", (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(
                f"{target}.weight", bits.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
    files = (str(folder / name).encode() for name in ("bf16.gguf", "q4_0.gguf"))
    assert not llama_cpp.llama_model_quantize(*files, options)


def in_block(path: str) -> str:
    _, _, number, inner = path.split(".", 3)
    return f"blk.{number}.{NAMES[inner]}"


def weights(file: Path) -> list[tuple[str, np.ndarray]]:
    """Each with its bits, uint16."""
    content = np.memmap(file, np.uint8, "r")
    start = 8 + int(content[:8].view(np.uint64)[0])
    found = []
    for name, entry in json.loads(bytes(content[8:start])).items():
        if name != "__metadata__":
            first, end = (start + offset for offset in entry["data_offsets"])
            found.append((name, np.array(content[first:end]).view(np.uint16).reshape(entry["shape"])))
    return found


def interleaved(bits: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp rotates them: neighbors, where transformers rotates halves."""
    rows, columns = bits.shape
    halves = bits.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
