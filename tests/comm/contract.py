"""Requirements of every communicator, on any number of ranks; launchers run this file too."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError

__all__ = ["CHECKS", "Check"]

Check = Callable[[Communicator], None]
CHECKS: dict[str, Check] = {}


def check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


def others(comm: Communicator) -> list[int]:
    return [rank for rank in range(comm.size) if rank != comm.rank]


@check
def ranks_are_distinct(comm: Communicator) -> None:
    ranks = comm.all_gather_int(comm.rank, stage="ranks")
    assert ranks.tolist() == list(range(comm.size))
    local = comm.all_gather_int(comm.local_rank, stage="local ranks")  # all on this host
    assert local.tolist() == list(range(comm.size))


@check
def all_reduce_reduces_every_type(comm: Communicator) -> None:
    ranks = np.arange(comm.size)
    for name in ("float64", "float32", "int8", "int16", "int32", "int64", "uint8", "uint64"):
        mine = np.array([[comm.rank, 1], [0, 2 * comm.rank]], name)
        for op, expected in (
            ("sum", [[ranks.sum(), comm.size], [0, 2 * ranks.sum()]]),
            ("max", [[comm.size - 1, 1], [0, 2 * (comm.size - 1)]]),
            ("min", [[0, 1], [0, 0]]),
        ):
            buffer = mine.copy()
            comm.all_reduce(buffer, op, stage=f"{op} {name}")
            assert buffer.dtype == name
            assert buffer.tolist() == expected


@check
def all_reduce_takes_bool_scalars_and_nothing(comm: Communicator) -> None:
    flags = np.array([True, comm.rank == 0, False])
    comm.all_reduce(flags, "max", stage="any")
    assert flags.tolist() == [True, True, False]
    flags = np.array([True, comm.rank == 0])
    comm.all_reduce(flags, "min", stage="all")
    assert flags.tolist() == [True, comm.size == 1]
    scalar = np.array(1.5)
    comm.all_reduce(scalar, stage="scalar")
    assert scalar == 1.5 * comm.size
    comm.all_reduce(np.empty((0, 3), np.float32), stage="nothing")


@check
def all_reduce_gives_every_rank_the_same_bits(comm: Communicator) -> None:
    for name in ("float32", "float64"):
        buffer = np.random.default_rng(comm.rank).standard_normal(1001).astype(name)
        comm.all_reduce(buffer, stage="noise")
        rows = comm.all_gather(buffer, stage="compare")
        assert all(row.tobytes() == buffer.tobytes() for row in rows)


@check
def all_gather_keeps_order_and_lengths(comm: Communicator) -> None:
    mine = np.full((comm.rank, 3), comm.rank, np.float32)
    rows = comm.all_gather(mine, stage="rows")
    assert [row.shape for row in rows] == [(rank, 3) for rank in range(comm.size)]
    assert all((row == rank).all() and row.dtype == np.float32 for rank, row in enumerate(rows))
    empty = comm.all_gather(np.empty((0, 2), np.int64), stage="empty")
    assert [row.shape for row in empty] == [(0, 2)] * comm.size
    thin = comm.all_gather(np.empty((comm.rank, 0), np.int64), stage="thin")
    assert [row.shape for row in thin] == [(rank, 0) for rank in range(comm.size)]


@check
def all_gather_returns_copies(comm: Communicator) -> None:
    mine = np.full(2, comm.rank)
    rows = comm.all_gather(mine, stage="rows")
    mine[:] = -1
    rows[0][:] += 100 * (comm.rank + 1)
    comm.barrier(stage="all have written")
    assert rows[0].tolist() == [100 * (comm.rank + 1)] * 2
    assert all((rows[rank] == rank).all() for rank in range(1, comm.size))


@check
def broadcast_comes_from_any_root(comm: Communicator) -> None:
    for root in range(comm.size):
        buffer = np.full((2, 2), comm.rank, np.int32)
        comm.broadcast(buffer, root, stage=f"from {root}")
        assert (buffer == root).all()


@check
def all_to_all_transposes(comm: Communicator) -> None:
    for name in ("int64", "float32", "bool", "uint8"):
        sent = [np.full(comm.rank * peer, comm.rank, name) for peer in range(comm.size)]
        received = comm.all_to_all(sent, stage="transpose")
        assert [row.size for row in received] == [comm.rank * peer for peer in range(comm.size)]
        assert all(
            row.dtype == name and (row == np.full(1, peer).astype(name)).all()
            for peer, row in enumerate(received)
        )


@check
def exchange_reaches_every_peer(comm: Communicator) -> None:
    recv = {peer: np.full((2, peer + 1), -1.0) for peer in others(comm)}
    send = {peer: np.full((2, comm.rank + 1), 10.0 * comm.rank + peer) for peer in others(comm)}
    comm.exchange(send, recv, stage="all pairs").wait()
    assert all((buffer == 10 * peer + comm.rank).all() for peer, buffer in recv.items())


@check
def exchange_talks_to_named_peers_only(comm: Communicator) -> None:
    send = {comm.rank + 1: np.array([comm.rank])} if comm.rank + 1 < comm.size else {}
    recv = {comm.rank - 1: np.array([-1])} if comm.rank else {}
    comm.exchange(send, recv, stage="chain").wait()
    assert all(buffer == [comm.rank - 1] for buffer in recv.values())
    comm.exchange({}, {}, stage="no peer").wait()


@check
def exchange_with_oneself_copies(comm: Communicator) -> None:
    received = np.zeros(3)
    comm.exchange({comm.rank: np.arange(3.0)}, {comm.rank: received}, stage="self").wait()
    assert received.tolist() == [0, 1, 2]


@check
def exchange_takes_empty_buffers(comm: Communicator) -> None:
    nothing = np.empty((0, 4), np.float32)
    recv = {peer: nothing.copy() for peer in others(comm)}
    comm.exchange(dict.fromkeys(others(comm), nothing), recv, stage="empty").wait()


@check
def exchange_can_be_tested(comm: Communicator) -> None:
    recv = {peer: np.zeros(1, np.int64) for peer in others(comm)}
    send = {peer: np.array([comm.rank]) for peer in others(comm)}
    pending = comm.exchange(send, recv, stage="polled")
    while not pending.test():
        pass
    assert pending.test()
    pending.wait()
    assert all(buffer == [peer] for peer, buffer in recv.items())


@check
def exchanges_match_in_the_order_started(comm: Communicator) -> None:
    rounds = []
    for i in range(5):
        recv = {peer: np.zeros(2, np.int64) for peer in others(comm)}
        send = {peer: np.array([comm.rank, i]) for peer in others(comm)}
        rounds.append((comm.exchange(send, recv, stage=f"round {i % 2}"), recv))
    for pending, _ in reversed(rounds):
        pending.wait()
    for i, (_, recv) in enumerate(rounds):
        assert all(buffer.tolist() == [peer, i] for peer, buffer in recv.items())


@check
def exchange_stays_in_flight_across_collectives(comm: Communicator) -> None:
    recv = {peer: np.zeros(300_000) for peer in others(comm)}
    sent = np.full(300_000, float(comm.rank))
    pending = comm.exchange(dict.fromkeys(others(comm), sent), recv, stage="sync")
    total = np.ones(1)
    comm.all_reduce(total, stage="loss")
    comm.exchange({comm.rank: total}, {comm.rank: np.zeros(1)}, stage="other").wait()
    assert total == comm.size
    pending.wait()
    assert all((buffer == peer).all() for peer, buffer in recv.items())


@check
def sender_may_reuse_its_buffer_after_wait(comm: Communicator) -> None:
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    sent, received = np.full(10_000, comm.rank), np.zeros(10_000, np.int64)
    pending = comm.exchange({right: sent}, {left: received}, stage="ring")
    pending.wait()
    sent[:] = -1
    comm.barrier(stage="all have reused")
    assert (received == left).all()


@check
def exchange_sends_what_may_not_be_written(comm: Communicator) -> None:
    sent = np.full(3, comm.rank)
    sent.flags.writeable = False
    recv = {peer: np.zeros(3, np.int64) for peer in others(comm)}
    comm.exchange(dict.fromkeys(others(comm), sent), recv, stage="read-only").wait()
    assert all((buffer == peer).all() for peer, buffer in recv.items())


@check
def split_keeps_rank_order(comm: Communicator) -> None:
    half = comm.split(comm.rank % 2)
    members = list(range(comm.rank % 2, comm.size, 2))
    assert (half.size, half.rank) == (len(members), members.index(comm.rank))
    assert half.timeout_s == comm.timeout_s
    assert half.all_gather_int(comm.rank, stage="members").tolist() == members
    # A split communicator can be split again, and works at the same time as the whole one.
    for _ in range(1 + comm.rank % 2):
        assert half.split(0).all_gather_int(comm.rank, stage="again").tolist() == members
    whole = comm.all_gather_int(comm.rank, stage="whole")
    assert whole.tolist() == list(range(comm.size))
    single = half.split(half.rank)
    assert single.size == 1
    total = np.ones(1)
    single.all_reduce(total, stage="single")
    assert total == 1


@check
def a_counter_gives_each_number_to_one_rank(comm: Communicator) -> None:
    counter = comm.counter()
    mine = np.array([counter.next(stage="ask") for _ in range(20 * (comm.rank + 1))])
    assert (np.diff(mine) > 0).all()
    everyone = np.concatenate(comm.all_gather(mine, stage="numbers"))
    assert sorted(everyone) == list(range(10 * comm.size * (comm.size + 1)))


@check
def split_communicators_have_counters_of_their_own(comm: Communicator) -> None:
    whole, half = comm.counter(), comm.split(comm.rank % 2)
    first, second = half.counter(), half.counter()
    for counter in (first, second):
        number = counter.next(stage="ask")
        got = half.all_gather_int(number, stage="numbers")
        assert sorted(got) == list(range(half.size))
    got = comm.all_gather_int(whole.next(stage="ask"), stage="numbers")
    assert sorted(got) == list(range(comm.size))


@check
def a_counter_answers_while_all_others_compute(comm: Communicator) -> None:
    """The others hold Python's lock and do not call the communicator."""
    counter = comm.counter()
    comm.barrier(stage="start")
    start = time.monotonic()
    if comm.rank == comm.size - 1:
        for _ in range(5):
            counter.next(stage="ask")
        seconds = time.monotonic() - start
        assert seconds < 1, f"five numbers took {seconds:.2f} s"
    else:
        while time.monotonic() - start < 1.5:
            pass


