"""The keys of the values section `distributed`: the one place that says what each is.

values.yaml's part, values.schema.json's part, README's table and `--help` are generated from here.
"""

from __future__ import annotations

from typing import Any, Literal

from llm_finetune.config import cross_field_rules, validation
from llm_finetune.config.fields import (
    Section,
    choice,
    flag,
    key,
    names,
    number,
    path,
    steps_or_share,
    text,
    whole,
)

Steps = Literal["no", "steps", "epoch"]
# Longer than anybody waits, and short enough for a timeout of the system's in milliseconds.
WEEK_MINUTES = 7 * 24 * 60
DAY_SECONDS = 24 * 3600
Switch = Literal["auto", "on", "off"]

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
SCHEDULERS = (
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_restarts",
)


class OptimizationSettings(Section):
    """`distributed.train.optimizations`: faster ways to compute what the model computes."""

    packed_attention: Switch = key(
        choice("auto", "on", "off"),
        "auto",
        "Compute attention record by record, in batches of equal length.",
        was="train.speed.attention",
    )
    fused_cross_entropy: Switch = key(
        choice("auto", "on", "off"),
        "auto",
        "Compute output head and loss in chunks, without the full logits in memory.",
        was="train.speed.head",
    )
    fused_layers: Switch = key(
        choice("auto", "on", "off"),
        "auto",
        "Compute norms, rotary embeddings and gates in single compiled passes.",
        was="train.speed.layers",
    )
    fused_lora: Switch = key(
        choice("auto", "on", "off"),
        "auto",
        "Compute a LoRA adapter and its base layer in one step.",
        was="train.speed.adapters",
    )
    memory_allocator: Switch = key(
        choice("auto", "on", "off"),
        "auto",
        "Use tcmalloc instead of the system's memory allocator.",
        was="train.speed.allocator",
    )


