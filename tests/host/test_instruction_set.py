"""A whole job on an older processor's instructions, which are forced where this one has more."""

from __future__ import annotations

import json
from pathlib import Path

from cli_runner import assignments, run_apart
from llm_finetune.host.instruction_set import MAX_CPU_ISA
from minimal_settings import PLAIN


def test_a_job_on_avx2_alone(model_folder: Path, data_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    values = {
        **PLAIN,
        "modelNameOrPath": str(model_folder),
        "train__dataFile": str(data_file),
        "train__outputDir": str(out),
        "train__maxSteps": 2,
        "train__bf16": "auto",
        "eval__numGeneratedSamples": 1,
        "doQuantize": True,
        "quantize__peftModelDir": str(out),
        "quantize__outputDir": str(tmp_path / "quantized"),
        "quantize__woqBits": 4,
        "quantize__woqGroupSize": 32,
    }
    environment = {MAX_CPU_ISA: "avx2", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = run_apart(*assignments(**values), **environment)
    assert done.code == 0, done.text
    assert f"loading {model_folder} in float32" in done.text
    assert "this processor lacks avx512_bf16" in done.text
    assert json.loads((out / "eval_results.json").read_text())["tuned"]["loss"] > 0
