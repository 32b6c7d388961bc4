"""Pieces of answers on the wire: the message `Chunk`, written in one copy and read in none.

protobuf's own objects would copy a table of megabytes into the message, and that into bytes, and
the same again where it is read; what is written here is what they would write.
"""

from __future__ import annotations

import pyarrow as pa
from google.protobuf.message import DecodeError

from graphtheta.engine.wire.tables import decode_any
from graphtheta.errors import EngineError
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["chunk_of", "tables_of"]

# Keys of the fields `table` and `elsewhere`: their numbers, and that a length comes.
_KEYS = (b"\x0a", b"\x12")


def chunk_of(table: pa.RecordBatch | None, elsewhere: pa.RecordBatch | None = None) -> bytes:
    """Return a piece of an answer as a `Chunk` on the wire."""
    pieces: list[bytes | pa.Buffer] = []
    for key, batch in zip(_KEYS, (table, elsewhere), strict=True):
        if batch is not None:
            stream = [batch.schema.serialize(), batch.serialize()]
            pieces += [key, _varint(sum(buffer.size for buffer in stream)), *stream]
    return b"".join(pieces)


def tables_of(data: bytes) -> tuple[pa.RecordBatch | None, pa.RecordBatch | None]:
    """Return a piece's table and its `elsewhere`, over the memory of what arrived.

    Raises:
        EngineError: If it is no `Chunk`.
        GraphFormatError: If what it holds is not one whole, valid and uncompressed batch.
    """
    found = _fields(data)
    if found is None:  # as a later protocol may write it
        try:
            chunk = messages.Chunk.FromString(data)
        except DecodeError:
            raise EngineError("answer: expected a Chunk, got other bytes.") from None
        held = zip(_KEYS, (chunk.table, chunk.elsewhere), strict=True)
        found = {key: pa.py_buffer(value) for key, value in held if value}
    table, elsewhere = (decode_any(found[key], "answer") if key in found else None for key in _KEYS)
    return table, elsewhere


def _fields(data: bytes) -> dict[bytes, pa.Buffer] | None:
    """Return what the two fields hold; None if there is anything else."""
    whole, at, found = pa.py_buffer(data), 0, {}
    while at < len(data):
        key, at, size, shift = data[at : at + 1], at + 1, 0, 0
        while at < len(data) and data[at] & 0x80 and shift < 63:
            size |= (data[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        if key not in _KEYS or at == len(data):
            return None
        size, at = size | data[at] << shift, at + 1
        if size > len(data) - at:
            return None
        found[key], at = whole.slice(at, size), at + size
    return found


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
