"""Watches a training from inside its process: seconds, tokens and loss of each step, whoever's Trainer it is."""

from __future__ import annotations

import json
import os
import time
from typing import Any

import machine


class Recorder:
    """Notes each step of every transformers.Trainer of this process, until `write`.

    Args:
        pad_id: token of padding, where the collator's mask does not tell.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id
        self.steps: list[dict[str, float]] = []
        self._patch()

    def _patch(self) -> None:
        from transformers import Trainer, TrainerCallback

        recorder = self
        micro_step = Trainer.training_step
        construct = Trainer.__init__

        def counted(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            tokens, labels = recorder._counts(inputs)
            recorder.now["tokens"] += tokens
            recorder.now["labels"] += labels
            loss = micro_step(trainer, model, inputs, *args, **kwargs)
            recorder.now["loss"] += float(loss)
            return loss

        class Steps(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                recorder.now = {"tokens": 0, "labels": 0, "loss": 0.0}
                recorder.began = time.perf_counter()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                recorder.now["seconds"] = time.perf_counter() - recorder.began
                if not recorder.steps:
                    recorder.now["since_start"] = machine.seconds_since_start()
                recorder.steps.append(recorder.now)

        def constructed(trainer: Any, *args: Any, **kwargs: Any) -> None:
            construct(trainer, *args, **kwargs)
            trainer.add_callback(Steps())

        Trainer.training_step = counted
        Trainer.__init__ = constructed

    def _counts(self, inputs: Any) -> tuple[int, int]:
        mask = inputs.get("attention_mask")
        if "tokens" in inputs:
            tokens = int(inputs["tokens"])
        elif mask is not None and mask.dim() == 2:
            tokens = int((mask > 0).sum())
        else:
            tokens = int((inputs["input_ids"] != self.pad_id).sum())
        return tokens, int((inputs["labels"][:, 1:] != -100).sum())

    def write(self) -> None:
        """Prints what was seen as one line of JSON."""
        memory = machine.peak_memory()  # before the measurements below need any
        seen = {
            "steps": self.steps,
            "peak_memory": memory,
            "gemm_peak": machine.gemm_peak(),
            "read_bandwidth": machine.read_bandwidth(),
            "machine": machine.described(),
        }
        print("\nRECORDED " + json.dumps(seen), flush=True)
        os._exit(0)  # some peers' threads outlive their training
