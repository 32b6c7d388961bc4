"""Rows between ranks: shuffle, and the look-ups of `Blocks` built on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.partition.blocks import Blocks, block_of
from graphtheta.partition.columns import column_numpy, column_valid
from graphtheta.partition.shuffle import shuffle


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n}_ranks")
def everywhere(request: pytest.FixtureRequest) -> Callable[[Callable[[Communicator], None]], None]:
    return lambda work: run_local(work, request.param, timeout_s=60)


def test_shuffle_keeps_the_order_of_source_ranks(
    everywhere: Callable[[Callable[[Communicator], None]], None],
) -> None:
    def work(comm: Communicator) -> None:
        count = 5 * comm.rank  # rank 0 sends nothing
        table = pa.table(
            {
                "from": np.full(count, comm.rank),
                "row": np.arange(count),
                "text": pa.array([f"é{i}" for i in range(count)], pa.string()),
                "list": pa.array([[i, None] for i in range(count)], pa.list_(pa.int64(), 2)),
            }
        )
        to = np.arange(count)[::-1] % comm.size
        arrived = shuffle(table, to, comm, stage="test")
        assert arrived.schema == table.schema
        rows = [
            (rank, row)
            for rank in range(comm.size)
            for row in range(5 * rank)
            if (5 * rank - 1 - row) % comm.size == comm.rank
        ]
        assert arrived["from"].to_pylist() == [rank for rank, _ in rows]
        assert arrived["row"].to_pylist() == [row for _, row in rows]
        assert arrived["text"].to_pylist() == [f"é{row}" for _, row in rows]
        assert arrived["list"].to_pylist() == [[row, None] for _, row in rows]

    everywhere(work)


def test_shuffle_moves_nothing_when_alone() -> None:
    def work(comm: Communicator) -> None:
        table = pa.table({"x": [1, 2]})
        assert shuffle(table, np.zeros(2, np.int64), comm, stage="test") is table

    run_local(work, 1)


@pytest.mark.parametrize(("total", "num_blocks"), [(1, 1), (10, 3), (7, 7), (2, 5), (1000, 64)])
def test_block_of_agrees_with_the_bounds(total: int, num_blocks: int) -> None:
    owner = block_of(np.arange(total), total, num_blocks)
    for block in range(num_blocks):
        start, stop = total * block // num_blocks, total * (block + 1) // num_blocks
        np.testing.assert_array_equal(np.flatnonzero(owner == block), np.arange(start, stop))


def test_blocks_put_fetch_and_count(
    everywhere: Callable[[Callable[[Communicator], None]], None],
) -> None:
    total = 11
    values = np.arange(total) ** 2

    def work(comm: Communicator) -> None:
        blocks = Blocks(total, comm)
        mine = np.arange(total)[comm.rank :: comm.size][::-1].copy()
        held = blocks.put(mine, values[mine], stage="put")
        np.testing.assert_array_equal(held, values[blocks.start : blocks.stop])
        asked = np.array([3, 10, 3, 0] if comm.rank == 0 else [], np.int64)
        np.testing.assert_array_equal(blocks.fetch(asked, held, stage="fetch"), values[asked])
        counts = blocks.count(asked, stage="count")
        expected = np.bincount([3, 10, 3, 0], minlength=total)
        np.testing.assert_array_equal(counts, expected[blocks.start : blocks.stop])

    everywhere(work)


def test_column_numpy_shapes() -> None:
    table = pa.table(
        {
            "flag": [True, None, False],
            "pair": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
            "label": pa.array([4, None, 6]),
        }
    ).slice(1)
    assert column_numpy(table, "flag").tolist() == [False, False]
    assert column_numpy(table, "pair").shape == (2, 2)
    assert column_numpy(table, "label")[1] == 6
    valid = column_valid(table, "label")
    assert valid is not None
    assert valid.tolist() == [False, True]
    assert column_valid(table, "pair") is None