class TrainSettings(Section):
    """`distributed.train`: the data, the training loop and the adapter."""

    dataset_name: str | None = key(
        text(),
        "medalpaca/medical_meadow_medical_flashcards",
        "Data set of the Hugging Face Hub. For a file of your own set it to null and write dataFile.",
        none="dataFile is used",
    )
    dataset_config: str | None = key(
        text(), None, "Configuration of the Hub data set, where it has several.", none="its default"
    )
    dataset_revision: str | None = key(
        text(), None, "Branch, tag or commit of the Hub data set.", none="the main branch"
    )
    dataset_split: str = key(text(), "train", "Split of the Hub data set to train on.")
    data_file: str | None = key(
        path(),
        None,
        "File or folder to train on: JSON, JSON lines, CSV, Parquet or text, gzip or not.",
        none="datasetName is used",
    )
    data_type: Literal["auto", "instruction", "messages", "text"] = key(
        choice("auto", "instruction", "messages", "text"),
        "auto",
        "What a record is; auto looks at the columns.",
    )
    max_samples: int | None = key(
        whole(1), None, "Train on the first so many records, after validation is split off.", none="all"
    )
    instruction_column_name: str | None = key(
        text(), None, "Column that holds the instruction.", none="instruction"
    )
    input_column_name: str | None = key(text(), None, "Column that holds the input.", none="input")
    output_column_name: str | None = key(text(), None, "Column that holds the answer.", none="output")
    messages_column_name: str | None = key(
        text(), None, "Column that holds the messages of a conversation.", none="messages"
    )
    text_column_name: str | None = key(text(), None, "Column that holds plain text.", none="text")
    prompt_format: Literal["auto", "alpaca", "chat"] = key(
        choice("auto", "alpaca", "chat"),
        "auto",
        "Prompt format: Alpaca's sections, or the tokenizer's chat template; auto uses the template for chat "
        "models and for conversations.",
        was_values={"sections": "alpaca"},
    )
    prompt_with_input: str | None = key(
        text(), WITH_INPUT, "Opening of the prompt where the record has an input.", none="no opening"
    )
    prompt_without_input: str | None = key(
        text(), WITHOUT_INPUT, "Opening of the prompt where the record has no input.", none="no opening"
    )
    train_on_prompt: bool = key(
        flag(),
        False,
        "Compute the loss on the prompt too, not only on the answer.",
        was="train.lossOnPrompt",
    )
    mask_history: bool = key(flag(), False, "Of a conversation, train on the last answer only, not on each.")
    max_seq_length: int = key(whole(8), 512, "Tokens in a sequence; not more than the model's context.")
    overflow_strategy: Literal["auto", "truncate", "split", "error"] = key(
        choice("auto", "truncate", "split", "error"),
        "auto",
        "Records longer than maxSeqLength: truncate (the prompt first, from the left), split, or fail; auto "
        "splits plain text and truncates the rest.",
        was="train.tooLong",
        was_values={"refuse": "error"},
    )
    dataset_concatenation: bool = key(
        flag(), True, "Pack several whole records into one sequence, where the model keeps them apart."
    )
    use_fast_tokenizer: bool = key(
        flag(), False, "Kept for older files: every tokenizer is a fast one, true and false mean the same."
    )
    per_device_batch_size: int = key(whole(1, 65536), 8, "Sequences per process in one forward pass.")
    gradient_accumulation_steps: int = key(whole(1), 1, "Forward passes that make one optimizer step.")
    epochs: int = key(whole(1), 1, "Passes over the training records.")
    max_steps: int = key(whole(1, also=-1), -1, "Optimizer steps, in place of epochs; -1: epochs count.")
    require_constant_batch_size: bool = key(
        flag(),
        False,
        "Fail instead of resuming with a number of processes that does not divide a step's sequences evenly.",
        was="train.keepEffectiveBatch",
    )
    learning_rate: float = key(number(above=0), 2e-5, "Learning rate at its highest.")
    lr_scheduler: str = key(choice(*SCHEDULERS), "linear", "Course of the learning rate.")
    warmup_ratio: float = key(
        number(at_least=0, below=1), 0.0, "Share of all steps in which the learning rate rises."
    )
    weight_decay: float = key(number(at_least=0), 0.0, "AdamW's weight decay.")
    max_grad_norm: float = key(number(at_least=0), 1.0, "Gradients are clipped to this norm; 0: not clipped.")
    gradient_checkpointing: bool | Literal["auto"] = key(
        choice(True, False, "auto"),
        "auto",
        "Compute activations again in the backward pass: less memory, about a third slower; "
        "auto does so where memory is short.",
    )
    seed: int = key(whole(0, 2**32 - 1), 42, "Seed of the split, the order and the adapter.")
    logging_steps: int | float = key(
        steps_or_share(), 1, "Steps from one log line to the next; below 1: a share of all steps."
    )
    report_to: tuple[str, ...] | None = key(
        names("tensorboard", "mlflow"), "tensorboard", "Where curves are written.", none="nowhere"
    )
    save_strategy: Steps = key(choice("no", "steps", "epoch"), "epoch", "When checkpoints are written.")
    save_steps: int = key(whole(1), 500, "Steps between checkpoints, with saveStrategy steps.")
    save_interval_minutes: float | None = key(
        number(above=0),
        30.0,
        "Minutes from one checkpoint to the next at most, unless saveStrategy is no.",
        none="saveStrategy alone counts",
        was="train.saveMinutes",
    )
    save_total_limit: int | None = key(
        whole(1), 2, "Checkpoints to keep; older ones are deleted.", none="all"
    )
    output_dir: str = key(
        path(),
        "/tmp/pvc-mount/output/saved_model",
        "Folder for checkpoints, the tuned model or adapter, results and report.",
    )
    overwrite_output_dir: bool = key(
        flag(),
        True,
        "Replace what a different run left in outputDir, once the new model is whole; false: refuse.",
    )
    ddp_backend: Literal["ccl", "gloo"] = key(
        choice("ccl", "gloo"), "ccl", "How several processes exchange gradients; one process needs neither."
    )
    ddp_find_unused_parameters: bool = key(
        flag(), False, "Look for parameters without a gradient at each step; slower."
    )
    use_ipex: bool = key(flag(), True, "Use the Intel extension for PyTorch where it is installed.")
    bf16: bool | Literal["auto"] = key(
        choice(True, False, "auto"),
        True,
        "Compute in bfloat16; true needs hardware for it, auto sees what there is.",
    )
    no_cuda: bool = key(flag(), True, "Train on the CPU; false: on an accelerator where there is one.")
    use_lora: bool = key(flag(), True, "Train a LoRA adapter; false: all weights.")
    lora_rank: int = key(whole(1), 8, "Rank of the adapter's matrices.")
    lora_alpha: int = key(whole(1), 16, "Scale of the adapter, divided by its rank.")
    lora_dropout: float = key(number(at_least=0, below=1), 0.1, "Dropout before the adapter.")
    lora_target_modules: tuple[str, ...] | None = key(
        names(),
        "q_proj v_proj",
        "Modules that get an adapter, with spaces between.",
        none="only where useLora is false",
    )
    lora_target_parameters: tuple[str, ...] | None = key(
        names(),
        None,
        "Weights that are no modules and get an adapter too, such as stacked experts: "
        "mlp.experts.gate_up_proj mlp.experts.down_proj; needs loraDropout 0.",
        none="none",
    )
    use_rslora: bool = key(flag(), False, "rsLoRA: divide loraAlpha by the root of the rank.")
    use_dora: bool = key(flag(), False, "DoRA: train magnitude and direction apart; slower.")
    optimizations: OptimizationSettings


