"""Look-ups of new ids in the index of a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from graphtheta.errors import GraphFormatError
from graphtheta.partition import Plan, Store, column_numpy, make_store
from graphtheta.partition.store import index as index_module
from tests.graphs import power_law, to_graph

GRAPH = power_law(60, 200)


def expected_ids(store: Store) -> dict[object, tuple[int, int]]:
    """Return (node key, new id) by original id, read from the parts."""
    found: dict[object, tuple[int, int]] = {}
    for part in range(store.num_parts):
        masters = store.part(part).masters_of()
        first = int(store.book.first_new_id[part])
        names = masters["original_id"].to_pylist()
        for local, (name, key) in enumerate(
            zip(names, column_numpy(masters, "node_key"), strict=True)
        ):
            found[name] = int(key), first + local
    return found


@pytest.mark.parametrize("num_parts", [1, 7, 60])
@pytest.mark.parametrize("text_ids", [False, True], ids=["int_ids", "text_ids"])
def test_index_finds_every_node(text_ids: bool, num_parts: int, tmp_path: Path) -> None:
    graph = to_graph(GRAPH, text_ids=text_ids)
    store = make_store(graph, tmp_path / "store", Plan(num_parts))
    expected = expected_ids(store)
    assert sorted(new_id for _, new_id in expected.values()) == list(range(60))
    names = [*expected, *list(expected)[:5]]
    keys = np.array([expected[name][0] for name in names])
    new_ids = np.array([expected[name][1] for name in names])
    np.testing.assert_array_equal(store.index.new_ids(names), new_ids)
    np.testing.assert_array_equal(store.index.new_ids(pa.array(names)), new_ids)
    np.testing.assert_array_equal(store.index.new_ids_of_keys(keys), new_ids)
    assert store.index.new_ids([]).shape == (0,)


def test_index_distinguishes_equal_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clash(ids: pa.Array) -> np.ndarray:
        return np.full(len(ids), 12, np.uint64)

    monkeypatch.setattr(index_module, "hash_ids", clash)
    store = make_store(to_graph(GRAPH, text_ids=True), tmp_path / "store", Plan(3))
    expected = expected_ids(store)
    np.testing.assert_array_equal(
        store.index.new_ids(list(expected)), [new_id for _, new_id in expected.values()]
    )
    with pytest.raises(GraphFormatError, match="unknown 'node-x'"):
        store.index.new_ids(["node-x"])


def test_error_names_unknown_ids(tmp_path: Path) -> None:
    store = make_store(to_graph(GRAPH), tmp_path / "store", Plan(3))
    known = store.part(0).masters_of()["original_id"][0].as_py()
    with pytest.raises(GraphFormatError, match=r"unknown -4, -3, -2, \.\.\. \(4 in all\)"):
        store.index.new_ids([known, -4, -3, -2, -1])
    with pytest.raises(GraphFormatError, match=r"node keys in \[0, 60\), got unknown -1, 60"):
        store.index.new_ids_of_keys(np.array([0, -1, 60]))
    with pytest.raises(GraphFormatError, match="expected values of type int64"):
        store.index.new_ids(["7"])
