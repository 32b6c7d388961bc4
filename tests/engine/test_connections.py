"""Broken connections, stopped servers and wrong options end clearly, without leaks."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from graphtheta.engine import Tls, connect
from graphtheta.engine.server.graph_service import GraphService
from graphtheta.errors import (
    ConfigError,
    EngineError,
    Unreachable,
    WrongServer,
)
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import GraphStub
from tests.engine.processes import ServerProcess, serve
from tests.engine.requests import (
    WIDE,
    Code,
    Columns,
    scraped,
    settled,
    status,
    works,
)
from tests.engine.stores import code_of, serving
from tests.jobs import run

pytestmark = pytest.mark.spawn


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
