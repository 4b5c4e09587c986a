"""The keys of the values section `distributed`: the one place, with train_schema, that says what each is.

values.yaml's part, values.schema.json's part, docs/configuration.md and `--help` are generated from here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from llm_finetune.config.fields import Key, Section
from llm_finetune.config.train_schema import TrainSettings
from llm_finetune.config.types import (
    AnyPath,
    Count,
    CountOrAll,
    CountOrZero,
    DayOfSeconds,
    Flag,
    Fraction,
    PerBatch,
    PerWorker,
    QuantizationBits,
    Strategy,
    Text,
    WeekOfMinutes,
)


class EvalSettings(Section):
    """`distributed.eval`: loss and perplexity on validation records."""

    data_file: Annotated[
        AnyPath | None,
        Key(
            None,
            "Validation file or directory.",
            none="the data set's validation or test split, else a share of train",
        ),
    ]
    validation_split_percentage: Annotated[
        Fraction,
        Key(
            0.2,
            "Fraction (not percentage) of the training records to hold out for validation where "
            "there are no other validation records; 0.2 is a fifth.",
        ),
    ]
    validation_fraction: Annotated[
        Fraction | None,
        Key(
            None,
            "The same as validationSplitPercentage; set only one of the two.",
            none="validationSplitPercentage counts",
        ),
    ]
    max_samples: Annotated[Count | None, Key(None, "Maximum number of validation records.", none="all")]
    per_device_batch_size: Annotated[PerBatch, Key(8, "Batch size per process, in sequences.")]
    evaluate_base_model: Annotated[
        Flag, Key(True, "Evaluate the base model too, for comparison.", was="eval.base")
    ]
    num_generated_samples: Annotated[
        CountOrZero,
        Key(
            8,
            "Number of validation prompts that the base and the tuned model answer, side by side; 0: none.",
            was="eval.generateSamples",
        ),
    ]
    max_new_tokens: Annotated[Count, Key(128, "Maximum length of a generated answer, in tokens.")]
    strategy: Annotated[
        Strategy, Key("no", "Evaluation strategy during training; the final model is always evaluated.")
    ]
    steps: Annotated[Count, Key(500, "Evaluation interval in steps, with strategy steps.")]
    load_best_model: Annotated[
        Flag, Key(False, "Keep the checkpoint with the lowest validation loss instead of the last one.")
    ]
    early_stopping_patience: Annotated[
        CountOrZero,
        Key(0, "Early stopping: number of evaluations without a lower loss before training stops; 0: never."),
    ]

    @property
    def validation_share(self) -> float:
        """The fraction held out, by whichever of its two keys says so."""
        fraction = self.validation_fraction
        return self.validation_split_percentage if fraction is None else fraction


class QuantizeSettings(Section):
    """`distributed.quantize`: weight-only quantization."""

    peft_model_dir: Annotated[
        AnyPath | None,
        Key(
            "/tmp/pvc-mount/output/saved_model",
            "Adapter to quantize with its base model if this job does not train.",
            none="modelNameOrPath alone",
        ),
    ]
    output_dir: Annotated[
        AnyPath, Key("/tmp/pvc-mount/output/quantized_model", "Output directory for the quantized model.")
    ]
    woq_algo: Annotated[
        Literal["RTN", "GPTQ", "AWQ", "TEQ"], Key("RTN", "Weight-only algorithm of Intel Neural Compressor.")
    ]
    woq_bits: Annotated[QuantizationBits, Key(8, "Bits per weight.")]
    woq_group_size: Annotated[
        CountOrAll, Key(-1, "Group size: number of weights that share a scale; -1: a whole row.")
    ]
    woq_scheme: Annotated[Literal["sym", "asym"], Key("sym", "Quantization scheme: symmetric or asymmetric.")]
    calibration_samples: Annotated[
        Count, Key(128, "Number of training records for the calibration of GPTQ, AWQ and TEQ.")
    ]


class BenchmarkSettings(Section):
    """`distributed.benchmark`: how fast the model answers."""

    warmup: Annotated[CountOrZero, Key(30, "Number of warmup iterations.")]
    iterations: Annotated[Count, Key(300, "Number of measured iterations.")]
    prompt_tokens: Annotated[Count, Key(128, "Prompt length in tokens.")]
    cores_per_instance: Annotated[
        CountOrAll, Key(-1, "Cores per instance; -1: the available cores, divided among the instances.")
    ]
    num_instances: Annotated[Count, Key(1, "Number of instances that run in parallel.")]


class Settings(Section):
    """The section `distributed`: what the job does."""

    script: Annotated[
        AnyPath,
        Key(
            "/workspace/scripts/finetune.py", "Script that each worker runs, with the mounted settings file."
        ),
    ]
    workers: Annotated[Count, Key(4, "Number of worker pods.")]
    processes_per_worker: Annotated[
        PerWorker, Key(1, "Number of processes per worker; they split its cores.")
    ]
    rendezvous_timeout_minutes: Annotated[
        WeekOfMinutes,
        Key(10.0, "Maximum time a process waits for the others to join.", was="waitForPeersMinutes"),
    ]
    lost_worker_timeout_minutes: Annotated[
        WeekOfMinutes,
        Key(
            2.0,
            "Maximum time the others wait for a lost worker before they continue without it, if "
            "minReplicas remain.",
            was="waitForLostMinutes",
        ),
    ]
    shutdown_grace_seconds: Annotated[
        DayOfSeconds,
        Key(
            60.0,
            "Grace period after a failure: time until processes that hang, as all do with ccl, are killed.",
            was="leaveSeconds",
        ),
    ]
    stall_timeout_minutes: Annotated[
        WeekOfMinutes,
        Key(10.0, "Maximum time without progress while the others wait, before all processes are restarted."),
    ]
    preparation_timeout_minutes: Annotated[
        WeekOfMinutes,
        Key(
            240.0,
            "Maximum time the others wait while the first process downloads and prepares model and data.",
            was="waitForPreparationMinutes",
        ),
    ]
    model_name_or_path: Annotated[
        AnyPath,
        Key("meta-llama/Llama-2-7b-chat-hf", "Base model: name on the Hugging Face Hub, or a directory."),
    ]
    model_revision: Annotated[
        Text | None, Key(None, "Branch, tag or commit of the base model.", none="the main branch")
    ]
    trust_remote_code: Annotated[Flag, Key(False, "Run the Python code that comes with the model.")]
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], Key("info", "Log level.")]
    do_train: Annotated[Flag, Key(True, "Fine-tune the model.")]
    do_eval: Annotated[Flag, Key(True, "Evaluate the model.")]
    do_quantize: Annotated[Flag, Key(False, "Quantize the model.")]
    do_benchmark: Annotated[Flag, Key(False, "Benchmark the model's inference speed.")]
    train: TrainSettings
    eval: EvalSettings
    quantize: QuantizeSettings
    benchmark: BenchmarkSettings

    def to_values(self) -> dict[str, Any]:
        """The section as JSON can hold it, for `from_values` in another process."""
        return self.model_dump(mode="json", by_alias=True)
