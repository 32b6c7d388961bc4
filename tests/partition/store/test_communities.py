"""Communities of a store: written completely, read by part, and outside the checksum."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from graphtheta.errors import ConfigError, StoreError
from graphtheta.partition import Plan, Store, make_store, open_store
from graphtheta.partition.store import communities as module
from graphtheta.partition.store.communities import (
    list_communities,
    open_communities,
    write_communities,
)
from tests.graphs import random_graph, to_graph

GRAPH = to_graph(random_graph(40, 150))
OF_NODE = np.random.default_rng(0).integers(0, 6, 40)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(GRAPH, tmp_path / "store", Plan(3, "dbh"))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_communities_come_back_in_the_order_of_masters(store: Store, dtype: type) -> None:
    written = write_communities(store.path, "louvain", OF_NODE.astype(dtype), method="Louvain")
    assert (written.record.num_communities, written.record.num_nodes) == (6, 40)
    found = open_communities(store, "louvain")
    assert found == written
    assert found.record.method == "Louvain"
    for part in range(3):
        keys = store.part(part).masters["node_key"].to_numpy()
        values = open_communities(store.path, "louvain").part(part)
        assert values.dtype == np.int64
        np.testing.assert_array_equal(values, OF_NODE[keys])


def test_a_store_can_have_several_communities(store: Store) -> None:
    assert list_communities(store) == []
    write_communities(store, "b", OF_NODE)
    write_communities(store, "a.2", np.zeros(40, np.int64))
    assert list_communities(store.path) == ["a.2", "b"]
    assert open_communities(store, "a.2").record.num_communities == 1
    assert int(open_communities(store, "a.2").part(0).sum()) == 0


def test_a_part_without_masters_has_no_communities(tmp_path: Path) -> None:
    graph = to_graph((5, np.empty(0, np.int64), np.empty(0, np.int64)))
    store = make_store(graph, tmp_path / "store", Plan(3))
    assert 0 in store.book.masters
    write_communities(store, "c", np.arange(5))
    found = [open_communities(store, "c").part(part) for part in range(3)]
    assert [len(values) for values in found] == store.book.masters.tolist()


def test_communities_do_not_change_the_store(store: Store) -> None:
    before = {f: f.read_bytes() for f in store.path.rglob("*") if f.is_file()}
    write_communities(store, "c", OF_NODE)
    opened = open_store(store.path)
    opened.verify()
    assert opened.checksum == store.checksum
    assert {f: f.read_bytes() for f in before} == before


def test_communities_are_arrow_files(store: Store) -> None:
    write_communities(store, "c", OF_NODE)
    folder = store.path / "communities" / "c"
    assert sorted(file.name for file in folder.iterdir()) == [
        "communities.json",
        *(f"part-{part:05d}.arrow" for part in range(3)),
    ]
    table = pa.ipc.open_file(folder / "part-00001.arrow").read_all()
    assert table.schema == pa.schema([("community", pa.int64())])


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("c", OF_NODE[:39], r"expected \(40,\) integers, one for each node, got \(39,\) int64"),
        ("c", OF_NODE.astype(np.float32), r"got \(40,\) float32"),
        ("c", OF_NODE - 1, "numbers from 0, got -1"),
        ("../c", OF_NODE, r"expected a name of letters.*got '\.\./c'"),
        (".c", OF_NODE, "expected a name of letters"),
        ("", OF_NODE, "expected a name of letters"),
    ],
    ids=["length", "floats", "negative", "path", "hidden", "empty"],
)
def test_invalid_arguments_are_refused(
    store: Store, name: str, values: np.ndarray, match: str
) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        write_communities(store, name, values)
    assert "\n" not in str(caught.value)
    assert not (store.path / "communities").exists()


def test_existing_communities_are_not_overwritten(store: Store) -> None:
    write_communities(store, "c", OF_NODE)
    with pytest.raises(StoreError, match=r"communities/c: expected a new path or an empty"):
        write_communities(store, "c", np.zeros(40, np.int64))
    np.testing.assert_array_equal(
        open_communities(store, "c").part(1), OF_NODE[store.part(1).masters["node_key"].to_numpy()]
    )


def test_unknown_names_and_parts_are_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="expected communities 'c', got none"):
        open_communities(store, "c")
    write_communities(store, "c", OF_NODE)
    with pytest.raises(ConfigError, match="expected communities 'd', got 'c'"):
        open_communities(store, "d")
    with pytest.raises(ConfigError, match=r"a part in \[0, 3\), got 3"):
        open_communities(store, "c").part(3)


def test_communities_of_another_store_are_refused(store: Store, tmp_path: Path) -> None:
    write_communities(store, "c", OF_NODE)
    other = make_store(GRAPH, tmp_path / "other", Plan(3, "node-hash"))
    (store.path / "communities").rename(other.path / "communities")
    with pytest.raises(StoreError, match="Write them again for this store"):
        open_communities(other, "c")


def test_error_names_the_damaged_file(store: Store) -> None:
    write_communities(store, "c", OF_NODE)
    folder = store.path / "communities" / "c"
    (folder / "part-00000.arrow").unlink()
    with pytest.raises(StoreError, match=r"part-00000\.arrow: expected a file of the store"):
        open_communities(store, "c").part(0)
    (folder / "part-00001.arrow").write_bytes((folder / "part-00002.arrow").read_bytes() + b"x")
    with pytest.raises(StoreError, match=r"part-00001\.arrow: expected"):
        open_communities(store, "c").part(1)
    (folder / "communities.json").write_text(json.dumps({"num_nodes": 40}))
    with pytest.raises(StoreError, match=r"communities\.json: expected a record"):
        open_communities(store, "c")


def test_nothing_is_left_when_writing_fails(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device", "part-00001.arrow")

    monkeypatch.setattr(module, "write_table", broken)
    with pytest.raises(StoreError, match=r"No space left on device at part-00001\.arrow"):
        write_communities(store, "c", OF_NODE)
    assert list_communities(store) == []
    assert list((store.path / "communities").iterdir()) == []
