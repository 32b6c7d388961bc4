"""Arrays in streams of pieces, as the protobuf message `Piece`, and results of micro-batches.

A piece is written with one copy of its bytes and read with none, as a `Chunk` is: the two messages
have the same fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from graphtheta.engine.wire.chunks import encode_end, split_fields, varint
from graphtheta.errors import EngineError, GraphFormatError
from graphtheta.proto.v1 import parameters_pb2 as messages
from graphtheta.train.elastic.layout import ModelLayout
from graphtheta.train.elastic.ledger import Outcome, Work
from graphtheta.train.elastic.source import Contribution, GroupName, RowGradient

__all__ = [
    "OUTCOMES",
    "decode_contribution",
    "encode_contribution",
    "encode_end_of",
    "encode_pieces",
    "group_message",
    "group_of",
    "read_pieces",
]

# What happens to a result, in replies.
OUTCOMES: dict[Outcome, messages.PushReply.Outcome] = {
    "counted": messages.PushReply.OUTCOME_COUNTED,
    "repeated": messages.PushReply.OUTCOME_REPEATED,
    "not open": messages.PushReply.OUTCOME_NOT_OPEN,
    "refused": messages.PushReply.OUTCOME_REFUSED,
}

_PIECE_BYTES = 2 << 20
_TAG = b"\x0a"  # of the field `data`
Array = NDArray[Any]


def encode_pieces(array: Array) -> Iterator[bytes]:
    """Yield the bytes of an array as `Piece` messages, without the last one."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for start in range(0, len(data), _PIECE_BYTES):
        piece = data[start : start + _PIECE_BYTES]
        yield b"".join((_TAG, varint(len(piece)), piece))


def encode_end_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield pieces, and then the last one, which has their checksum."""
    digest = xxhash.xxh3_64()
    for piece in pieces:
        digest.update(piece)
        yield piece
    yield encode_end(digest.intdigest())


def read_pieces(stream: Iterator[bytes], num_bytes: int) -> Array:
    """Return the bytes of a stream of pieces, whose checksum is verified.

    Args:
        stream: The pieces. It is read to its end, or to where it is wrong.
        num_bytes: Number of bytes that are expected.

    Raises:
        EngineError: If there are more or fewer, or a piece is missing or damaged.
    """
    return _read(stream, num_bytes, xxhash.xxh3_64())


def _read(stream: Iterator[bytes], num_bytes: int, digest: Any) -> Array:
    """Do what `read_pieces` does after some pieces that `digest` is of."""
    found, at = np.empty(num_bytes, np.uint8), 0
    while at < num_bytes:
        piece = next(stream, b"")
        content = np.frombuffer(_content(piece), np.uint8)
        if not 0 < len(content) <= num_bytes - at:
            raise _incomplete(num_bytes, at + len(content))
        digest.update(piece)  # while it is in the cache
        found[at : at + len(content)] = content
        at += len(content)
    if next(stream, b"") != encode_end(digest.intdigest()) or next(stream, None) is not None:
        raise _incomplete(num_bytes, at)
    return found


def _incomplete(expected: int, got: int) -> EngineError:
    return EngineError(
        f"stream: expected {expected:,} bytes and their checksum, got {got:,} or damaged ones. Use "
        "the model and version of the service."
    )


def _content(piece: bytes) -> pa.Buffer:
    fields = split_fields(piece)
    if fields is None or set(fields) != {_TAG}:
        raise EngineError(
            f"stream: expected a Piece, got {'other bytes' if piece else 'its end'}. Send it again."
        )
    return fields[_TAG]


# -- results of micro-batches ---------------------------------------------------------------------


def group_message(group: GroupName) -> messages.Group:
    """Return the message of a group."""
    return messages.Group(id=group.id, host=group.host, workers=group.workers)


def group_of(message: messages.Group) -> GroupName:
    """Return the group of a message."""
    return GroupName(message.id, message.host, message.workers)


def encode_contribution(group: GroupName, work: Work, result: Contribution) -> Iterator[bytes]:
    """Yield the result of a micro-batch as pieces."""
    header = messages.PushHeader(
        group=group_message(group),
        work=messages.Work(step=work.step, micro_batch=work.index, version=work.version),
        loss=result.loss,
        count=result.count,
        gradients=len(result.gradients),
        rows=[
            messages.RowHeader(parameter=name, rows=len(rows.keys), dense=rows.is_dense)
            for name, rows in result.rows.items()
        ],
    )

    def pieces() -> Iterator[bytes]:
        yield from encode_pieces(np.frombuffer(header.SerializeToString(), np.uint8))
        yield from encode_pieces(result.gradients)
        for rows in result.rows.values():
            yield from encode_pieces(rows.keys)
            yield from encode_pieces(rows.values)

    return encode_end_of(pieces())


def decode_contribution(
    stream: Iterator[bytes], layout: ModelLayout
) -> tuple[GroupName, Work, Contribution]:
    """Return a group, its work and its result from pieces.

    No more is read than the model's gradients can have.

    Args:
        stream: The pieces.
        layout: Parameters of the model.

    Raises:
        GraphFormatError: If the bytes are not such a result of this model.
        EngineError: If a piece is missing or damaged.
    """
    first = next(stream, b"")
    try:
        header = messages.PushHeader.FromString(_content(first).to_pybytes())
    except (DecodeError, EngineError):
        raise _unlike("a PushHeader first", "other bytes") from None
    itemsize = layout.dtype.itemsize
    sizes = [header.gradients * itemsize]
    for rows in header.rows:
        table = layout.sharded.get(rows.parameter)
        if table is None or rows.rows > len(table):
            raise _unlike(
                f"rows of {', '.join(layout.sharded) or 'no parameter'}",
                f"{rows.rows:,} of '{rows.parameter}'",
            )
        sizes += [8 * rows.rows, rows.rows * table.shape[1] * itemsize]
    if header.gradients != layout.num_gradients:
        raise _unlike(f"{layout.num_gradients:,} gradients", f"{header.gradients:,}")
    digest = xxhash.xxh3_64()
    digest.update(first)
    content = _read(stream, sum(sizes), digest)
    parts = iter(np.split(content, np.cumsum(sizes)[:-1]))
    gradients = next(parts).view(layout.numpy_dtype)
    named = {}
    for rows in header.rows:
        keys = next(parts).copy().view(np.int64)
        values = next(parts).copy().view(layout.numpy_dtype)
        shape = len(keys), layout.sharded[rows.parameter].shape[1]
        named[rows.parameter] = RowGradient(keys, values.reshape(shape), rows.dense)
    work = Work(header.work.step, header.work.micro_batch, header.work.version)
    result = Contribution(header.loss, header.count, gradients, named)
    return group_of(header.group), work, result


def _unlike(expected: str, got: str) -> GraphFormatError:
    return GraphFormatError(
        f"push: expected {expected}, got {got}. Use the model and version of the service."
    )
