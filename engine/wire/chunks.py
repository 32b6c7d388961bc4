"""Chunks of a response, and their encoding as the protobuf message `Chunk`.

The message is written with one copy of its tables and read with none. protobuf's own classes would
copy megabytes into the message and again into its bytes, and do the same on arrival. The bytes are
the ones that protobuf would write.

A response ends with a chunk that has only a checksum of all messages before it. A message that is
missing, repeated, out of order or changed is therefore an error, also where the rows that remain
would make a valid response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import xxhash
from google.protobuf.message import DecodeError

from graphtheta.engine.wire.tables import decode_any
from graphtheta.errors import EngineError, GraphFormatError
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = [
    "ResponseChunk",
    "decode_chunk",
    "decode_response",
    "encode_chunk",
    "encode_end",
    "split_fields",
    "varint",
]

# Tags of the fields `table` and `elsewhere`: their number, and the type "length-delimited".
_TAGS = (b"\x0a", b"\x12")


class ResponseChunk(NamedTuple):
    """A bounded number of rows of a response.

    Attributes:
        table: Rows of the response, if any.
        other_parts: Rows of the request whose edges continue at parts that the server does not
            serve, if any: row, part, in_degree. It is the message's field `elsewhere`.
    """

    table: pa.RecordBatch | None = None
    other_parts: pa.RecordBatch | None = None


def encode_chunk(chunk: ResponseChunk) -> bytes:
    """Return the bytes of a `Chunk` message."""
    fields: list[bytes | pa.Buffer] = []
    for tag, batch in zip(_TAGS, chunk, strict=True):
        if batch is not None:
            stream = [batch.schema.serialize(), batch.serialize()]
            fields += [tag, varint(sum(buffer.size for buffer in stream)), *stream]
    return b"".join(fields)


def encode_end(checksum: int) -> bytes:
    """Return the bytes of the last `Chunk` message of a response.

    Args:
        checksum: xxh3_64 of the bytes of all messages before it.
    """
    return messages.Chunk(checksum=checksum).SerializeToString()


def decode_response(received: Sequence[bytes]) -> list[ResponseChunk]:
    """Return the chunks of a response, without the last message, whose checksum is verified.

    Raises:
        EngineError: If the response is incomplete, or a message is damaged.
    """
    digest = xxhash.xxh3_64()
    for data in received[:-1]:
        digest.update(data)
    if not received or received[-1] != encode_end(digest.intdigest()):
        raise EngineError(
            f"response: expected a checksum of all its messages at the end, got {len(received):,} "
            "messages that are incomplete or changed. Ask again, or upgrade the server."
        )
    return [decode_chunk(data) for data in received[:-1]]


def decode_chunk(data: bytes) -> ResponseChunk:
    """Return the tables of a `Chunk` message, as views of its bytes.

    Raises:
        EngineError: If the bytes are no `Chunk` message, or a field is not one complete, valid,
            uncompressed record batch.
    """
    fields = split_fields(data)
    if fields is None:  # a later version of the protocol may add fields
        try:
            chunk = messages.Chunk.FromString(data)
        except DecodeError:
            raise EngineError("response: expected a Chunk, got other bytes.") from None
        values = zip(_TAGS, (chunk.table, chunk.elsewhere), strict=True)
        fields = {tag: pa.py_buffer(value) for tag, value in values if value}
    try:
        return ResponseChunk(
            *(decode_any(fields[tag], "response") if tag in fields else None for tag in _TAGS)
        )
    except GraphFormatError as error:  # the server's mistake, not one of the caller's data
        raise EngineError(str(error)) from None


def split_fields(data: bytes) -> dict[bytes, pa.Buffer] | None:
    """Return the contents of the fields 1 and 2 by tag, or None if there is anything else."""
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


def varint(number: int) -> bytes:
    """Return a number as protobuf encodes it."""
    digits = bytearray()
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
