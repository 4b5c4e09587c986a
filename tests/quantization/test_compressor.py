"""neural-compressor is loaded where it is needed alone, and leaves nothing in the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cli_runner import SRC

CODE = """
import sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from llm_finetune.models.adapters import LoraPlan, add_adapters
from llm_finetune.quantization.packed_weights import Scheme
from llm_finetune.quantization.rtn import round_to_nearest

config = LlamaConfig(
    vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
)
add_adapters(LlamaForCausalLM(config), LoraPlan(2, 4, 0.0, ("q_proj",)))
assert "neural_compressor" not in sys.modules, "adapters do without"
round_to_nearest(torch.ones(4, 32), Scheme(4, 32, True))
assert "neural_compressor" in sys.modules
"""


def test_it_is_loaded_late_and_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "WARNING" not in done.stderr
