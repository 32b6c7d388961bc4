"""Wrong, long and too many requests end in a clear status, and leave the server running."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column
from graphtheta.engine import connect
from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.graph_service import NODES
from graphtheta.engine.server.logs import _JsonFormatter
from graphtheta.engine.server.server import GraphServer
from graphtheta.engine.wire.protocol import PROTOCOL_VERSION, Limits
from graphtheta.engine.wire.tables import decode, encode
from graphtheta.errors import (
    GraphFormatError,
)
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import GraphStub
from tests.engine.processes import ServerProcess
from tests.engine.requests import (
    KNOWN,
    WHOLE,
    WIDE,
    Code,
    Columns,
    Lookup,
    Neighbours,
    ids,
    settled,
    status,
    works,
)
from tests.engine.stores import code_of, corrupted_tables, make, weighted

pytestmark = pytest.mark.spawn


def compressed() -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"new_id": np.zeros(1 << 20, np.int64)})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


BAD: dict[str, tuple[str, Any, grpc.StatusCode]] = {
    "unknown id": ("NodeColumns", Columns(nodes=ids(10**9)), Code.NOT_FOUND),
    "negative id": ("NodeColumns", Columns(nodes=ids(-1)), Code.NOT_FOUND),
    "unknown column": ("NodeColumns", Columns(columns=["z"]), Code.INVALID_ARGUMENT),
    "no table": ("NodeColumns", Columns(nodes=b""), Code.INVALID_ARGUMENT),
    "truncated": ("NodeColumns", Columns(nodes=WHOLE[:-17]), Code.INVALID_ARGUMENT),
    "garbage": ("NodeColumns", Columns(nodes=b"\x93" * 4000), Code.INVALID_ARGUMENT),
    "dtype": ("NodeColumns", Columns(nodes=ids(1, kind=np.float32)), Code.INVALID_ARGUMENT),
    "name": ("NodeColumns", Columns(nodes=ids(1, name="id")), Code.INVALID_ARGUMENT),
    "compressed": ("NodeColumns", Columns(nodes=compressed()), Code.INVALID_ARGUMENT),
    "too many": ("NodeColumns", Columns(nodes=ids(*range(100_001))), Code.RESOURCE_EXHAUSTED),
    "gigantic": ("NodeColumns", Columns(nodes=bytes(65 << 20)), Code.RESOURCE_EXHAUSTED),
    "range": (
        "NodeColumns",
        Columns(range=messages.Range(first=-1, count=5)),
        Code.INVALID_ARGUMENT,
    ),
    "long range": (
        "NodeColumns",
        Columns(range=messages.Range(first=0, count=1 << 40)),
        Code.RESOURCE_EXHAUSTED,
    ),
    "no direction": ("Neighbours", Neighbours(nodes=WHOLE), Code.INVALID_ARGUMENT),
    "fanout 0": (
        "Neighbours",
        Neighbours(nodes=WHOLE, direction=1, draw=messages.Draw()),
        Code.INVALID_ARGUMENT,
    ),
    "gigantic fanout": (
        "Neighbours",
        Neighbours(nodes=WHOLE, direction=1, draw=messages.Draw(fanout=1 << 31)),
        Code.RESOURCE_EXHAUSTED,
    ),
    "no naming": ("Lookup", Lookup(ids=ids(1, name="id")), Code.INVALID_ARGUMENT),
    "id of another type": (
        "Lookup",
        Lookup(ids=ids(1, name="id"), naming=1),
        Code.INVALID_ARGUMENT,
    ),
    "protocol": (
        "Handshake",
        messages.HandshakeRequest(protocol_version=1),
        Code.FAILED_PRECONDITION,
    ),
    "store": (
        "Handshake",
        messages.HandshakeRequest(protocol_version=PROTOCOL_VERSION, store_checksum="x"),
        Code.FAILED_PRECONDITION,
    ),
}
BAD["unknown column"][1].nodes = WHOLE


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_have_a_status_and_a_reason(name: str, stub: GraphStub) -> None:
    method, request, code = BAD[name]
    error = status(stub, method, request)
    assert error.code() == code, error.details()
    assert "Traceback" not in error.details()
    assert works(stub)


def test_a_call_for_another_store_is_refused(stub: GraphStub) -> None:
    metadata = (("graphtheta-store", "another"),)
    error = status(stub, "NodeColumns", Columns(nodes=WHOLE), metadata=metadata)
    assert error.code() == Code.FAILED_PRECONDITION


def test_a_call_without_a_deadline_is_refused(stub: GraphStub) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.NodeColumns(Columns(nodes=WHOLE)))
    assert caught.value.code() == Code.INVALID_ARGUMENT
    assert "deadline" in caught.value.details()


METHODS = {
    "Handshake": messages.HandshakeRequest,
    "Lookup": Lookup,
    "NodeColumns": Columns,
    "Neighbours": Neighbours,
    "FindEdges": messages.FindEdgesRequest,
    "EdgeColumns": messages.EdgeColumnsRequest,
}


@pytest.mark.parametrize("name", [b"new_\x80d", b"new\nid"])
def test_names_that_are_not_text_are_refused(name: bytes) -> None:
    """Error messages show column names that may contain invalid UTF-8 or line breaks."""
    data = encode(pa.record_batch({"new_id": [1]})).replace(b"new_id", name)
    with pytest.raises(GraphFormatError, match=r"expected columns \(new_id: int64\), got") as got:
        decode(data, "nodes", NODES, max_rows=1)
    assert "\n" not in str(got.value)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_message_breaks_the_server(
    method: str, server: ServerProcess, data: st.DataObject
) -> None:
    """Send arbitrary bytes, and messages with corrupted tables and arbitrary numbers."""
    kind = METHODS[method]
    with grpc.insecure_channel(server.address) as channel:
        if data.draw(st.booleans()):
            raw = data.draw(st.binary(max_size=80))
            call = channel.unary_stream(f"/graphtheta.v1.Graph/{method}")
            found = code_of(call(raw, timeout=30))
            assert found in (*KNOWN, Code.FAILED_PRECONDITION, Code.INTERNAL), found
        else:
            fields = {
                f.name: data.draw(corrupted_tables())
                for f in kind.DESCRIPTOR.fields
                if f.type == f.TYPE_BYTES
            }
            request = kind(**fields)
            if method == "Neighbours":
                request.direction = data.draw(st.integers(0, 3))
                if data.draw(st.booleans()):
                    request.draw.CopyFrom(
                        messages.Draw(
                            fanout=data.draw(st.integers(0, 2**32 - 1)),
                            replace=data.draw(st.booleans()),
                            weight=data.draw(st.sampled_from(["", "weight", "attr", "z"])),
                            layer=data.draw(st.integers(0, 2**32 - 1)),
                        )
                    )
            elif method == "Lookup":
                request.naming = data.draw(st.integers(0, 3))
            elif method == "Handshake":
                request.protocol_version = data.draw(st.integers(0, 2**32 - 1))
            if "columns" in kind.DESCRIPTOR.fields_by_name:
                request.columns.extend(data.draw(st.lists(st.text(max_size=5), max_size=2)))
            call = channel.unary_stream(f"/graphtheta.v1.Graph/{method}")
            found = code_of(call(request.SerializeToString(), timeout=30))
            assert found in (*KNOWN, Code.FAILED_PRECONDITION), found
    assert server.process.poll() is None


LONG = "x\n" * 500_000
LONG_REQUESTS: dict[str, tuple[str, Any]] = {
    "column": ("NodeColumns", Columns(nodes=WHOLE, columns=[LONG])),
    "columns": ("NodeColumns", Columns(nodes=WHOLE, columns=[f"c{i}" for i in range(100_000)])),
    "unicode": ("NodeColumns", Columns(nodes=WHOLE, columns=["\U0001f600" * 100_000])),
    "edge column": ("EdgeColumns", messages.EdgeColumnsRequest(edges=WHOLE, columns=[LONG])),
    "weight": (
        "Neighbours",
        Neighbours(nodes=WHOLE, direction=1, draw=messages.Draw(fanout=1, weight=LONG)),
    ),
    "column of a table": ("NodeColumns", Columns(nodes=ids(1, name="n" * 1_000_000))),
    "many columns": (
        "NodeColumns",
        Columns(nodes=encode(pa.record_batch({f"c{i}": [1] for i in range(5000)}))),
    ),
    "id": ("Lookup", Lookup(ids=encode(pa.record_batch({"id": pa.array([LONG])})), naming=1)),
    "store": (
        "Handshake",
        messages.HandshakeRequest(protocol_version=PROTOCOL_VERSION, store_checksum=LONG),
    ),
}


@pytest.mark.parametrize("name", LONG_REQUESTS)
def test_long_strings_are_not_echoed(name: str, server: ServerProcess, stub: GraphStub) -> None:
    method, request = LONG_REQUESTS[name]
    before = len(server.lines)
    error = status(stub, method, request)
    assert error.code() in (*KNOWN[1:], Code.FAILED_PRECONDITION), error.code()
    assert 20 < len(error.details()) < 1000
    assert "\n" not in error.details()
    time.sleep(0.05)
    assert max(map(len, server.lines[before:]), default=0) < 5000


def test_log_lines_are_short() -> None:
    """Whatever is logged: a value, or the traceback of an exception with a long message."""
    formatter = _JsonFormatter()
    try:
        raise ValueError(LONG)
    except ValueError:
        record = logging.LogRecord("e", logging.ERROR, "f", 1, "m", None, sys.exc_info())
    record.peer = LONG
    line = formatter.format(record)
    assert len(line) < 20_000
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["traceback"]


def test_messages_of_errors_are_one_line_of_limited_length() -> None:
    error = GraphFormatError(f"ids: expected a node, got {LONG}. Correct it.")
    assert str(error).startswith("ids: expected a node, got x\\nx")
    assert str(error).endswith(". Correct it.")
    assert len(str(error)) < 5000
    assert "\n" not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_more_calls_than_allowed_are_unavailable(server: ServerProcess) -> None:
    everything = Columns(range=messages.Range(first=0, count=5000), columns=["features"])
    channels = [grpc.insecure_channel(server.address) for _ in range(12)]
    responses = [GraphStub(channel).NodeColumns(everything, timeout=20) for channel in channels]
    codes = []
    for response in responses:
        try:
            next(response)
        except grpc.RpcError as error:
            codes.append(error.code())
    assert codes.count(Code.UNAVAILABLE) == 4
    with grpc.insecure_channel(server.address) as channel:  # health checks still work
        health = health_pb2_grpc.HealthStub(channel)
        reply = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    for channel in channels:
        channel.close()
    settled(server)


def test_a_connection_leaves_half_of_the_calls_to_others(server: ServerProcess) -> None:
    """Another client is answered immediately, while one client has all calls and reads none."""
    everything = Columns(range=messages.Range(first=0, count=5000), columns=["features"])
    with grpc.insecure_channel(server.address) as channel:
        streams = [GraphStub(channel).NodeColumns(everything, timeout=60) for _ in range(12)]
        refused = 0
        for stream in streams:
            try:
                next(stream)
            except grpc.RpcError as error:
                refused += error.code() == Code.UNAVAILABLE
        assert refused == 4
        started = time.monotonic()
        with connect(server.address, timeout_s=10) as remote:
            assert len(remote.degrees([0], "node_key")[0]) == 1
        assert time.monotonic() - started < Limits().send_seconds
    settled(server)


def test_streams_that_are_not_read_make_room(tmp_path: Path) -> None:
    """When all slots are taken, the longest unread stream is cancelled, and read ones are not."""
    wide = np.zeros((5000, WIDE), np.float32)
    table = weighted(5000, 20_000)
    nodes = table.nodes.drop_columns(["features"]).append_column("features", matrix_column(wide))
    store = make(Graph(nodes, table.edges), tmp_path / "store", 1, "node-hash")
    limits = Limits(max_in_flight=4, send_seconds=0.2)
    graph_server = GraphServer(ServerGraph(store), limits=limits)
    address = f"127.0.0.1:{graph_server.port}"
    everything = Columns(range=messages.Range(first=0, count=5000), columns=["features"])
    own = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel
    channels = [grpc.insecure_channel(address, own) for _ in range(4)]
    try:
        with connect(address, timeout_s=10) as remote:
            streams = [GraphStub(c).NodeColumns(everything, timeout=60) for c in channels]
            for stream in streams:
                next(stream)
            time.sleep(0.3)
            started = time.monotonic()
            for _ in range(5):
                assert len(remote.degrees([0], "node_key")[0]) == 1
            assert time.monotonic() - started < 5
        codes = {code_of(stream).name for stream in streams}
        assert codes == {"CANCELLED", "OK"}  # only as many as were needed
    finally:
        for channel in channels:
            channel.close()
        graph_server.close(0)
