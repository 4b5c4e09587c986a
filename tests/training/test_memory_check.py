"""A training that cannot fit is refused before the model loads, with what to lower."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from llm_finetune.config import load
from llm_finetune.errors import SettingsError
from llm_finetune.kernels.precision import Precision
from llm_finetune.training import memory_check
from tiny_model import tiny_model

GIGABYTE = 1_000_000_000


def check(monkeypatch: pytest.MonkeyPatch, limit: int, processes: int = 1, **train: Any) -> bool:
    settings = load([], [], [f"distributed.train.{key}={value}" for key, value in train.items()], []).settings
    monkeypatch.setattr(memory_check, "memory_limit", lambda: limit)
    return memory_check.choose_checkpointing(
        tiny_model("llama"),
        settings.train,
        Precision(torch.float32, autocast=False),
        row_positions=settings.train.max_seq_length,
        row_labels=settings.train.max_seq_length / 2,
        processes=processes,
    )


def test_what_cannot_fit_is_an_error_with_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as raised:
        check(monkeypatch, GIGABYTE, processes=4, useLora="false")
    (told,) = raised.value.problems
    assert "in each of 4 processes" in told
    assert "of 1 GB available" in told
    assert "useLora: true" in told


def test_what_is_close_is_a_warning_with_what_to_lower(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        shape = {"perDeviceBatchSize": 128, "gradientAccumulationSteps": 3}
        check(monkeypatch, GIGABYTE, **shape, gradientCheckpointing="false")
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "perDeviceBatchSize: 64 with gradientAccumulationSteps: 6" in record.getMessage()
    assert "gradientCheckpointing: auto" in record.getMessage()


def test_activations_are_computed_again_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check(monkeypatch, GIGABYTE, perDeviceBatchSize=128)
    assert not check(monkeypatch, 100 * GIGABYTE, perDeviceBatchSize=128)
    assert check(monkeypatch, 100 * GIGABYTE, gradientCheckpointing="true")


def test_what_fits_is_told_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        check(monkeypatch, 100 * GIGABYTE)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "estimated memory for training: " in record.getMessage()
