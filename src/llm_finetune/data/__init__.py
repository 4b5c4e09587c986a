"""Data: source > records > prompts > tokens > packed sequences > prepared set on disk."""

from llm_finetune.data.prepare import prepare
from llm_finetune.data.prepared_dataset import PackedSequence, Prepared, Sample, Split, open_prepared
from llm_finetune.data.preview import Preview, preview
from llm_finetune.data.records import Columns
from llm_finetune.data.sources.source import Source
from llm_finetune.data.spec import PrepareSpec

__all__ = [
    "Columns",
    "PackedSequence",
    "PrepareSpec",
    "Prepared",
    "Preview",
    "Sample",
    "Source",
    "Split",
    "open_prepared",
    "prepare",
    "preview",
]
