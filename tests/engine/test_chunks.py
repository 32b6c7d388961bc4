"""Chunks are encoded and decoded as protobuf does; other bytes are errors."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphtheta.engine.wire.chunks import ResponseChunk, decode_chunk, encode_chunk
from graphtheta.engine.wire.tables import encode
from graphtheta.errors import EngineError, GraphThetaError
from graphtheta.proto.v1 import graph_pb2 as messages


def batch(rows: int) -> pa.RecordBatch:
    return pa.record_batch({"row": np.arange(rows, dtype=np.int32), "x": np.ones(rows)})


CHUNK = encode_chunk(ResponseChunk(batch(5)))
BATCHES = st.none() | st.sampled_from([0, 1, 7, 10, 100, 3_000]).map(batch)


@given(BATCHES, BATCHES)
def test_equals_protobuf(table: pa.RecordBatch | None, other_parts: pa.RecordBatch | None) -> None:
    fields = {"table": table, "elsewhere": other_parts}
    chunk = messages.Chunk(**{name: encode(b) for name, b in fields.items() if b is not None})
    data = encode_chunk(ResponseChunk(table, other_parts))
    assert data == chunk.SerializeToString()
    assert decode_chunk(data) == (table, other_parts)


def test_reads_fields_of_later_versions() -> None:
    chunk = messages.Chunk(table=encode(batch(3)), elsewhere=encode(batch(2)))
    data = chunk.SerializeToString()
    later = b"\x1a\x03abc" + data + b"\x20\x07"  # fields 3 and 4, of a later protocol
    assert decode_chunk(later) == (batch(3), batch(2))
    # In protobuf, the last value of a field counts.
    twice = encode_chunk(ResponseChunk(batch(1))) + CHUNK
    assert decode_chunk(twice) == (batch(5), None)


@given(st.binary(max_size=64) | st.integers(0, 400).map(lambda n: CHUNK[:n]))
def test_other_bytes_are_errors(data: bytes) -> None:
    try:
        table, other_parts = decode_chunk(data)
    except GraphThetaError:
        return
    known = messages.Chunk.FromString(data)
    assert (table is None, other_parts is None) == (not known.table, not known.elsewhere)


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\xff", b"\x0a\x05abc", b"\x0a" + b"\xff" * 12])
def test_truncated_chunks_are_errors(data: bytes) -> None:
    with pytest.raises(EngineError, match="expected a Chunk"):
        decode_chunk(data)
