"""Settings of a small, exact run: what tests of several rooms begin with."""

from __future__ import annotations

from pathlib import Path

from llm_finetune.config import QuantizeSettings, load

# Exact arithmetic and a learning rate that shows something after a few steps.
PLAIN = {
    "train__bf16": False,
    "train__useIpex": False,
    "train__loraDropout": 0.0,
    "train__learningRate": 0.02,
    "train__datasetName": None,
    "train__perDeviceBatchSize": 2,
    "train__ddpBackend": "gloo",
    "train__maxSeqLength": 128,
    "train__promptWithInput": "Do what is asked.",
    "train__reportTo": None,
    "train__optimizations__memoryAllocator": "off",  # it would start the tests themselves again
    "eval__perDeviceBatchSize": 3,
    "eval__numGeneratedSamples": 0,
}


def quantize_settings(output: Path, algorithm: str) -> QuantizeSettings:
    """4 bits in groups of 16, which a tiny model's rows are made of."""
    values = {"outputDir": output, "woqBits": 4, "woqGroupSize": 16, "woqAlgo": algorithm}
    given = [f"distributed.quantize.{key}={value}" for key, value in values.items()]
    return load([], [], given, []).settings.quantize
