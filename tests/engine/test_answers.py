"""A client raises an `EngineError` for an answer that is not right, whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from graphtheta.data.schema import matrix_column
from graphtheta.engine import RemoteGraph
from graphtheta.engine.client.connection import Connection
from graphtheta.engine.wire.chunks import (
    ResponseChunk,
    decode_response,
    encode_chunk,
    encode_end,
)
from graphtheta.engine.wire.protocol import COLUMN, reply_checksum
from graphtheta.engine.wire.tables import decode_any, encode
from graphtheta.errors import EngineError
from graphtheta.proto.v1 import graph_pb2 as messages
from tests.engine.stores import make, serving, weighted

Messages = list[bytes]
KEYS = np.array([3, 88, 3, 41, 0, 7, 12])
NAMES = ["features", "label:flag", "row", "original_id", "in_degree"]

QUERIES: dict[str, Callable[[RemoteGraph], Any]] = {
    "ids": lambda g: g.new_ids(KEYS, "node_key"),
    "columns": lambda g: g.columns(KEYS, NAMES, "node_key"),
    "all": lambda g: g.columns(None, ["features", "label:flag"]),
    "in": lambda g: g.neighbours(KEYS, columns=["attr", "rank"], by="node_key"),
    "out": lambda g: g.neighbours(KEYS, direction="out", by="node_key"),
    "drawn": lambda g: g.neighbours(KEYS, fanout=3, columns=["type"], by="node_key"),
    "weighted": lambda g: g.neighbours(KEYS, fanout=3, weight="weight", by="node_key"),
    "subgraph": lambda g: g.subgraph(KEYS[3:], [2, 2], by="node_key"),
    "edges": lambda g: g.find_edges(KEYS, KEYS[::-1], "node_key"),
    "edge columns": lambda g: g.edge_columns([0, 5, 5, 600], ["attr", "weight"]),
}


class Recording:
    """Answers of servers, which are played to clients, one of them mutated."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str, bytes], Messages] = {}
        self.calls = 0
        self.mutate: Callable[[int, str, Messages], Messages] = lambda number, method, given: given

    def play(self, connection: Connection, method: str, request: Any, deadline: float) -> Messages:
        key = connection.address, method, request.SerializeToString(deterministic=True)
        if key not in self.answers:
            self.answers[key] = STREAM(connection, method, request, deadline)
        self.calls += 1
        return self.mutate(self.calls - 1, method, list(self.answers[key]))


STREAM = Connection.stream


@dataclass
class Player:
    """Clients of a recording, and the right results of all queries."""

    recording: Recording
    addresses: list[str]
    right: dict[str, Any]
    calls: dict[str, int]  # of each query, with the handshakes

    def answer(self, name: str, mutate: Callable[[int, str, Messages], Messages]) -> Any:
        """Return the result of a query of a new client; `mutate` changes the answers."""
        self.recording.calls, self.recording.mutate = 0, mutate
        with RemoteGraph(self.addresses, None, 20.0) as remote:
            return QUERIES[name](remote)

    def check(self, name: str, mutate: Callable[[int, str, Messages], Messages]) -> bool:
        """Return whether a mutation was found; if it was not, the result must be right."""
        try:
            found = self.answer(name, mutate)
        except EngineError:
            return True
        assert equal(found, self.right[name]), name
        return False


@pytest.fixture(scope="module", params=["node-hash", "dbh"])
def player(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Player]:
    path = tmp_path_factory.mktemp("answers") / "store"
    make(weighted(), path, 5, request.param)
    recording = Recording()
    with pytest.MonkeyPatch.context() as patch, serving(path, 2) as remote:
        addresses = [c.address for c in remote._router.connections[:2]]
        patch.setattr(Connection, "stream", lambda *call: recording.play(*call))
        made = Player(recording, addresses, {}, {})
        for name in QUERIES:
            made.right[name] = made.answer(name, recording.mutate)
            made.calls[name] = recording.calls
        yield made


def equal(a: Any, b: Any) -> bool:
    """Return whether two results are equal."""
    if is_dataclass(a):
        return all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))


