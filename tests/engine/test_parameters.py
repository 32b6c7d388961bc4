"""The gRPC parameter service gives groups what the host in their process would."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

import graphtheta as gt
from graphtheta.engine.client.connection import Connection, Tls
from graphtheta.engine.client.parameters import ParameterClient
from graphtheta.engine.server.parameter_service import ParameterServer
from graphtheta.engine.server.server import ServerTls
from graphtheta.engine.wire.pieces import (
    decode_contribution,
    encode_contribution,
    encode_end_of,
    encode_pieces,
    read_pieces,
)
from graphtheta.engine.wire.protocol import Limits
from graphtheta.errors import (
    ConfigError,
    EngineError,
    GraphFormatError,
    Unreachable,
    VersionGone,
    WrongServer,
)
from graphtheta.proto.v1 import parameters_pb2 as messages
from graphtheta.train.elastic.host import ParameterHost
from graphtheta.train.elastic.ledger import Work
from graphtheta.train.elastic.source import Contribution, GroupName, RowGradient
from tests.train.elastic.jobs import in_groups, one_job, small_store, trainer_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_store(tmp_path_factory.mktemp("parameters") / "store")


@contextmanager
def served(name: str, store: Path, **options: Any) -> Iterator[tuple[ParameterHost, str]]:
    host = ParameterHost(trainer_of(name, store, gt.communicator(), **options), 2)
    server = ParameterServer(host)
    try:
        yield host, f"127.0.0.1:{server.port}"
    finally:
        server.close(0.0)
        host.close()


@pytest.mark.parametrize("name", ["gcn", "link"])
def test_groups_over_grpc_train_the_same_model(name: str, store: Path) -> None:
    want = one_job(name, store, 2, micro_batches=2)
    with served(name, store, micro_batches=2) as (host, address):
        found = in_groups(name, store, host, 2, source=lambda: ParameterClient(address))
    for got in found:
        assert got[0]["loss_history"] == want[0]["loss_history"]
        assert got[0]["best_epoch"] == want[0]["best_epoch"]
        assert all(np.array_equal(got[1][key], want[1][key]) for key in want[1])


def test_errors_keep_their_type_and_message(store: Path) -> None:
    with served("link", store) as (host, address):
        client, group = ParameterClient(address), GroupName.new(1)
        with pytest.raises(VersionGone, match=f"{address}: pull: expected a version in flight"):
            client.pull(3, 1)
        with pytest.raises(ConfigError, match="got 'bias'"):
            client.pull_rows(0, "bias", np.arange(2), 1)
        with pytest.raises(WrongServer, match=r"store: expected '.*' of .*, got 'another'"):
            client.join(group, {**host.terms().terms, "store": "another"})
        request = messages.TermsRequest(protocol_version=7)
        with pytest.raises(WrongServer, match="expected version 1 of the parameter protocol"):
            client._one("Terms", request, messages.TermsReply)
        empty = Contribution(1.0, 1.0, np.zeros(3, np.float32), {})
        with pytest.raises(ConfigError, match=r"push: expected .* gradients, got 3"):
            client.push(group, Work(0, 0, 0), empty)
        assert client.status()["version"] == 0
        client.leave(group)
        client.close()
    absent = ParameterClient(address, wait_s=0.1)
    with pytest.raises(Unreachable, match=address):
        absent.terms()
    absent.close()


def test_a_result_survives_the_wire_and_damage_is_found(store: Path) -> None:
    host = ParameterHost(trainer_of("link", store, gt.communicator()), 1)
    layout, group, work = host.layout, GroupName("g", "h", 2), Work(3, 1, 2)
    rng = np.random.default_rng(0)
    gradients = rng.random(layout.num_gradients).astype(np.float32)
    (name,) = layout.sharded
    rows = RowGradient(np.array([5, 2]), rng.random((2, 4)).astype(np.float32), True)
    sent = Contribution(0.5, 7.0, gradients, {name: rows})
    pieces = list(encode_contribution(group, work, sent))
    got = decode_contribution(iter(pieces), layout)
    assert got[:2] == (group, work)
    assert (got[2].loss, got[2].count) == (0.5, 7.0)
    assert np.array_equal(got[2].gradients, gradients)
    assert np.array_equal(got[2].rows[name].values, rows.values)
    assert got[2].rows[name].is_dense
    for damaged in (pieces[:-1], pieces[:1] + pieces[2:], [pieces[0], *pieces[2:0:-1]]):
        with pytest.raises((EngineError, GraphFormatError)):
            decode_contribution(iter(damaged), layout)
    endless = [pieces[0], *pieces[1:2] * 50]
    with pytest.raises(EngineError, match="bytes and their checksum"):
        decode_contribution(iter(endless), layout)
    with pytest.raises(GraphFormatError, match="PushHeader"):
        decode_contribution(iter([b"\x07nonsense"]), layout)
    host.close()


@pytest.mark.parametrize("size", [0, 5, (2 << 20) + 3])
def test_arrays_are_cut_into_pieces(size: int) -> None:
    array = np.arange(size, dtype=np.uint8)
    pieces = list(encode_end_of(encode_pieces(array)))
    assert np.array_equal(read_pieces(iter(pieces), size), array)
    assert len(pieces) == 1 + -(-size // (2 << 20))
    for wrong, num_bytes in ((pieces[1:], size), (pieces, size + 1), ([*pieces, b""], size)):
        with pytest.raises(EngineError, match="stream: expected"):
            read_pieces(iter(wrong), num_bytes)


def test_tls_with_certificates_of_groups(store: Path, tmp_path: Path) -> None:
    ca, stranger = trustme.CA(), trustme.CA()
    for name, authority in {"server": ca, "group": ca, "stranger": stranger}.items():
        made = authority.issue_cert("127.0.0.1", "localhost")
        made.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")

    def tls(name: str) -> Tls:
        return Tls(tmp_path / "ca.pem", tmp_path / f"{name}.pem", tmp_path / f"{name}.key")

    pair = tmp_path / "server.pem", tmp_path / "server.key"
    host = ParameterHost(trainer_of("gcn", store, gt.communicator()), 1)
    server = ParameterServer(host, tls=ServerTls(*pair, tmp_path / "ca.pem"))
    address = f"127.0.0.1:{server.port}"
    for certificates, works in ((tls("group"), True), (tls("stranger"), False), (None, False)):
        client = ParameterClient(address, tls=certificates, wait_s=10 if works else 0.5)
        with nullcontext() if works else pytest.raises(Unreachable):
            assert client.status()["version"] == 0
        client.close()
    with pytest.raises(ConfigError, match="PEM"):
        ParameterClient(address, tls=Tls(tmp_path / "nothing.pem"))
    server.close(0.0)
    with pytest.raises(ConfigError, match="--bind: expected a loopback address without TLS"):
        ParameterServer(host, bind="0.0.0.0:0")
    host.close()


def test_metrics_health_and_reflection(store: Path) -> None:
    host = ParameterHost(trainer_of("gcn", store, gt.communicator()), 1)
    server = ParameterServer(host, limits=Limits(max_in_flight=4))
    port, scrapes = server.metrics.serve("127.0.0.1", 0)
    host.join(GroupName.new(1), host.terms().terms)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert "graphtheta_training_version 0.0" in text
    assert "graphtheta_training_groups 1.0" in text
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert call(b"\x0a\x18graphtheta.v1.Parameters", timeout=5) == b"\x08\x01"
    connection = Connection(f"127.0.0.1:{server.port}", None)
    connection.close()
    scrapes.shutdown()
    scrapes.server_close()
    server.close(0.0)
    host.close()