@check
def bytes_sent_counts_what_leaves(comm: Communicator) -> None:
    before = comm.bytes_sent
    recv = {peer: np.zeros(4) for peer in range(comm.size)}
    comm.exchange({peer: np.zeros(4) for peer in range(comm.size)}, recv, stage="count").wait()
    assert comm.bytes_sent - before == 32 * (comm.size - 1)
    comm.all_to_all([np.zeros(2) for _ in range(comm.size)], stage="count")
    assert comm.bytes_sent - before == 48 * (comm.size - 1)


@check
def wrong_buffers_are_refused_before_anything_is_sent(comm: Communicator) -> None:
    read_only = np.zeros(3)
    read_only.flags.writeable = False
    calls: list[tuple[str, Callable[[], object]]] = [
        ("C-contiguous", lambda: comm.all_reduce(np.zeros((4, 4))[:, ::2], stage="gaps")),
        ("NumPy array", lambda: comm.all_gather([1, 2], stage="list")),  # type: ignore[arg-type]
        ("numbers", lambda: comm.all_gather(np.array(["a"]), stage="text")),
        ("numbers", lambda: comm.all_gather(np.zeros(1, ">i8"), stage="endian")),
        ("read-only", lambda: comm.broadcast(read_only, stage="locked")),
        ("sum of bool", lambda: comm.all_reduce(np.array([True]), stage="sum")),
        ("'prod'", lambda: comm.all_reduce(np.ones(1), "prod", stage="op")),  # type: ignore[arg-type]
        (r"in \[0,", lambda: comm.exchange({comm.size: np.ones(1)}, {}, stage="peer")),
        (r"in \[0,", lambda: comm.broadcast(np.ones(1), comm.size, stage="root")),
        ("one per rank", lambda: comm.all_to_all([], stage="none")),
        ("dimension", lambda: comm.all_gather(np.array(1.0), stage="scalar")),
    ]
    for words, call in calls:
        with pytest.raises(ConfigError, match=words):
            call()
    comm.barrier(stage="still in step")


def main() -> None:
    from graphtheta.comm.launch import communicator

    comm = communicator(30, check="--check" in sys.argv)
    for run in CHECKS.values():
        run(comm)
    if comm.rank == 0:
        print(f"{len(CHECKS)} checks passed on {comm.size} ranks")


if __name__ == "__main__":
    from graphtheta.comm.launch import guarded

    sys.exit(guarded(main))