def damaged(random: np.random.Generator, given: Messages) -> Messages:
    """Return the messages of an answer with damage as of a line or a faulty server."""
    at = int(random.integers(len(given)))
    byte = int(random.integers(len(given[at]) or 1))
    bits = bytes([given[at][byte] ^ 1 << int(random.integers(8))])
    kinds: list[Callable[[], Messages]] = [
        lambda: [*given[:at], given[at][:byte] + bits + given[at][byte + 1 :], *given[at + 1 :]],
        lambda: [*given[:at], given[at][:byte], *given[at + 1 :]],  # cut
        lambda: given[:at] + given[at + 1 :],  # missing
        lambda: [*given[: at + 1], *given[at:]],  # twice
        lambda: given[::-1],
        lambda: [*given, random.bytes(40)],
        list,
    ]
    return kinds[random.integers(len(kinds))]()


@pytest.mark.parametrize("half", [0, 1])
def test_damaged_answers_are_errors_or_right(player: Player, half: int) -> None:
    """Damage one message of 300 answers in each of two partitionings."""
    found = 0
    for seed in range(150 * half, 150 * (half + 1)):
        random = np.random.default_rng(seed)
        name = list(QUERIES)[seed % len(QUERIES)]
        chosen = int(random.integers(player.calls[name]))

        def mutate(number: int, method: str, given: Messages) -> Messages:
            return damaged(random, given) if number == chosen else given  # noqa: B023

        found += player.check(name, mutate)
    assert found > 100


def changed(column: str, value: Callable[[pa.Array], Any]) -> Callable[[pa.RecordBatch], Any]:
    """Return a function that replaces a column of a table."""

    def change(table: pa.RecordBatch) -> pa.RecordBatch:
        return table.set_column(table.schema.get_field_index(column), column, value(table[column]))

    return change


def filled(kind: Any, value: Any) -> Callable[[pa.Array], pa.Array]:
    """Return a function that returns a column of equal values."""
    return lambda column: pa.array([value] * len(column), kind)


def cast(kind: Any) -> Callable[[pa.Array], pa.Array]:
    return lambda column: column.cast(kind)


Ints, Floats, Halves = pa.int32(), pa.float64(), pa.list_(pa.float32(), 1)
FEATURES, EDGE = COLUMN + "features", COLUMN + "attr"
# What a server may get wrong, with a checksum that is right: the query, its method, and the change.
WRONG: dict[str, tuple[str, str, Callable[[pa.RecordBatch], Any]]] = {
    "negative row": ("columns", "NodeColumns", changed("row", filled(Ints, -1))),
    "row too large": ("columns", "NodeColumns", changed("row", filled(Ints, 10**6))),
    "one row for all": ("columns", "NodeColumns", changed("row", filled(Ints, 0))),
    "row of another type": ("columns", "NodeColumns", changed("row", cast(pa.int64()))),
    "null row": ("columns", "NodeColumns", changed("row", filled(Ints, None))),
    "missing rows": ("columns", "NodeColumns", lambda table: table.slice(1)),
    "no rows": ("columns", "NodeColumns", lambda table: table.slice(0, 0)),
    "missing column": ("columns", "NodeColumns", lambda table: table.drop_columns([FEATURES])),
    "another column": ("columns", "NodeColumns", lambda t: t.append_column("z", t["row"])),
    "repeated column": ("columns", "NodeColumns", lambda t: t.append_column("row", t["row"])),
    "another width": ("columns", "NodeColumns", changed(FEATURES, filled(Halves, [1.0]))),
    "another dtype": ("columns", "NodeColumns", changed(FEATURES, filled(Floats, 1.0))),
    "text": ("columns", "NodeColumns", changed(COLUMN + "row", cast(pa.string()))),
    "wrong node keys": ("all", "NodeColumns", changed(COLUMN + "node_key", filled("int64", 0))),
    "negative new id": ("ids", "Lookup", changed("new_id", filled("int64", -1))),
    "new id too large": ("ids", "Lookup", changed("new_id", filled("int64", 90))),
    "new id of another type": ("ids", "Lookup", changed("new_id", cast(pa.int32()))),
    "fewer new ids": ("ids", "Lookup", lambda table: table.slice(1)),
    "more new ids": ("ids", "Lookup", lambda t: pa.concat_batches([t, t])),
    "negative node": ("in", "Neighbours", changed("node", filled("int64", -1))),
    "node too large": ("out", "Neighbours", changed("node", filled("int64", 90))),
    "node key too large": ("drawn", "Neighbours", changed("node_key", filled("int64", 90))),
    "negative edge key": ("in", "Neighbours", changed("edge_key", filled("int64", -5))),
    "repeated edges": ("out", "Neighbours", lambda t: pa.concat_batches([t, t])),
    "too many drawn": ("drawn", "Neighbours", changed("row", filled(Ints, 0))),
    "negative neighbour row": ("in", "Neighbours", changed("row", filled(Ints, -1))),
    "edge column of another type": ("in", "Neighbours", changed(EDGE, filled(Ints, 1))),
    "negative draw": ("weighted", "Neighbours", changed("draw", filled(Ints, -1))),
    "draw too large": ("weighted", "Neighbours", changed("draw", filled(Ints, 3))),
    "rank that is no number": ("weighted", "Neighbours", changed("rank", filled(Floats, np.nan))),
    "rank of another type": ("weighted", "Neighbours", changed("rank", cast(pa.float32()))),
    "node out of range in a hop": ("subgraph", "Neighbours", changed("node", filled("int64", 91))),
    "negative key of a pair": ("edges", "FindEdges", changed("edge_key", filled("int64", -1))),
    "row of no pair": ("edges", "FindEdges", changed("row", filled(Ints, 7))),
    "edge columns twice": ("edge columns", "EdgeColumns", lambda t: pa.concat_batches([t, t])),
    "edge columns in one row": ("edge columns", "EdgeColumns", changed("row", filled(Ints, 0))),
    "edge columns as text": ("edge columns", "EdgeColumns", changed("row", cast(pa.string()))),
    "edge columns that are too wide": (
        *("edge columns", "EdgeColumns"),
        changed(EDGE, filled(pa.list_(pa.float32(), 3), [1.0] * 3)),
    ),
}


