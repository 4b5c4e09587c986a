"""Trained weights that no label depends on: named where several ranks would wait for their gradient."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import transformers

from cli_runner import assignments
from minimal_settings import PLAIN
from process_pool import Warm


@pytest.fixture(scope="module")
def seeing(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of text that also sees, with the tokenizer of the shared one."""
    folder = tmp_path_factory.mktemp("seeing")
    for file in model_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    shapes = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24}
    text = {
        **shapes,
        "vocab_size": 320,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 24,
        "query_pre_attn_scalar": 8,
    }
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config={**shapes, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=317,
        eoi_token_index=318,
        image_token_index=319,
    )
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("looks", "code"), [(False, 2), (True, 0)])
def test_two_ranks_name_the_key_or_train(
    looks: bool, code: int, seeing: Path, data_file: Path, warm: Warm, tmp_path: Path
) -> None:
    values = {
        **PLAIN,
        "modelNameOrPath": str(seeing),
        "train__dataFile": str(data_file),
        "train__outputDir": str(tmp_path / "out"),
        "train__loraTargetModules": "all-linear",
        "train__maxSteps": 2,
        "train__saveStrategy": "no",
        "train__ddpFindUnusedParameters": looks,
        "doEval": False,
    }
    for ended in warm.run_group(["run", *assignments(**values)], 2, {}):
        assert ended.code == code, ended.text
        assert "Traceback" not in ended.text
        assert looks or "ddpFindUnusedParameters: " in ended.text
        assert looks or "vision_tower" in ended.text
