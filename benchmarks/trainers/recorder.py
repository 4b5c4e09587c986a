"""Runs a transformers Trainer in turns: a turn is a step, and the first prepares the trainer."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import worker_protocol

PACKAGES = ("torch", "transformers", "peft")


class Recorder:
    """Says of each step of the process's Trainer what it took and gave.

    Args:
        pad_id: token of padding, where the collator's mask does not tell.
        packages: whose versions are reported.
    """

    def __init__(self, pad_id: int, *packages: str) -> None:
        self.pad_id, self.packages = pad_id, packages
        self.tokens = self.labels = self.seen = 0
        self.loss, self.began, self.is_ready = 0.0, 0.0, False

    def listen(self) -> None:
        """From here on every Trainer of the process takes turns."""
        from transformers import Trainer, TrainerCallback

        recorder, micro_step, construct = self, Trainer.training_step, Trainer.__init__

        def counted(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            recorder.count(inputs)
            loss = micro_step(trainer, model, inputs, *args, **kwargs)
            recorder.loss += float(loss)
            return loss

        class Steps(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                recorder.begin()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                recorder.end()

        def constructed(trainer: Any, *args: Any, **kwargs: Any) -> None:
            construct(trainer, *args, **kwargs)
            trainer.add_callback(Steps())

        Trainer.training_step, Trainer.__init__ = counted, constructed

    def count(self, inputs: Any) -> None:
        mask = inputs.get("attention_mask")
        if "tokens" in inputs:
            self.tokens += int(inputs["tokens"])
        elif mask is not None and mask.dim() == 2:
            self.tokens += int((mask > 0).sum())
        else:
            self.tokens += int((inputs["input_ids"] != self.pad_id).sum())
        self.labels += int((inputs["labels"][:, 1:] != -100).sum())
        if "position_ids" in inputs:
            positions = inputs["position_ids"][inputs["input_ids"] != self.pad_id]
            self.seen += int((2 * positions + 1).sum())  # the first n odd numbers make n squared

    def begin(self) -> None:
        if self.is_ready and not sys.stdin.readline():
            os._exit(0)  # some peers' threads outlive their training
        self.tokens = self.labels = self.seen = 0
        self.loss, self.began = 0.0, time.perf_counter()

    def end(self) -> None:
        import torch

        seconds, memory = time.perf_counter() - self.began, worker_protocol.peak_memory()
        if self.is_ready:
            worker_protocol.send(
                {
                    "seconds": seconds, "tokens": self.tokens, "labels": self.labels, "loss": self.loss,
                    "seen": self.seen, "peak_memory_bytes": memory, "gemm_peak": worker_protocol.gemm_peak(),
                }
            )  # fmt: skip
        else:
            preloaded = os.path.basename(os.environ.get("LD_PRELOAD", ""))
            allocator = preloaded or os.environ.get("GLIBC_TUNABLES") or "glibc"
            worker_protocol.send(
                {
                    "first_step_seconds": worker_protocol.seconds_since_start(), "first_loss": self.loss,
                    "threads": torch.get_num_threads(), "allocator": allocator,
                    "versions": worker_protocol.versions(*PACKAGES, *self.packages),
                }
            )  # fmt: skip
        self.is_ready = True