def rewritten(change: Callable[[ResponseChunk], ResponseChunk], given: Messages) -> Messages:
    """Return an answer with changed tables and a right checksum."""
    made = [encode_chunk(change(chunk)) for chunk in decode_response(given)]
    return [*made, encode_end(xxhash.xxh3_64_intdigest(b"".join(made)))]


@pytest.mark.parametrize("name", WRONG)
def test_wrong_tables_are_errors(player: Player, name: str) -> None:
    query, wanted, change = WRONG[name]

    def apply(chunk: ResponseChunk) -> ResponseChunk:
        has_rows = chunk.table is not None and chunk.table.num_rows
        return chunk._replace(table=change(chunk.table)) if has_rows else chunk

    assert player.check(
        query, lambda _, method, given: rewritten(apply, given) if method == wanted else given
    )


OTHER_PARTS = {
    "negative part": changed("part", filled(Ints, -1)),
    "part too large": changed("part", filled(Ints, 5)),
    "row too large": changed("row", filled(Ints, 10**6)),
    "negative degree": changed("in_degree", filled("int64", -1)),
    "part of another type": changed("part", cast(pa.int64())),
    "missing column": lambda table: table.drop_columns(["in_degree"]),
}


@pytest.mark.parametrize("name", OTHER_PARTS)
def test_wrong_other_parts_are_errors(player: Player, name: str) -> None:
    one = pa.record_batch({"row": pa.array([0], Ints), "part": pa.array([0], Ints)})
    wrong = OTHER_PARTS[name](one.append_column("in_degree", pa.array([1])))
    for query, wanted in (("in", "Neighbours"), ("edges", "FindEdges"), ("columns", "NodeColumns")):
        assert player.check(
            query,
            lambda _, method, given, wanted=wanted: (
                rewritten(lambda chunk: chunk._replace(other_parts=wrong), given)
                if method == wanted
                else given
            ),
        )


def book_with(name: str, value: int) -> Callable[[Any], None]:
    """Return a function that changes the first value of a column of the sizes of parts."""

    def change(reply: Any) -> None:
        columns = decode_any(reply.book, "book").to_pydict()
        columns[name][0] = value
        reply.book = encode(pa.record_batch(columns))

    return change


def in_manifest(old: str, new: str) -> Callable[[Any], None]:
    def change(reply: Any) -> None:
        assert old in reply.manifest
        reply.manifest = reply.manifest.replace(old, new)

    return change


