"""What a row means: an instruction and its answer, a conversation, or plain text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from llm_finetune.data.limits import CONVERSATION_CHARACTERS, RECORD_CHARACTERS
from llm_finetune.errors import DataError

RecordType = Literal["messages", "instruction", "text"]
DataType = Literal["auto", "instruction", "messages", "text"]

ROLES = ("system", "user", "assistant")


class Instruction(NamedTuple):
    """A task and its answer. `instruction` or `input` may be empty, not both; `output` never is."""

    instruction: str
    input: str
    output: str


class Turn(NamedTuple):
    """What one side says."""

    role: str
    content: str


class Messages(NamedTuple):
    """A conversation: perhaps a system turn, then a user's, and at least one of the assistant's."""

    turns: tuple[Turn, ...]


class Text(NamedTuple):
    """Text to go on pretraining with."""

    text: str


Record = Instruction | Messages | Text


class Origin(NamedTuple):
    """Where a record stands: number of the source, number of the file in it, row in that (from 1)."""

    source: int
    file: int
    row: int


def content_of(record: Record) -> str:
    """All that a record says, in one string, which equal records share."""
    if isinstance(record, Messages):
        return "\0".join(part for turn in record.turns for part in turn)
    return "\0".join(record)


def size_of(record: Record) -> int:
    """Characters that a record says."""
    if isinstance(record, Messages):
        return sum(len(turn.content) for turn in record.turns)
    return sum(map(len, record))


@dataclass(frozen=True)
class Columns:
    """What the columns are called."""

    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"
    messages: str = "messages"
    text: str = "text"

    def renamed(self) -> set[str]:
        """The columns that do not have their usual name: `instruction`, `input`, …"""
        return {column for column, name in vars(self).items() if name != column}


@dataclass(frozen=True)
class Schema:
    """How the rows of a set become records.

    Attributes:
        has_instruction: False where instruction records are plain input and output.
    """

    type: RecordType
    columns: Columns
    has_instruction: bool


class InvalidRecordError(Exception):
    """A row that is no record: which column, what was found, what was expected."""


def recognize(first_row: Any, data_type: DataType, columns: Columns, where: str) -> Schema:
    """Decide by the columns of the first row what every row is.

    Raises:
        DataError: they are not the columns of `data_type`, or of no type at all.
    """
    if not isinstance(first_row, Mapping):
        raise DataError(f"{where}: a row is {_shown(first_row)}; expected an object with named columns.")
    renamed = columns.renamed()
    needed: dict[RecordType, list[str]] = {
        "messages": [columns.messages],
        # A column that was named must be there: a misspelt name would leave out what it holds.
        "instruction": [
            columns.output,
            *(getattr(columns, c) for c in ("instruction", "input") if c in renamed),
        ],
        "text": [columns.text],
    }
    if data_type != "auto":
        candidates: list[RecordType] = [data_type]
    elif renamed & {"instruction", "input", "output"}:
        candidates = ["instruction"]
    else:
        candidates = list(get_args(RecordType))
    for candidate in candidates:
        if all(column in first_row for column in needed[candidate]):
            return Schema(candidate, columns, has_instruction=columns.instruction in first_row)
    expected = " or ".join(f"{' and '.join(map(repr, needed[kind]))} ({kind})" for kind in candidates)
    raise DataError(
        f"{where}: the columns are {', '.join(map(repr, first_row)) or 'none'}; expected {expected}. "
        "Say what they are called by instructionColumnName, inputColumnName, outputColumnName, "
        "messagesColumnName or textColumnName, and what a row is by dataType."
    )


def read_record(row: Any, schema: Schema) -> Record:
    """Check one row.

    Raises:
        InvalidRecordError: it is not what the schema says.
    """
    if not isinstance(row, Mapping):
        raise InvalidRecordError(f"the row is {_shown(row)}; expected an object with named columns")
    record = _record(row, schema)
    if (size := size_of(record)) > RECORD_CHARACTERS:
        raise InvalidRecordError(
            f"the record has {size:,} characters; expected {RECORD_CHARACTERS:,} at most: divide it"
        )
    return record


def _record(row: Mapping[str, Any], schema: Schema) -> Record:
    columns = schema.columns
    if schema.type == "messages":
        return _messages(row, columns.messages)
    if schema.type == "text":
        return Text(_filled(row, columns.text, "text"))
    return _instruction(row, schema)


def _instruction(row: Mapping[str, Any], schema: Schema) -> Instruction:
    columns = schema.columns
    if schema.has_instruction and columns.instruction not in row:
        raise InvalidRecordError(_absent(row, columns.instruction))
    instruction = _optional(row, columns.instruction)
    context = _optional(row, columns.input)
    if not instruction.strip() and not context.strip():
        raise InvalidRecordError(
            f"columns {columns.instruction!r} and {columns.input!r} are empty; expected a question"
        )
    return Instruction(instruction, context, _filled(row, columns.output, "an answer"))


def _messages(row: Mapping[str, Any], column: str) -> Messages:
    if column not in row:
        raise InvalidRecordError(_absent(row, column))
    turns = row[column]
    if not isinstance(turns, list) or not turns:
        raise InvalidRecordError(
            f"column {column!r} is {_shown(turns)}; expected a list of {{role, content}}"
        )
    conversation = Messages(tuple(_turn(turn, f"{column}[{i}]") for i, turn in enumerate(turns)))
    roles = [turn.role for turn in conversation.turns]
    if "assistant" not in roles:
        raise InvalidRecordError(
            f"column {column!r} has no assistant turn; expected at least one, to train on"
        )
    if size_of(conversation) * roles.count("assistant") > CONVERSATION_CHARACTERS:
        raise InvalidRecordError(
            f"column {column!r} has {roles.count('assistant'):,} answers in {size_of(conversation):,} "
            "characters, and each is read with all before it: divide the conversation"
        )
    if "system" in roles[1:]:
        raise InvalidRecordError(f"column {column!r} has a system turn behind others; expected it first")
    if roles[roles[0] == "system"] != "user":
        raise InvalidRecordError(
            f"column {column!r} begins with the assistant; expected the user's turn first"
        )
    return conversation


def _turn(turn: Any, where: str) -> Turn:
    if not isinstance(turn, Mapping):
        raise InvalidRecordError(f"{where} is {_shown(turn)}; expected an object {{role, content}}")
    role = turn.get("role")
    if role == "tool" or turn.get("tool_calls"):
        raise InvalidRecordError(
            f"{where} uses a tool; expected {', '.join(ROLES)} alone: leave such records out"
        )
    if role not in ROLES:
        raise InvalidRecordError(f"{where}: the role is {_shown(role)}; expected one of {', '.join(ROLES)}")
    if "content" not in turn:
        raise InvalidRecordError(f"{where}: {_absent(turn, 'content')}")
    try:
        if role == "assistant":
            return Turn(role, _filled(turn, "content", "an answer"))
        return Turn(role, _optional(turn, "content"))
    except InvalidRecordError as problem:
        raise InvalidRecordError(f"{where}: {problem}") from None


def _filled(row: Mapping[str, Any], column: str, meaning: str) -> str:
    if column not in row:
        raise InvalidRecordError(_absent(row, column))
    text = _optional(row, column)
    if not text.strip():
        raise InvalidRecordError(f"column {column!r} is empty; expected {meaning}")
    return text


def _optional(row: Mapping[str, Any], column: str) -> str:
    text = row.get(column)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InvalidRecordError(f"column {column!r} is {_shown(text)}; expected text")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRecordError(
                f"column {column!r} {_not_text(text[error.start], error.start)}"
            ) from None
    return text


def _not_text(character: str, position: int) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        byte = f"0x{code - 0xDC00:02x}"
        return f"holds the byte {byte} at character {position}, which is not UTF-8; save the file as UTF-8"
    return f"holds half a character (\\u{code:04x}) at character {position}; expected whole ones"


def _absent(row: Mapping[str, Any], column: str) -> str:
    return f"there is no column {column!r}; the row has {', '.join(map(repr, row)) or 'none'}"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"
