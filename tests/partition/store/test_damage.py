"""Forged and damaged stores: refused in one line, by opening or by `Store.verify`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from graphtheta.errors import StoreError
from graphtheta.partition import Plan, Store, build, make_store, open_store
from graphtheta.partition.store.communities import open_communities, write_communities
from graphtheta.partition.store.files import record_digest, write_folder, write_table
from graphtheta.partition.store.manifest import Book, checksum
from graphtheta.partition.store.store import PART_RECORD, write_description
from tests.damage import one_line
from tests.graphs import power_law, to_graph

GRAPH = to_graph(power_law(40, 150), text_ids=True)
BUILT = {method: build(GRAPH, Plan(3, method)) for method in ("dbh", "node-hash")}
BIG = 2**31 - 1


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(GRAPH, tmp_path / "store", Plan(3, "dbh"))


def with_value(table: pa.Table, column: str, row: int, value: int) -> pa.Table:
    """Return a table with one value changed; from a negative row of the end."""
    values = table[column].to_numpy().copy()
    values[row] = value
    index = table.column_names.index(column)
    return table.set_column(index, column, pa.array(values, table[column].type))


def forge(path: Path, name: str, table: pa.Table, method: str = "dbh") -> Store:
    """Write a store in which one table of part 1 is another one, with hashes that fit it."""
    built = BUILT[method]
    digests = []
    path.mkdir()
    for index, part in built.parts.items():
        folder = path / f"part-{index:05d}"
        tables = part.tables() | ({name: table} if index == 1 else {})
        interior = part.num_interior
        write_folder(folder, PART_RECORD, tables, part=index, num_interior=interior)
        digests.append(record_digest((folder / PART_RECORD).read_text()))
    book = Book(
        **{n: getattr(built.book, n) for n in ("first_new_id", "masters", "mirrors", "edges")},
        digests=tuple(digests),
    )
    manifest = built.manifest.model_copy(update={"checksum": checksum(built.manifest, book)})
    write_description(path, manifest, book)
    return open_store(path, parts=())


@pytest.mark.parametrize(
    ("name", "column", "row", "value"),
    [
        ("in_indptr", "indptr", 0, 1),
        ("in_indptr", "indptr", 3, -1),
        ("in_indptr", "indptr", 5, 10**9),
        ("in_indptr", "indptr", -1, 10**9),
        ("out_indptr", "indptr", 4, 10**12),
        ("in_edges", "src", 2, BIG),
        ("in_edges", "src", 2, -1),
        ("in_edges", "in_position", 2, -1),
        ("in_edges", "edge_key", -1, -1),
        ("in_edges", "edge_key", -1, 10**9),
        ("out_edges", "dst", 0, BIG),
        ("out_edges", "csc_position", 7, BIG),
        ("out_edges", "csc_position", 7, -7),
        ("replicas", "owner", -1, 3),
        ("replicas", "owner", -1, -1),
        ("replicas", "owner", 0, 0),
        ("replicas", "owner_local", -1, BIG),
        ("replicas", "owner_local", 1, 0),
        ("replicas", "node_key", -1, 40),
        ("replicas", "node_key", 0, 39),
        ("masters", "in_degree", 0, 10**9),
        ("masters", "out_degree", 0, -1),
        ("plan", "peer", 0, 3),
        ("plan", "master", 0, BIG),
        ("plan", "role", 0, 4),
        ("plan", "role", 0, 0),
    ],
)
def test_forged_values_are_refused(
    name: str, column: str, row: int, value: int, tmp_path: Path
) -> None:
    table = BUILT["dbh"].parts[1].tables()[name]
    forged = forge(tmp_path / "forged", name, with_value(table, column, row, value))
    with pytest.raises(StoreError, match=rf"part-00001/{name}\.arrow: expected") as caught:
        forged.part(1)
    assert "\n" not in str(caught.value)
    forged.part(0, verified=True)


def test_forged_in_degrees_of_an_edge_cut_are_refused(tmp_path: Path) -> None:
    table = BUILT["node-hash"].parts[1].masters
    degree = int(table["in_degree"][0].as_py())
    forged = forge(
        tmp_path / "forged", "masters", with_value(table, "in_degree", 0, degree + 1), "node-hash"
    )
    with pytest.raises(StoreError, match=r"masters\.arrow: expected the in-degrees"):
        forged.part(1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("in_edges", lambda t: t.drop_columns("src")),
        ("in_edges", lambda t: t.set_column(0, "src", t["src"].cast(pa.int64()))),
        ("masters-0", lambda t: t.drop_columns("features")),
        ("masters", lambda t: t.append_column("more", t["node_key"])),
        ("masters-0", lambda t: t.set_column(0, "original_id", pa.array(range(len(t))))),
        ("masters-0", lambda t: t.slice(1)),
        ("in_edges-0", lambda t: t.slice(1)),
        ("replicas", lambda t: t.slice(1)),
        ("in_indptr", lambda t: pa.table({"indptr": pa.nulls(len(t), pa.int64())})),
        ("plan", lambda t: t.rename_columns(["peer", "role", "master"])),
    ],
    ids="missing type feature more ids masters edges rows nulls names".split(),
)
def test_forged_columns_are_refused(
    name: str, change: Callable[[pa.Table], pa.Table], tmp_path: Path
) -> None:
    table = change(BUILT["dbh"].parts[1].tables()[name]).combine_chunks()
    forged = forge(tmp_path / "forged", name, table)
    with pytest.raises(StoreError, match=rf"part-00001/{name}\.arrow: expected"):
        forged.part(1)


@pytest.mark.parametrize("record", ["part-00001/part.json", "index/bucket-00001/bucket.json"])
@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["files"].update({"../../secret": r["files"].popitem()[1]}),
        lambda r: r["files"].update({"/etc/passwd": r["files"].popitem()[1]}),
        lambda r: r["files"].popitem(),
        lambda r: r.update(part=0),
        lambda r: r.update(part=10**30),
        lambda r: r.update(files=[]),
    ],
    ids="parent absolute missing part huge list".split(),
)
def test_forged_records_are_refused(
    record: str, change: Callable[[dict[str, Any]], object], store: Store
) -> None:
    path = store.path / record
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=rf"{path}: expected") as caught:
        open_store(store.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["first_new_id", "masters", "edges"])
def test_forged_book_is_refused(column: str, store: Store) -> None:
    path = store.path / "book.arrow"
    table = pa.ipc.open_file(path).read_all()
    write_table(with_value(table, column, 1, 5), path)
    with pytest.raises(StoreError, match=r"book\.arrow: expected counts"):
        open_store(store.path, parts=())


def test_forged_number_of_mirrors_is_refused(store: Store) -> None:
    path = store.path / "book.arrow"
    write_table(with_value(pa.ipc.open_file(path).read_all(), "mirrors", 1, 5), path)
    with pytest.raises(StoreError, match=r"part-00001/replicas\.arrow: expected .* rows"):
        open_store(store.path)


@pytest.mark.parametrize(
    "change",
    [{"num_nodes": 10**30}, {"num_parts": 10**10}, {"num_edges": -1}, {"num_nodes": 39}],
    ids=str,
)
def test_forged_manifest_is_refused(change: dict[str, int], store: Store) -> None:
    path = store.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    message = one_line(lambda: open_store(store.path))
    assert message is not None
    assert str(store.path) in message


@pytest.mark.parametrize("name", ["replication_factor", "edge_cut", "node_balance", "edge_balance"])
def test_verify_finds_a_changed_quality(name: str, store: Store) -> None:
    path = store.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["quality"][name] *= 0.5
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"manifest\.json: expected"):
        open_store(store.path).verify()


def test_verify_finds_changed_communities(store: Store) -> None:
    write_communities(store, "c", np.arange(40) % 6)
    folder = store.path / "communities" / "c"
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        changed = bytearray(content)
        changed[len(content) // 2] ^= 1
        file.write_bytes(changed)
        with pytest.raises(StoreError, match=rf"{file.name}: expected") as caught:
            open_store(store.path).verify()
        assert "\n" not in str(caught.value)
        file.write_bytes(content)
    open_store(store.path).verify()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_communities": 2}, "a record of this store"),
        ({"method": "by hand"}, "a record of this store"),
        ({"num_communities": 2, "checksum": ""}, r"communities in \[0, 2\)"),
        ({"files": {"../../manifest.json": {"size": 1, "xxh3": ""}}}, "a record of this store"),
    ],
    ids=["number", "method", "without_checksum", "parent"],
)
def test_forged_communities_are_refused(change: dict[str, Any], match: str, store: Store) -> None:
    write_communities(store, "c", np.arange(40) % 6)
    path = store.path / "communities" / "c" / "communities.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError, match=match):
        open_communities(open_store(store.path), "c").verify()


def test_communities_of_an_older_version_are_read(store: Store) -> None:
    write_communities(store, "c", np.arange(40) % 6)
    path = store.path / "communities" / "c" / "communities.json"
    record = json.loads(path.read_text())
    del record["checksum"]
    path.write_text(json.dumps(record))
    open_store(store.path).verify()


def test_index_with_other_new_ids_is_refused(store: Store) -> None:
    for name in ("node_key", "original_id-0"):
        path = store.path / "index" / "bucket-00001" / f"{name}.arrow"
        table = pa.ipc.open_file(path).read_all()
        write_table(with_value(table, "new_id", 0, 10**6), path)
    index = open_store(store.path).index
    with pytest.raises(StoreError, match=r"node_key\.arrow: expected content of hash"):
        index.new_ids_of_keys(np.arange(40))
    ids = store.part(0).masters_of()["original_id"].combine_chunks()
    with pytest.raises(StoreError, match=r"original_id-0\.arrow: expected content of hash"):
        index.new_ids(ids)


def test_unreadable_files_are_refused_in_one_line(store: Store) -> None:
    for name in ("part-00001/plan.arrow", "part-00001/part.json", "book.arrow"):
        path = store.path / name
        content = path.read_bytes()
        path.unlink()
        path.mkdir()
        with pytest.raises(StoreError, match=rf"{name}: expected"):
            open_store(store.path)
        path.rmdir()
        os.mkfifo(path)  # opening it would wait for a writer
        with pytest.raises(StoreError, match=rf"{name}: expected"):
            open_store(store.path)
        path.unlink()
        path.write_bytes(content)
