"""Arrow tables in messages: IPC streams of one uncompressed record batch, validated on arrival.

Received bytes are not trusted. The columns must have the expected names and types, compression is
refused (a few bytes could expand to all of memory), and Arrow validates the buffers before anything
reads them.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.errors import GraphFormatError, LimitExceeded

__all__ = ["column", "decode", "decode_any", "encode", "encode_columns"]

# Field numbers in the flatbuffers Message and RecordBatch (Arrow's format/Message.fbs).
_HEADER, _COMPRESSION = 2, 3


def encode(batch: pa.RecordBatch) -> bytes:
    """Return a record batch as bytes."""
    # The bytes of `pa.ipc.new_stream` without the end-of-stream marker, with one copy less.
    return b"".join([batch.schema.serialize(), batch.serialize()])


def encode_columns(**columns: Any) -> bytes:
    """Return columns as the bytes of a record batch."""
    return encode(pa.record_batch(columns))


def decode(data: bytes, where: str, *schemas: pa.Schema, max_rows: int) -> pa.RecordBatch:
    """Return the record batch in some bytes, checked against the accepted schemas.

    Args:
        data: Received bytes.
        where: Name of the data in error messages.
        schemas: Accepted schemas. Columns must not contain nulls.
        max_rows: Largest number of rows.

    Raises:
        GraphFormatError: If the bytes are no such record batch.
        LimitExceeded: If it has too many rows.
    """
    batch = decode_any(data, where)
    if not any(batch.schema.equals(schema) for schema in schemas):
        expected = " or ".join(_describe(schema) for schema in schemas)
        raise GraphFormatError(
            f"{where}: expected columns {expected}, got {_describe(batch.schema)}. Convert them."
        )
    if batch.num_rows > max_rows:
        raise LimitExceeded(
            f"{where}: expected at most {max_rows:,} rows in a request, got {batch.num_rows:,}. "
            "Split it."
        )
    if any(array.null_count for array in batch.columns):
        raise GraphFormatError(
            f"{where}: expected a value in every row, got nulls. Drop these rows."
        )
    return batch


def decode_any(data: bytes | pa.Buffer, where: str) -> pa.RecordBatch:
    """Return the record batch in some bytes, with any columns.

    Raises:
        GraphFormatError: If the bytes are not one complete, valid, uncompressed record batch.
    """
    try:
        source = pa.BufferReader(data)
        schema = pa.ipc.read_schema(source)
        message = pa.ipc.read_message(source)
        if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
            raise GraphFormatError(f"{where}: expected one uncompressed record batch. Send one.")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, EOFError, OSError, ValueError, struct.error) as error:
        if isinstance(error, GraphFormatError):
            raise
        raise GraphFormatError(
            f"{where}: expected an Arrow IPC stream, got {len(data):,} bytes that are none or are "
            "cut short. Send one record batch."
        ) from None
    return batch


def column(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    """Return a column of numbers as an aligned array, copied only if its bytes are not aligned.

    Shape:
        Returns (rows,).
    """
    return np.require(batch[name].to_numpy(zero_copy_only=False), requirements="A")


def _describe(schema: pa.Schema) -> str:
    # Received names may contain invalid UTF-8 or line breaks.
    shown = schema.to_string(show_field_metadata=False, show_schema_metadata=False)
    return "(" + ", ".join(shown.splitlines()) + ")"


def _is_compressed(metadata: bytes) -> bool:
    """Return whether a record batch's header declares compression.

    pyarrow can't report this without decompressing, so the flatbuffer is parsed here.
    """
    table = struct.unpack_from("<I", metadata, 0)[0]
    header = _field_offset(metadata, table, _HEADER)
    if header is None:
        raise struct.error
    header += struct.unpack_from("<I", metadata, header)[0]
    return _field_offset(metadata, header, _COMPRESSION) is not None


def _field_offset(data: bytes, table: int, number: int) -> int | None:
    """Return the offset of a field of a flatbuffers table, or None if the field is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
    return table + offset if offset else None
