"""The keys of the values section `distributed.train`."""

from __future__ import annotations

from typing import Annotated, Literal

from llm_finetune.config.fields import Key, Section
from llm_finetune.config.types import (
    AnyPath,
    Count,
    CountOrAll,
    Flag,
    Fraction,
    NameList,
    NonNegative,
    PerBatch,
    Positive,
    Seed,
    SequenceLength,
    StepsOrFraction,
    Strategy,
    Switch,
    Text,
)

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
Scheduler = Literal[
    "linear",
    "cosine",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_restarts",
]


class OptimizationSettings(Section):
    """`distributed.train.optimizations`: faster ways to compute what the model computes."""

    packed_attention: Annotated[
        Switch,
        Key(
            "auto",
            "Compute attention record by record, in batches of equal length.",
            was="train.speed.attention",
        ),
    ]
    fused_cross_entropy: Annotated[
        Switch,
        Key(
            "auto",
            "Compute output head and loss in chunks, without the full logits in memory.",
            was="train.speed.head",
        ),
    ]
    fused_layers: Annotated[
        Switch,
        Key(
            "auto",
            "Compute norms, rotary embeddings and gates in single compiled passes.",
            was="train.speed.layers",
        ),
    ]
    fused_lora: Annotated[
        Switch,
        Key("auto", "Compute a LoRA adapter and its base layer in one step.", was="train.speed.adapters"),
    ]
    memory_allocator: Annotated[
        Switch,
        Key("auto", "Use tcmalloc instead of the system's memory allocator.", was="train.speed.allocator"),
    ]


