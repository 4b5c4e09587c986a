"""The rows of a Parquet file, none of which takes much memory before its size is known.

A thousand rows that say the same megabyte are a file of some hundred bytes: the text stands in a dictionary,
once. So texts are read as they are stored, counted, and only then written out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any

from llm_finetune.data.limits import LINE_CHARACTERS, TooLargeError, Unpacked

_BATCH_ROWS = 256
_BATCH_BYTES = 64 * 1024 * 1024
_NUMBER_BYTES = 4


def rows(stream: IO[bytes]) -> Iterator[Any]:
    """Each row as a dictionary.

    Raises:
        TooLargeError: the file unpacks to too much, or one row does.
        ArrowException, OSError, ValueError: it is no whole Parquet file.
    """
    import pyarrow.parquet

    unpacked = Unpacked(stream.fileno())
    with pyarrow.parquet.ParquetFile(stream) as described:
        metadata, schema = described.metadata, described.schema_arrow
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    unpacked.check(_stored_bytes(metadata))
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    stream.seek(0)
    read = 0
    with pyarrow.parquet.ParquetFile(stream, read_dictionary=texts) as table:
        for batch in table.iter_batches(batch_size=_BATCH_ROWS):
            size = _bytes(batch)
            read += size
            unpacked.check(read)
            one_by_one = (batch.slice(row, 1) for row in range(batch.num_rows))
            for part in [batch] if size <= _BATCH_BYTES else one_by_one:
                if part.num_rows == 1 and _bytes(part) > LINE_CHARACTERS:
                    raise TooLargeError(f"the next row has more than {LINE_CHARACTERS:,} bytes")
                yield from part.cast(schema).to_pylist()


def _stored_bytes(metadata: Any) -> int:
    """Without what a dictionary stands for; each of its uses is a number at least.

    What the file says of each column is not asked: pyarrow ends the process where that is damaged.
    """
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    return sum(max(one.total_byte_size, one.num_rows * one.num_columns * _NUMBER_BYTES) for one in groups)


def _bytes(array: Any) -> int:
    """Of a batch or a column, with each text as often as it is used."""
    import pyarrow
    from pyarrow import compute, types

    if isinstance(array, pyarrow.RecordBatch):
        return sum(map(_bytes, array.columns))
    kind = array.type
    if types.is_dictionary(kind):
        lengths = compute.binary_length(array.dictionary)
        return compute.sum(lengths.take(array.indices)).as_py() or 0
    if types.is_struct(kind):
        return sum(map(_bytes, array.flatten()))
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _bytes(array.flatten())
    if types.is_map(kind):
        return _bytes(array.keys) + _bytes(array.items)
    return int(array.nbytes)
