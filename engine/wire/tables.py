"""Tables on the wire: Arrow IPC streams of one uncompressed record batch, checked when they arrive.

What arrives is not trusted: its columns must be those expected, its compression is refused (a few
bytes could claim all memory), and its buffers are validated before anything reads them.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.errors import GraphFormatError, LimitExceeded

__all__ = ["column", "decode", "decode_any", "encode"]

# Flatbuffers: fields of Message and of RecordBatch, by number (Arrow's format/Message.fbs).
_HEADER, _COMPRESSION = 2, 3


def encode(batch: pa.RecordBatch) -> bytes:
    """Return a batch as bytes."""
    # What a stream writer would write, but for the end mark, with one copy less.
    return b"".join([batch.schema.serialize(), batch.serialize()])


def decode(data: bytes, what: str, *schemas: pa.Schema, most: int) -> pa.RecordBatch:
    """Return the batch of one of some schemas that bytes hold.

    Args:
        data: What arrived.
        what: Names it in messages.
        schemas: Any of them will do; columns have no nulls.
        most: Rows allowed.

    Raises:
        GraphFormatError: If it is no such batch.
        LimitExceeded: If it has too many rows.
    """
    batch = decode_any(data, what)
    if not any(batch.schema.equals(schema) for schema in schemas):
        expected = " or ".join(_described(schema) for schema in schemas)
        raise GraphFormatError(
            f"{what}: expected columns {expected}, got {_described(batch.schema)}. Convert them."
        )
    if batch.num_rows > most:
        raise LimitExceeded(
            f"{what}: expected at most {most:,} rows a request, got {batch.num_rows:,}. Split it."
        )
    if any(array.null_count for array in batch.columns):
        raise GraphFormatError(
            f"{what}: expected a value in every row, got nulls. Drop these rows."
        )
    return batch


def decode_any(data: bytes | pa.Buffer, what: str) -> pa.RecordBatch:
    """Return the batch that bytes hold, whatever its columns.

    Raises:
        GraphFormatError: If they do not hold one, whole, valid and uncompressed.
    """
    try:
        source = pa.BufferReader(data)
        schema = pa.ipc.read_schema(source)
        message = pa.ipc.read_message(source)
        if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
            raise GraphFormatError(f"{what}: expected one uncompressed record batch. Send that.")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, EOFError, OSError, ValueError, struct.error) as error:
        if isinstance(error, GraphFormatError):
            raise
        raise GraphFormatError(
            f"{what}: expected an Arrow IPC stream, got {len(data):,} bytes of something else, or "
            "of a stream cut short. Send one record batch."
        ) from None
    return batch


def column(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    """Return a column of numbers, of whatever alignment the wire left it in, as an array to index.

    Shape:
        Returns (rows,).
    """
    return np.require(batch[name].to_numpy(zero_copy_only=False), requirements="A")


def _described(schema: pa.Schema) -> str:
    # Names that arrive need not be text, nor of one line.
    shown = schema.to_string(show_field_metadata=False, show_schema_metadata=False)
    return "(" + ", ".join(shown.splitlines()) + ")"


def _is_compressed(metadata: bytes) -> bool:
    """Whether a record batch's header says so; pyarrow tells only by decompressing."""
    at = struct.unpack_from("<I", metadata, 0)[0]
    header = _field(metadata, at, _HEADER)
    if header is None:
        raise struct.error
    header += struct.unpack_from("<I", metadata, header)[0]
    return _field(metadata, header, _COMPRESSION) is not None


def _field(data: bytes, table: int, number: int) -> int | None:
    """Return where a field of a flatbuffer's table starts, None if it is not there."""
    slots = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, slots)[0]:
        return None
    offset = struct.unpack_from("<H", data, slots + 4 + 2 * number)[0]
    return table + offset if offset else None
