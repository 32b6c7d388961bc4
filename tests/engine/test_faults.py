"""Faults end in a clear status, and leave the server running and without leaks."""

from __future__ import annotations

import json
import logging
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column
from graphtheta.engine import Tls, connect
from graphtheta.engine.server.graph import ServerGraph
from graphtheta.engine.server.graph_service import NODES, GraphService
from graphtheta.engine.server.logs import _JsonFormatter
from graphtheta.engine.server.server import GraphServer
from graphtheta.engine.wire.protocol import Limits
from graphtheta.engine.wire.tables import decode, encode
from graphtheta.errors import (
    ConfigError,
    EngineError,
    GraphFormatError,
    Unreachable,
    WrongServer,
)
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import GraphStub
from tests.engine.processes import ServerProcess, serve
from tests.engine.stores import code_of, corrupted_tables, make, serving, weighted
from tests.jobs import run

pytestmark = pytest.mark.spawn
Code = grpc.StatusCode
WIDE = 2000  # features, so that responses are large


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two parts whose features are 40 MB."""
    folder = tmp_path_factory.mktemp("faults")
    small = weighted(5000, 20_000)
    wide = np.random.default_rng(0).standard_normal((5000, WIDE)).astype(np.float32)
    nodes = small.nodes.drop_columns(["features"]).append_column("features", matrix_column(wide))
    make(Graph(nodes, small.edges), folder / "store", 2, "node-hash")
    make(weighted(), folder / "other", 2, "node-hash")
    return folder


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[ServerProcess]:
    options = ("--metrics-port", 0, "--max-ids", 100_000, "--max-in-flight", 8, "--verbose")
    with serve(path / "store", *options) as process:
        yield process


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[GraphStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield GraphStub(channel)


def ids(*values: Any, kind: Any = np.int64, name: str = "new_id") -> bytes:
    return encode(pa.record_batch({name: pa.array(np.array(values, kind))}))


def compressed() -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"new_id": np.zeros(1 << 20, np.int64)})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


Columns, Neighbours, Lookup = (
    messages.NodeColumnsRequest,
    messages.NeighboursRequest,
    messages.LookupRequest,
)
WHOLE = ids(1, 2, 3)
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
        messages.HandshakeRequest(protocol_version=9),
        Code.FAILED_PRECONDITION,
    ),
    "store": (
        "Handshake",
        messages.HandshakeRequest(protocol_version=1, store_checksum="x"),
        Code.FAILED_PRECONDITION,
    ),
}
BAD["unknown column"][1].nodes = WHOLE


def status(stub: GraphStub, method: str, request: Any, **options: Any) -> grpc.RpcError:
    """Return the error of a call that fails."""

    def call() -> None:
        response = getattr(stub, method)(request, timeout=30, **options)
        if method != "Handshake":
            list(response)

    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def works(stub: GraphStub) -> bool:
    columns = Columns(nodes=WHOLE, columns=["in_degree"])
    return len(list(stub.NodeColumns(columns, timeout=30))) > 0


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
KNOWN = (Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED)


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


def test_nothing_leaks_from_broken_calls(server: ServerProcess, stub: GraphStub) -> None:
    """Clients that disappear in the middle of a response, slow readers, and wrong requests."""
    everything = Columns(range=messages.Range(first=0, count=5000), columns=["features"])

    def round_of_faults() -> None:
        for _ in range(5):
            with grpc.insecure_channel(server.address) as channel:
                response = GraphStub(channel).NodeColumns(everything, timeout=20)
                next(response)  # and the channel closes
            response = stub.NodeColumns(everything, timeout=0.3)
            assert code_of(slowly(response)) == Code.DEADLINE_EXCEEDED
            status(stub, "NodeColumns", Columns(nodes=b"x"))

    round_of_faults()
    settled(server)
    threads, handles, memory = server.resources()
    for _ in range(3):
        round_of_faults()
    settled(server)
    after = server.resources()
    assert after[0] <= threads + 8, (threads, after)  # at most one for each call in flight
    assert after[1] <= handles + 3, (handles, after)
    assert after[2] <= memory + 60, (memory, after)
    assert works(stub)


def slowly(response: Iterable[Any]) -> Iterator[Any]:
    for chunk in response:
        time.sleep(0.2)
        yield chunk


def settled(server: ServerProcess) -> None:
    """Wait until no call is in flight."""
    for _ in range(100):
        if "graphtheta_calls_in_flight 0.0" in scraped(server):
            return
        time.sleep(0.1)
    pytest.fail(scraped(server))


def scraped(server: ServerProcess) -> str:
    line = next(line for line in server.lines if '"serving"' in line)
    port = json.loads(line)["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return str(page.read().decode())


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


def test_a_cancelled_stream_is_asked_for_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(path / "other", 1, timeout_s=10) as remote:
        wanted = remote.columns(None, ["in_degree"])["in_degree"]
        service, calls = GraphService.NodeColumns, []

        def cancelled(self: GraphService, request: Any, context: Any) -> Any:
            calls.append(request)
            if len(calls) == 1:
                context.cancel()
                time.sleep(0.2)
            return service(self, request, context)

        monkeypatch.setattr(GraphService, "NodeColumns", cancelled)
    with serving(path / "other", 1, timeout_s=10) as remote:
        np.testing.assert_array_equal(remote.columns(None, ["in_degree"])["in_degree"], wanted)
    assert len(calls) >= 2


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
        messages.HandshakeRequest(protocol_version=1, store_checksum=LONG),
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


def test_health_reflection_metrics_and_logs(server: ServerProcess, stub: GraphStub) -> None:
    assert works(stub)
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="graphtheta.v1.Graph")
        assert health.Check(request, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"graphtheta.v1.Graph", "grpc.health.v1.Health"} <= set(names)
    counted = scraped(server)
    assert 'graphtheta_calls_total{method="NodeColumns",status="OK"}' in counted
    assert 'graphtheta_call_seconds_bucket{le="0.01",method="NodeColumns"}' in counted
    assert "graphtheta_sent_bytes_total" in counted
    events = [json.loads(line) for line in server.lines[1:]]
    assert any(e["event"] == "call" and e["status"] == "OK" for e in events)


def test_two_servers_on_one_port_are_refused(server: ServerProcess, path: Path) -> None:
    done = run(
        [sys.executable, "-m", "graphtheta", "serve", path / "store", "--bind", server.address]
    )
    assert done.code == 2
    assert "--bind: expected a free address" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bind", "0.0.0.0:0"), "expected a loopback address without TLS"),
        (("--part", "7"), "expected a part in"),
        (("--tls-cert", "x.pem"), "--tls-key together"),
        (("--run", "nowhere"), "nowhere"),
    ],
)
def test_wrong_options_are_refused(options: tuple[str, ...], message: str, path: Path) -> None:
    done = run([sys.executable, "-m", "graphtheta", "serve", path / "other", *options])
    assert done.code == 2
    assert message in " ".join(done.output.split())


def test_sigterm_drains(path: Path) -> None:
    everything = Columns(range=messages.Range(first=0, count=5000), columns=["features"])
    with serve(path / "store") as server, grpc.insecure_channel(server.address) as channel:
        response = GraphStub(channel).NodeColumns(everything, timeout=60)
        size = len(next(response).table)
        server.process.send_signal(signal.SIGTERM)
        for chunk in response:
            time.sleep(0.05)
            size += len(chunk.table)
        assert size > 5000 * WIDE * 4
        assert server.process.wait(30) == 0
        with pytest.raises(Unreachable):
            connect(server.address, timeout_s=0.5)


def test_a_client_survives_a_restart(path: Path) -> None:
    with serve(path / "store") as first:
        remote = connect(first.address, timeout_s=60)
        wanted = remote.columns(None, ["features"])["features"]
        found: dict[str, Any] = {}

        def query() -> None:
            found.update(remote.columns(None, ["features", "label:y"]))

        thread = threading.Thread(target=query)
        thread.start()
        first.process.send_signal(signal.SIGKILL)  # most likely in the middle of a response
        first.process.wait()
        with serve(path / "store", "--bind", first.address) as second:
            assert second.address == first.address
            thread.join(60)
            np.testing.assert_array_equal(found["features"], wanted)
            assert len(remote.neighbours([0, 1], by="node_key").indptr) == 3
        with serve(path / "other", "--bind", first.address):  # another store on the same port
            with pytest.raises(WrongServer, match="Connect again"):
                remote.degrees([0], "node_key")
        remote.close()


def test_servers_of_two_stores_do_not_make_one_graph(path: Path) -> None:
    with serve(path / "store", "--part", 0) as one, serve(path / "other", "--part", 1) as other:
        with pytest.raises(WrongServer, match="servers of one store"):
            connect([one.address, other.address])
        with pytest.raises(ConfigError, match="got none for 1"):
            connect(one.address)


def test_tls(path: Path, tmp_path: Path) -> None:
    ca, stranger = trustme.CA(), trustme.CA()
    issued = {"server": ca, "client": ca, "stranger": stranger}
    for name, authority in issued.items():
        cert = authority.issue_cert("127.0.0.1", "localhost")
        cert.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")

    def tls(name: str | None) -> Tls:
        pair = (None, None) if name is None else (f"{name}.pem", f"{name}.key")
        return Tls(tmp_path / "ca.pem", *(n and tmp_path / n for n in pair))

    options = ("--tls-cert", tmp_path / "server.pem", "--tls-key", tmp_path / "server.key")
    with serve(path / "other", *options, "--client-ca", tmp_path / "ca.pem") as server:
        with connect(server.address, tls=tls("client")) as remote:
            assert remote.num_nodes == 90
        for wrong in (
            None,
            tls(None),
            tls("stranger"),
        ):  # no TLS, no certificate, wrong one
            with pytest.raises(EngineError):
                connect(server.address, tls=wrong, timeout_s=2)
        with socket.create_connection(("127.0.0.1", server.port), 5) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            plain.settimeout(5)
            plain.recv(1000)
        with connect(server.address, tls=tls("client")) as remote:
            assert len(remote.columns([0], ["features"], "node_key")["features"]) == 1
        with pytest.raises(ConfigError, match="PEM"):
            connect(server.address, tls=Tls(tmp_path / "nothing.pem"))


def test_serving_loads_no_torch() -> None:
    code = "import sys, graphtheta.engine.server.process; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