class EvalSettings(Section):
    """`distributed.eval`: loss and perplexity on validation records."""

    data_file: str | None = key(
        path(),
        None,
        "File or folder to validate on.",
        none="the data set's validation or test split, else a share of train",
    )
    validation_split_percentage: float = key(
        number(at_least=0, below=1),
        0.2,
        "Fraction (not percentage) of the training records to hold out for validation where there are no "
        "other validation records; 0.2 is a fifth.",
    )
    validation_fraction: float | None = key(
        number(at_least=0, below=1),
        None,
        "The same under a better name; set only one of the two.",
        none="validationSplitPercentage counts",
    )
    max_samples: int | None = key(whole(1), None, "Validate on the first so many records.", none="all")
    per_device_batch_size: int = key(whole(1, 65536), 8, "Sequences per process in one forward pass.")
    evaluate_base_model: bool = key(
        flag(), True, "Evaluate the base model too, for comparison.", was="eval.base"
    )
    num_generated_samples: int = key(
        whole(0),
        8,
        "Number of validation prompts that the base and the tuned model answer, side by side; 0: none.",
        was="eval.generateSamples",
    )
    max_new_tokens: int = key(whole(1), 128, "Tokens of such an answer at most.")
    strategy: Steps = key(
        choice("no", "steps", "epoch"), "no", "When to evaluate during training; after it in any case."
    )
    steps: int = key(whole(1), 500, "Steps between evaluations, with strategy steps.")
    load_best_model: bool = key(
        flag(), False, "Keep the checkpoint with the lowest loss instead of the last."
    )
    early_stopping_patience: int = key(
        whole(0), 0, "Stop after so many evaluations without a lower loss; 0: never."
    )

    @property
    def validation_share(self) -> float:
        """The fraction held out, by whichever of its two keys says so."""
        fraction = self.validation_fraction
        return self.validation_split_percentage if fraction is None else fraction


class QuantizeSettings(Section):
    """`distributed.quantize`: weight-only quantization."""

    peft_model_dir: str | None = key(
        path(),
        "/tmp/pvc-mount/output/saved_model",
        "Adapter to quantize with its base where this job does not train.",
        none="modelNameOrPath alone",
    )
    output_dir: str = key(path(), "/tmp/pvc-mount/output/quantized_model", "Folder for the quantized model.")
    woq_algo: Literal["RTN", "GPTQ", "AWQ", "TEQ"] = key(
        choice("RTN", "GPTQ", "AWQ", "TEQ"), "RTN", "Weight-only algorithm of Intel Neural Compressor."
    )
    woq_bits: int = key(whole(1, 8), 8, "Bits of a weight.")
    woq_group_size: int = key(whole(1, also=-1), -1, "Weights that share a scale; -1: a whole row.")
    woq_scheme: Literal["sym", "asym"] = key(
        choice("sym", "asym"), "sym", "Whether the scale is symmetric around zero."
    )
    calibration_samples: int = key(
        whole(1), 128, "Training records that GPTQ, AWQ and TEQ look at to choose the weights."
    )


