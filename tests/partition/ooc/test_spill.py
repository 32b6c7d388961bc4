"""Out-of-core files: spills, arrays and segments of edges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphtheta.partition.ooc.array_file import read_arrays, write_arrays
from graphtheta.partition.ooc.edge_file import EdgeFile, SegmentWriter, write_segments
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter, bucket_order
from graphtheta.partition.store.index import block_of


@settings(max_examples=50, deadline=None)
@given(buckets=st.lists(st.integers(0, 4), max_size=40))
def test_bucket_order_is_stable(buckets: list[int]) -> None:
    array = np.array(buckets, np.int32)
    order, starts = bucket_order(array, 5)
    assert order.tolist() == np.argsort(array, kind="stable").tolist()
    assert starts.tolist() == [sum(b < k for b in buckets) for k in range(6)]


def test_rows_come_back_by_bucket_in_the_order_of_the_chunks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    expected: dict[int, list[tuple[int, str]]] = {bucket: [] for bucket in range(3)}
    chunks = {}
    for chunk in range(6):
        bucket = rng.integers(0, 3, 20) if chunk != 2 else np.ones(20, np.int64)
        rows = [(100 * chunk + i, f"é{i}") for i in range(20)]
        for b, row in zip(bucket.tolist(), rows, strict=True):
            expected[b].append(row)
        chunks[chunk] = bucket, rows
    for rank, mine in enumerate(([0, 3, 4], [1, 2, 5], [])):  # the last rank has no chunk
        with SpillWriter(tmp_path, "x", rank) as writer:
            for chunk in mine:
                bucket, rows = chunks[chunk]
                order, starts = bucket_order(bucket, 3)
                batch = pa.record_batch(
                    {"number": [n for n, _ in rows], "text": [text for _, text in rows]}
                )
                writer.append(chunk, batch.take(pa.array(order)), starts)
    reader = SpillReader(tmp_path, "x")
    for bucket, rows in expected.items():
        found = reader.read(bucket)
        assert [n for _, b in found for n in b["number"].to_pylist()] == [n for n, _ in rows]
        assert [t for _, b in found for t in b["text"].to_pylist()] == [t for _, t in rows]
        assert all(b["number"][0].as_py() // 100 == chunk for chunk, b in found)
        assert reader.read(bucket, ["text"])[0][1].schema.names == ["text"]
    reader.remove()
    assert not list(tmp_path.iterdir())
    assert SpillReader(tmp_path, "x").schema is None


def test_incomplete_spill_is_closed_and_has_no_index(tmp_path: Path) -> None:
    def fail() -> None:
        with SpillWriter(tmp_path, "x", 0) as writer:
            writer.append(0, pa.record_batch({"a": [1]}), np.array([0, 1]))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]


def test_arrays_are_read_as_written(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(5, dtype=np.int32),
        "b": np.arange(10.0).reshape(5, 2),
    }
    write_arrays(tmp_path / "x", **arrays)
    write_arrays(tmp_path / "empty", a=np.empty(0, np.int64))
    found = read_arrays(tmp_path / "x")
    assert list(found) == ["a", "b"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert read_arrays(tmp_path / "empty")["a"].dtype == np.int64


def test_segment_that_cannot_be_opened_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "x.dst").mkdir()
    before = psutil.Process().num_fds()
    with pytest.raises(IsADirectoryError) as failed:  # its traceback keeps unclosed files alive
        SegmentWriter(tmp_path, "x", 10, keyed=True)
    assert psutil.Process().num_fds() == before, failed


@pytest.mark.parametrize("num_nodes", [100, 2**31])
def test_edge_file_reads_across_segments(num_nodes: int, tmp_path: Path) -> None:
    from graphtheta.comm.single import SingleCommunicator

    src, dst = np.arange(10) % 7, np.arange(10) % 5
    with SegmentWriter(tmp_path, "0-00000", num_nodes, keyed=False) as forward:
        forward.append(src[:4], dst[:4], 0)
        forward.append(src[4:], dst[4:], 4)
    with SegmentWriter(tmp_path, "1-00000", num_nodes, keyed=True) as reverse:
        reverse.append(dst[::2], src[::2], 10 + np.arange(0, 10, 2))
    segments = [forward.segment(), reverse.segment()]
    write_segments(tmp_path, num_nodes, segments, SingleCommunicator())
    edges = EdgeFile(tmp_path)
    assert (edges.num_nodes, edges.num_edges) == (num_nodes, 15)
    whole = np.concatenate([src, dst[::2]]), np.concatenate([dst, src[::2]])
    keys = np.concatenate([np.arange(10), 10 + np.arange(0, 10, 2)])
    for start in range(15):
        for stop in range(start, 16):
            found = edges.read(start, stop)
            assert found[0].dtype == (np.int32 if num_nodes < 2**31 else np.int64)
            for array, expected in zip(found, whole, strict=True):
                np.testing.assert_array_equal(array, expected[start:stop])
            np.testing.assert_array_equal(edges.keys(start, stop), keys[start:stop])


@pytest.mark.parametrize(("total", "num_blocks"), [(1, 1), (10, 3), (7, 7), (2, 5), (1000, 64)])
def test_block_of_agrees_with_the_bounds(total: int, num_blocks: int) -> None:
    owner = block_of(np.arange(total), total, num_blocks)
    for block in range(num_blocks):
        start, stop = total * block // num_blocks, total * (block + 1) // num_blocks
        np.testing.assert_array_equal(np.flatnonzero(owner == block), np.arange(start, stop))