class TrainSettings(Section):
    """`distributed.train`: the data, the training loop and the adapter."""

    dataset_name: Annotated[
        Text | None,
        Key(
            "medalpaca/medical_meadow_medical_flashcards",
            "Hugging Face Hub data set. To use your own file, set this to null and set dataFile.",
            none="dataFile is used",
        ),
    ]
    dataset_config: Annotated[
        Text | None, Key(None, "Configuration of the Hub data set, if it has several.", none="its default")
    ]
    dataset_revision: Annotated[
        Text | None, Key(None, "Branch, tag or commit of the Hub data set.", none="the main branch")
    ]
    dataset_split: Annotated[Text, Key("train", "Split of the Hub data set to train on.")]
    data_file: Annotated[
        AnyPath | None,
        Key(
            None,
            "Training file or directory: JSON, JSON Lines, CSV, Parquet or text, optionally gzip-compressed.",
            none="datasetName is used",
        ),
    ]
    data_type: Annotated[
        Literal["auto", "instruction", "messages", "text"],
        Key("auto", "Type of the records; auto detects it from the columns."),
    ]
    max_samples: Annotated[
        Count | None,
        Key(
            None,
            "Maximum number of training records, counted after the validation records are split off.",
            none="all",
        ),
    ]
    instruction_column_name: Annotated[
        Text | None, Key(None, "Column that holds the instruction.", none="instruction")
    ]
    input_column_name: Annotated[Text | None, Key(None, "Column that holds the input.", none="input")]
    output_column_name: Annotated[Text | None, Key(None, "Column that holds the answer.", none="output")]
    messages_column_name: Annotated[
        Text | None, Key(None, "Column that holds the messages of a conversation.", none="messages")
    ]
    text_column_name: Annotated[Text | None, Key(None, "Column that holds plain text.", none="text")]
    prompt_format: Annotated[
        Literal["auto", "alpaca", "chat"],
        Key(
            "auto",
            "Prompt format: Alpaca's sections, or the tokenizer's chat template; auto uses the "
            "template for chat models and for conversations.",
            was_values={"sections": "alpaca"},
        ),
    ]
    prompt_with_input: Annotated[
        Text | None, Key(WITH_INPUT, "Preamble of the prompt for records with an input.", none="no opening")
    ]
    prompt_without_input: Annotated[
        Text | None,
        Key(WITHOUT_INPUT, "Preamble of the prompt for records without an input.", none="no opening"),
    ]
    train_on_prompt: Annotated[
        Flag,
        Key(False, "Compute the loss on the prompt too, not only on the answer.", was="train.lossOnPrompt"),
    ]
    mask_history: Annotated[
        Flag, Key(False, "Train only on the last answer of a conversation, not on every answer.")
    ]
    max_seq_length: Annotated[
        SequenceLength, Key(512, "Maximum sequence length in tokens; at most the model's context length.")
    ]
    overflow_strategy: Annotated[
        Literal["auto", "truncate", "split", "error"],
        Key(
            "auto",
            "Records longer than maxSeqLength: truncate (the prompt first, from the left), "
            "split, or fail; auto splits plain text and truncates the rest.",
            was="train.tooLong",
            was_values={"refuse": "error"},
        ),
    ]
    dataset_concatenation: Annotated[
        Flag, Key(True, "Pack several whole records into one sequence, if the model can keep them separate.")
    ]
    use_fast_tokenizer: Annotated[
        Flag,
        Key(False, "Deprecated: all tokenizers are fast ones, so true and false mean the same."),
    ]
    per_device_batch_size: Annotated[PerBatch, Key(8, "Batch size per process, in sequences.")]
    gradient_accumulation_steps: Annotated[
        Count, Key(1, "Gradient accumulation steps: forward and backward passes per optimizer step.")
    ]
    epochs: Annotated[Count, Key(1, "Number of training epochs.")]
    max_steps: Annotated[
        CountOrAll, Key(-1, "Maximum number of optimizer steps, which overrides epochs; -1: epochs count.")
    ]
    require_constant_batch_size: Annotated[
        Flag,
        Key(
            False,
            "Fail instead of resuming with a number of processes that does not divide a step's "
            "sequences evenly.",
            was="train.keepEffectiveBatch",
        ),
    ]
    learning_rate: Annotated[Positive, Key(2e-05, "Peak learning rate.")]
    lr_scheduler: Annotated[Scheduler, Key("linear", "Learning rate schedule.")]
    warmup_ratio: Annotated[Fraction, Key(0.0, "Fraction of all steps used for learning rate warmup.")]
    weight_decay: Annotated[NonNegative, Key(0.0, "Weight decay of AdamW.")]
    max_grad_norm: Annotated[NonNegative, Key(1.0, "Maximum gradient norm for clipping; 0: no clipping.")]
    gradient_checkpointing: Annotated[
        bool | Literal["auto"],
        Key(
            "auto",
            "Gradient checkpointing: saves memory, about a third slower; auto enables it when "
            "memory is short.",
        ),
    ]
    seed: Annotated[
        Seed,
        Key(42, "Random seed for the validation split, the record order and the adapter's initial weights."),
    ]
    logging_steps: Annotated[
        StepsOrFraction, Key(1, "Logging interval in steps; below 1: a fraction of all steps.")
    ]
    report_to: Annotated[
        NameList[Literal["tensorboard", "mlflow"]] | None,
        Key("tensorboard", "Where training curves are logged.", none="nowhere"),
    ]
    save_strategy: Annotated[Strategy, Key("epoch", "Checkpoint strategy during training.")]
    save_steps: Annotated[Count, Key(500, "Checkpoint interval in steps, with saveStrategy steps.")]
    save_interval_minutes: Annotated[
        Positive | None,
        Key(
            30.0,
            "Maximum time between checkpoints, in minutes, unless saveStrategy is no.",
            none="saveStrategy alone counts",
            was="train.saveMinutes",
        ),
    ]
    save_total_limit: Annotated[
        Count | None, Key(2, "Maximum number of checkpoints to keep; older ones are deleted.", none="all")
    ]
    output_dir: Annotated[
        AnyPath,
        Key(
            "/tmp/pvc-mount/output/saved_model",
            "Output directory for checkpoints, the tuned model or adapter, results and report.",
        ),
    ]
    overwrite_output_dir: Annotated[
        Flag,
        Key(
            True,
            "Replace the output of a different run in outputDir once the new model is complete; false: fail.",
        ),
    ]
    ddp_backend: Annotated[
        Literal["ccl", "gloo"],
        Key("ccl", "Communication backend for several processes; a single process uses none."),
    ]
    ddp_find_unused_parameters: Annotated[
        Flag, Key(False, "Detect parameters without a gradient at every step; slower.")
    ]
    use_ipex: Annotated[Flag, Key(True, "Use the Intel extension for PyTorch if it is installed.")]
    bf16: Annotated[
        bool | Literal["auto"],
        Key(True, "Compute in bfloat16; true requires hardware support, auto detects it."),
    ]
    no_cuda: Annotated[Flag, Key(True, "Train on the CPU; false: on an accelerator if there is one.")]
    use_lora: Annotated[Flag, Key(True, "Train a LoRA adapter; false: all weights.")]
    lora_rank: Annotated[Count, Key(8, "LoRA rank.")]
    lora_alpha: Annotated[Count, Key(16, "LoRA alpha: the adapter is scaled by alpha divided by rank.")]
    lora_dropout: Annotated[Fraction, Key(0.1, "LoRA dropout.")]
    lora_target_modules: Annotated[
        NameList[str] | None,
        Key(
            "q_proj v_proj",
            "Target modules of LoRA, separated by spaces.",
            none="only where useLora is false",
        ),
    ]
    lora_target_parameters: Annotated[
        NameList[str] | None,
        Key(
            None,
            "Target parameters that are not modules, such as stacked experts: "
            "mlp.experts.gate_up_proj mlp.experts.down_proj; requires loraDropout 0.",
            none="none",
        ),
    ]
    use_rslora: Annotated[
        Flag, Key(False, "Use rsLoRA: scale the adapter by alpha divided by the square root of the rank.")
    ]
    use_dora: Annotated[Flag, Key(False, "Use DoRA: train magnitude and direction separately; slower.")]
    optimizations: OptimizationSettings
