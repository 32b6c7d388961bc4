"""Encoding of the protobuf message `Chunk`, a bounded number of rows of an answer.

The message is written with one copy of its tables and read with none. protobuf's own classes would
copy megabytes into the message and again into its bytes, and do the same on arrival. The bytes are
the ones that protobuf would write.
"""

from __future__ import annotations

import pyarrow as pa
from google.protobuf.message import DecodeError

from graphtheta.engine.wire.tables import decode_any
from graphtheta.errors import EngineError
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["decode_chunk", "encode_chunk"]

# Tags of the fields `table` and `elsewhere`: their number, and the type "length-delimited".
_TAGS = (b"\x0a", b"\x12")


def encode_chunk(table: pa.RecordBatch | None, elsewhere: pa.RecordBatch | None = None) -> bytes:
    """Return the bytes of a `Chunk`.

    Args:
        table: Rows of the answer.
        elsewhere: Rows of the request that other parts can add to.
    """
    fields: list[bytes | pa.Buffer] = []
    for tag, batch in zip(_TAGS, (table, elsewhere), strict=True):
        if batch is not None:
            stream = [batch.schema.serialize(), batch.serialize()]
            fields += [tag, _varint(sum(buffer.size for buffer in stream)), *stream]
    return b"".join(fields)


def decode_chunk(data: bytes) -> tuple[pa.RecordBatch | None, pa.RecordBatch | None]:
    """Return the `table` and `elsewhere` of a `Chunk`, as views of its bytes.

    Raises:
        EngineError: If the bytes are no `Chunk`.
        GraphFormatError: If a field is not one complete, valid, uncompressed record batch.
    """
    fields = _split_fields(data)
    if fields is None:  # a later version of the protocol may add fields
        try:
            chunk = messages.Chunk.FromString(data)
        except DecodeError:
            raise EngineError("answer: expected a Chunk, got other bytes.") from None
        values = zip(_TAGS, (chunk.table, chunk.elsewhere), strict=True)
        fields = {tag: pa.py_buffer(value) for tag, value in values if value}
    table, elsewhere = (
        decode_any(fields[tag], "answer") if tag in fields else None for tag in _TAGS
    )
    return table, elsewhere


def _split_fields(data: bytes) -> dict[bytes, pa.Buffer] | None:
    """Return the contents of the two fields by tag, or None if there is anything else."""
    whole, at, fields = pa.py_buffer(data), 0, {}
    while at < len(data):
        tag, at, size, shift = data[at : at + 1], at + 1, 0, 0
        while at < len(data) and data[at] & 0x80 and shift < 63:
            size |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        if tag not in _TAGS or at == len(data):
            return None
        size, at = size | data[at] << shift, at + 1
        if size > len(data) - at:
            return None
        fields[tag], at = whole.slice(at, size), at + size
    return fields


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
