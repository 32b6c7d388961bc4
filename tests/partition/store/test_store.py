"""Store: writing and reading, damaged files, and failures while a store is made."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.errors import ConfigError, StoreError
from graphtheta.partition import Plan, Resources, Store, build, column_numpy, make_store, open_store
from graphtheta.partition.store.files import write_folder
from tests.graphs import power_law, to_graph

GRAPH = to_graph(power_law(40, 150), text_ids=True)
TABLES = (
    "masters",
    "replicas",
    "in_indptr",
    "out_indptr",
    "in_edges",
    "out_edges",
    "plan",
    *("masters-0", "in_edges-0"),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_store(GRAPH, tmp_path / "store", Plan(3, "dbh"))


def files_of(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


def test_store_has_the_files_of_the_format(store: Store) -> None:
    part = [*(f"{name}.arrow" for name in TABLES), "part.json"]
    bucket = ["node_key.arrow", "original_id-0.arrow", "bucket.json"]
    assert sorted(files_of(store.path)) == sorted(
        ["manifest.json", "book.arrow"]
        + [f"part-{p:05d}/{name}" for p in range(3) for name in part]
        + [f"index/bucket-{p:05d}/{name}" for p in range(3) for name in bucket]
    )


def test_store_holds_the_parts_that_were_built(store: Store) -> None:
    built = build(GRAPH, Plan(3, "dbh"))
    opened = open_store(store.path)
    opened.verify()
    assert opened.manifest == built.manifest == store.manifest
    assert opened.checksum == built.manifest.checksum
    assert opened.book.digests == built.book.digests
    for name in ("first_new_id", "masters", "mirrors", "edges"):
        np.testing.assert_array_equal(getattr(opened.book, name), getattr(built.book, name))
    for index, part in built.parts.items():
        assert opened.part(index).num_interior == part.num_interior
        for name, table in part.tables().items():
            assert opened.part(index).tables()[name].equals(table), name


def test_store_columns_are_views_of_the_mapped_file(store: Store) -> None:
    before = pa.total_allocated_bytes()
    part = store.part(0)
    features = column_numpy(part.node_columns[0], "features")
    assert features.shape == (part.num_masters, 3)
    for table in part.tables().values():
        for name in table.column_names:
            array = column_numpy(table, name)
            assert array.dtype == object or not array.flags.owndata
    assert pa.total_allocated_bytes() == before


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_store_has_the_same_bytes_for_any_number_of_ranks(
    workers: int, store: Store, tmp_path: Path
) -> None:
    def work(comm: Communicator) -> Store:
        return make_store(GRAPH, tmp_path / "other", Plan(3, "dbh"), Resources(comm))

    other = run_local(work, workers, timeout_s=60)
    assert other.checksum == store.checksum
    assert files_of(other.path) == files_of(store.path)


def test_manifest_does_not_grow_with_parts(tmp_path: Path) -> None:
    sizes = []
    for num_parts in (2, 40):
        path = make_store(GRAPH, tmp_path / str(num_parts), Plan(num_parts)).path
        sizes.append(len((path / "manifest.json").read_bytes()))
    assert abs(sizes[0] - sizes[1]) < 60  # digits of numbers


@pytest.mark.parametrize("file", [*(f"part-00001/{n}.arrow" for n in TABLES), "book.arrow"])
def test_open_store_raises_store_error_when_a_file_is_truncated(file: str, store: Store) -> None:
    path = store.path / file
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StoreError, match=rf"{file}: expected .* changed or truncated"):
        open_store(store.path)


@pytest.mark.parametrize(
    "file",
    [
        *(f"part-00001/{n}.arrow" for n in TABLES),
        "part-00002/part.json",
        "book.arrow",
        "index/bucket-00000/original_id-0.arrow",
    ],
)
def test_open_store_raises_store_error_when_a_file_is_missing(file: str, store: Store) -> None:
    (store.path / file).unlink()
    with pytest.raises(StoreError, match=rf"{file}: expected a file of the store, got none"):
        open_store(store.path)


def test_open_store_checks_only_the_requested_parts(store: Store) -> None:
    (store.path / "part-00001" / "plan.arrow").unlink()
    open_store(store.path, parts=[0, 2]).part(2)
    with pytest.raises(StoreError, match=r"part-00001/plan\.arrow"):
        open_store(store.path, parts=[1])


@pytest.mark.parametrize("file", ["part-00001/in_edges.arrow", "index/bucket-00002/node_key.arrow"])
def test_verify_names_the_changed_file(file: str, store: Store) -> None:
    path = store.path / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{file}: expected content of hash"):
        store.verify()


def test_verify_names_a_changed_part_record(store: Store) -> None:
    path = store.path / "part-00001" / "part.json"
    record = json.loads(path.read_text())
    record["num_interior"] += 1
    path.write_text(json.dumps(record))
    with pytest.raises(StoreError, match=r"part-00001/part\.json: expected content of hash"):
        store.verify()


def test_verify_finds_a_changed_manifest(store: Store) -> None:
    path = store.path / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    with pytest.raises(StoreError, match=r"manifest\.json"):
        open_store(store.path).verify()


def test_opening_damaged_headers_raises_store_error_only(store: Store) -> None:
    rng = np.random.default_rng(0)
    path = store.path / "part-00001" / "replicas.arrow"
    content = path.read_bytes()
    messages = []
    for position in rng.integers(0, len(content), 200):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        try:
            open_store(store.path)
        except StoreError as error:
            messages.append(str(error))
    assert messages
    assert all("replicas.arrow: expected" in message for message in messages)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            '"format_version": 1',
            r"manifest\.json: expected format version 2 or 3, got 1\. Partition the graph again\.$",
        ),
        ('"format_version": 4', r"manifest\.json: expected format version 2 or 3, got 4\. Upgrade"),
        ('"format_version": "x"', r"manifest\.json: expected a manifest, got format_version"),
    ],
    ids=["older", "newer", "nonsense"],
)
def test_open_store_raises_store_error_when_the_format_is_unknown(
    change: str, match: str, store: Store
) -> None:
    path = store.path / "manifest.json"
    path.write_text(path.read_text().replace('"format_version": 2', change))
    with pytest.raises(StoreError, match=match) as caught:
        open_store(store.path)
    assert "\n" not in str(caught.value)


def test_open_store_raises_store_error_when_there_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="a directory without one"):
        open_store(tmp_path)
    with pytest.raises(StoreError, match="got none"):
        open_store(tmp_path / "nowhere")


def test_part_raises_config_error_when_the_part_does_not_exist(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"a part in \[0, 3\), got 3"):
        store.part(3)


def test_make_store_takes_an_empty_directory_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make_store(GRAPH, tmp_path / "empty", Plan(2)).verify()
    with pytest.raises(StoreError, match=r"got a directory that is not empty\. Remove it"):
        make_store(GRAPH, tmp_path / "empty", Plan(2))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="got a file"):
        make_store(GRAPH, tmp_path / "file", Plan(2))
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


def test_make_store_creates_missing_parents(tmp_path: Path) -> None:
    make_store(GRAPH, tmp_path / "a" / "b", Plan(2))
    open_store(tmp_path / "a" / "b")


@pytest.mark.parametrize("failing", [0, 1])
def test_make_store_leaves_nothing_when_a_rank_fails(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphtheta.partition.pipeline import pipeline as module

    failing_thread: list[threading.Thread] = []

    def broken(*args: object, **options: object) -> None:
        if threading.current_thread() in failing_thread:
            raise OSError(28, "No space left on device", "part-00001")
        write_folder(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_folder", broken)

    def work(comm: Communicator) -> None:
        if comm.rank == failing:
            failing_thread.append(threading.current_thread())
        comm.barrier(stage="both know")
        make_store(GRAPH, tmp_path / "store", Plan(2), Resources(comm))

    with pytest.raises(StoreError, match=r"No space left on device at part-00001\. Choose a path"):
        run_local(work, 2, timeout_s=60)
    assert not list(tmp_path.iterdir())


def test_describe_is_json(store: Store) -> None:
    described = json.loads(json.dumps(store.describe()))
    assert described["num_nodes"] == 40
    assert described["bytes"] == sum(len(content) for content in files_of(store.path).values())
    assert sum(part["edges"] for part in described["parts"]) == described["num_edges"] == 150


def test_build_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    built = build(GRAPH, Plan(2))
    assert built.parts[0].num_masters + built.parts[1].num_masters == 40
    assert not list(tmp_path.iterdir())