class BenchmarkSettings(Section):
    """`distributed.benchmark`: how fast the model answers."""

    warmup: int = key(whole(0), 30, "Rounds before the measurement.")
    iterations: int = key(whole(1), 300, "Rounds that are measured.")
    prompt_tokens: int = key(whole(1), 128, "Tokens of the prompt that is read before tokens are written.")
    cores_per_instance: int = key(
        whole(1, also=-1), -1, "Cores of an instance; -1: all that the process may use, shared out."
    )
    num_instances: int = key(whole(1), 1, "Instances that run side by side.")


class Settings(Section):
    """The section `distributed`: what the job does."""

    script: str = key(
        path(), "/workspace/scripts/finetune.py", "What each worker runs, with the mounted settings file."
    )
    workers: int = key(whole(1), 4, "Worker pods.")
    processes_per_worker: int = key(whole(1, 1024), 1, "Processes in each worker; they share out its cores.")
    rendezvous_timeout_minutes: float = key(
        number(above=0, at_most=WEEK_MINUTES),
        10.0,
        "How long a process waits for the others to join.",
        was="waitForPeersMinutes",
    )
    lost_worker_timeout_minutes: float = key(
        number(above=0, at_most=WEEK_MINUTES),
        2.0,
        "How long the others wait for a lost worker before they continue without it, if at least minReplicas "
        "remain.",
        was="waitForLostMinutes",
    )
    shutdown_grace_seconds: float = key(
        number(above=0, at_most=DAY_SECONDS),
        60.0,
        "How long a process may hang after another one failed before it is killed; with ccl all of them do.",
        was="leaveSeconds",
    )
    stall_timeout_minutes: float = key(
        number(above=0, at_most=WEEK_MINUTES),
        10.0,
        "How long a process may be alive without progress while the others wait, before all are restarted.",
    )
    preparation_timeout_minutes: float = key(
        number(above=0, at_most=WEEK_MINUTES),
        240.0,
        "How long the others wait while the first process downloads models and data and prepares them.",
        was="waitForPreparationMinutes",
    )
    model_name_or_path: str = key(
        path(), "meta-llama/Llama-2-7b-chat-hf", "Base model: its name on the Hugging Face Hub, or a folder."
    )
    model_revision: str | None = key(
        text(), None, "Branch, tag or commit of the base model.", none="the main branch"
    )
    trust_remote_code: bool = key(flag(), False, "Run Python code that comes with the model.")
    log_level: Literal["debug", "info", "warning", "error", "critical"] = key(
        choice("debug", "info", "warning", "error", "critical"),
        "info",
        "Least severe messages that are logged.",
    )
    do_train: bool = key(flag(), True, "Fine-tune the model.")
    do_eval: bool = key(flag(), True, "Evaluate the model.")
    do_quantize: bool = key(flag(), False, "Quantize the model.")
    do_benchmark: bool = key(flag(), False, "Measure how fast the model answers.")
    train: TrainSettings
    eval: EvalSettings
    quantize: QuantizeSettings
    benchmark: BenchmarkSettings

    @classmethod
    def from_values(cls, tree: Any, origin: str = "settings") -> Settings:
        """Read a merged section `distributed`, with nothing beneath it: an absent key is none.

        Args:
            tree: camelCase keys, as in JSON.
            origin: where the tree comes from, for errors.

        Raises:
            SettingsError: one line per problem.
        """
        return validation.read(cls, tree, lambda path: origin, cross_field_rules.broken)

    def to_values(self) -> dict[str, Any]:
        """The section as JSON can hold it, for `from_values` in another process."""
        return self.model_dump(mode="json", by_alias=True)