REPLIES: dict[str, Callable[[Any], Any]] = {
    "many parts": in_manifest('"num_parts":5', '"num_parts":10000000000'),
    "fewer parts": in_manifest('"num_parts":5', '"num_parts":4'),
    "many nodes": in_manifest('"num_nodes":90', '"num_nodes":90000000000'),
    "negative edges": in_manifest('"num_edges":', '"num_edges":-'),
    "another cut": in_manifest('"cut":"', '"cut":"no '),
    "another dtype": in_manifest('"dtype":"float', '"dtype":"flood'),
    "a wide column": in_manifest('"width":2', '"width":9999999999'),
    "a negative width": in_manifest('"width":2', '"width":-1'),
    "another id type": in_manifest('"id_type":"string"', '"id_type":"bool"'),
    "another column": in_manifest('"label:flag"', '"label:flog"'),
    "no manifest": lambda reply: reply.ClearField("manifest"),
    "half a manifest": lambda reply: setattr(reply, "manifest", reply.manifest[:200]),
    "no book": lambda reply: reply.ClearField("book"),
    "negative masters": book_with("masters", -1),
    "many masters": book_with("masters", 1 << 40),
    "other masters": book_with("masters", 1),
    "many mirrors": book_with("mirrors", 1 << 40),
    "other edges": book_with("edges", 3),
    "other first new ids": book_with("first_new_id", 1),
    "part out of range": lambda reply: reply.parts.append(5),
    "no ids": lambda reply: setattr(reply, "max_ids", 0),
    "another version": lambda reply: setattr(reply, "protocol_version", 1),
    "another store": lambda reply: setattr(reply, "store_checksum", "no"),
}


@pytest.mark.parametrize("name", REPLIES)
def test_wrong_handshakes_are_errors(player: Player, name: str) -> None:
    def mutate(_: int, method: str, given: Messages) -> Messages:
        assert method == "Handshake"  # nothing is requested after it
        reply = messages.HandshakeReply.FromString(given[0])
        REPLIES[name](reply)
        reply.checksum = reply_checksum(reply)
        return [reply.SerializeToString()]

    with pytest.raises(EngineError):
        player.answer("ids", mutate)


CLASSES = {"prediction": np.array([1, 0, 2, 1]), "probability": np.full((4, 3), 0.25, np.float32)}
PREDICTIONS: dict[str, dict[str, Any]] = {
    "no table": {},
    "no prediction": {"probability": CLASSES["probability"]},
    "another column": CLASSES | {"text": np.arange(4)},
    "fewer rows": {name: values[:3] for name, values in CLASSES.items()},
    "negative class": CLASSES | {"prediction": np.array([1, 0, -1, 1])},
    "class too large": CLASSES | {"prediction": np.array([1, 0, 3, 1])},
    "probability too large": CLASSES | {"probability": np.full((4, 3), 1.5, np.float32)},
    "text": CLASSES | {"probability": np.array(["a"] * 4)},
    "nulls": CLASSES | {"prediction": pa.array([1, None, 0, 2])},
    "one row for all": CLASSES | {"row": np.zeros(4, np.int32)},
    "negative rows": CLASSES | {"row": np.full(4, -1, np.int32)},
}


@pytest.mark.parametrize("name", ["right", *PREDICTIONS])
def test_wrong_predictions_are_errors(
    player: Player, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = CLASSES if name == "right" else PREDICTIONS[name]
    row = columns.get("row", np.arange(len(columns.get("prediction", range(4))), dtype=np.int32))
    made: dict[str, Any] = {"row": row}
    for column in columns.keys() - {"row"}:
        values = columns[column]
        is_matrix = isinstance(values, np.ndarray) and values.ndim == 2
        made[COLUMN + column] = matrix_column(values) if is_matrix else values
    data = [encode_chunk(ResponseChunk(pa.record_batch(made)))] if columns else []
    answer = [*data, encode_end(xxhash.xxh3_64_intdigest(b"".join(data)))]

    def stream(connection: Connection, method: str, request: Any, deadline: float) -> Messages:
        if method == "Predict":
            return answer
        given = STREAM(connection, method, request, deadline)
        reply = messages.HandshakeReply.FromString(given[0])
        reply.predicts = True
        reply.checksum = reply_checksum(reply)
        return [reply.SerializeToString()]

    monkeypatch.setattr(Connection, "stream", stream)
    with RemoteGraph(player.addresses, None, 20.0) as remote:
        if name == "right":
            assert equal(remote.predict([0, 1, 2, 3], "new_id"), CLASSES)
        else:
            with pytest.raises(EngineError):
                remote.predict([0, 1, 2, 3], "new_id")
