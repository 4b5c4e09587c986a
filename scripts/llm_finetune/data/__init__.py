"""Data: source > records > prompts > tokens > packed sequences > prepared set on disk."""

from llm_finetune.data.plan import PreparePlan
from llm_finetune.data.prepare import prepare
from llm_finetune.data.prepared import Prepared, Row, Segment, Split, open_prepared
from llm_finetune.data.preview import Preview, preview
from llm_finetune.data.records import Columns
from llm_finetune.data.source import Source

__all__ = [
    "Columns",
    "PreparePlan",
    "Prepared",
    "Preview",
    "Row",
    "Segment",
    "Source",
    "Split",
    "open_prepared",
    "prepare",
    "preview",
]
