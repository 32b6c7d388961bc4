from __future__ import annotations

import threading

import numba
import numpy as np
import pytest

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.errors import CollectiveMismatch, ConfigError, ExchangeTimeout, WorkerFailed


def test_run_local_returns_result_of_rank_0() -> None:
    assert run_local(lambda comm: (comm.rank, comm.size), 3) == (0, 3)


def test_run_local_raises_config_error_without_workers() -> None:
    with pytest.raises(ConfigError, match="workers >= 1, got 0"):
        run_local(lambda comm: None, 0)


def test_run_local_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    run_local(lambda comm: comm.barrier(stage="x"), 4)
    assert threading.active_count() == before


def test_run_local_divides_numba_threads() -> None:
    outside = numba.get_num_threads()
    inside = run_local(lambda comm: numba.get_num_threads(), 2)
    assert inside == max(1, outside // 2)
    assert numba.get_num_threads() == outside


def test_workers_inherit_numpy_error_state() -> None:
    def divide(comm: Communicator) -> None:
        np.ones(1) / np.zeros(1)

    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        run_local(divide, 2)


@pytest.mark.parametrize("where", ["collective", "exchange", "testing"])
def test_failing_rank_wakes_the_others(where: str) -> None:
    seen: dict[int, BaseException] = {}

    def work(comm: Communicator) -> None:
        if comm.rank == 1:
            raise ValueError("first")
        try:
            if where == "collective":
                comm.barrier(stage="never")
            pending = comm.exchange({}, {1: np.zeros(1)}, stage="never")
            while where == "testing":
                pending.test()
            pending.wait()
        except BaseException as error:
            seen[comm.rank] = error
            raise

    with pytest.raises(ValueError, match="first") as caught:
        run_local(work, 3)
    assert caught.value.__notes__ == ["(on rank 1 of 3)"]
    for error in (seen[0], seen[2]):
        assert isinstance(error, WorkerFailed)
        assert error.rank == 1
        assert "ValueError: first" in str(error)


@pytest.mark.parametrize("code", [0, 5])
def test_early_exit_of_a_rank_ends_the_run(code: int) -> None:
    def work(comm: Communicator) -> None:
        if comm.rank == 1:
            raise SystemExit(code)
        comm.barrier(stage="never")

    with pytest.raises(SystemExit) as caught:
        run_local(work, 2)
    assert caught.value.code == code


def test_abort_ends_the_run_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    def work(comm: Communicator) -> None:
        if comm.rank == 1:
            comm.abort(4, "the reason")
        comm.barrier(stage="never")

    with pytest.raises(SystemExit) as caught:
        run_local(work, 2)
    assert caught.value.code == 4
    assert capsys.readouterr().err == "the reason\n"


def _different_stages(comm: Communicator) -> None:
    comm.barrier(stage=f"stage {comm.rank}")


def _different_operations(comm: Communicator) -> None:
    buffer = np.zeros(2)
    if comm.rank == 1:
        comm.all_gather(buffer, stage="loss")
    comm.all_reduce(buffer, stage="loss")


def _different_shapes(comm: Communicator) -> None:
    comm.all_reduce(np.zeros(2 + comm.rank), stage="gradients")


def _different_types(comm: Communicator) -> None:
    comm.all_reduce(np.zeros(2, f"float{32 * (1 + comm.rank)}"), stage="gradients")


def _different_roots(comm: Communicator) -> None:
    comm.broadcast(np.zeros(2), comm.rank, stage="weights")


def _different_sizes(comm: Communicator) -> None:
    other = 1 - comm.rank
    buffer = np.zeros(1 + comm.rank)
    comm.exchange({other: buffer}, {other: buffer.copy()}, stage="sync").wait()


def _different_exchanges(comm: Communicator) -> None:
    other, buffer = 1 - comm.rank, np.zeros(2)
    stages = ["branch a", "branch b"]
    for stage in stages if comm.rank else reversed(stages):
        comm.exchange({other: buffer}, {other: buffer.copy()}, stage=stage).wait()


def _skipped_collective(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.barrier(stage="epoch 3")


def _exchange_against_collective(comm: Communicator) -> None:
    if comm.rank == 0:
        comm.exchange({}, {1: np.zeros(1)}, stage="sync").wait()
    comm.barrier(stage="epoch 3")


def _forgotten_send(comm: Communicator) -> None:
    other = 1 - comm.rank
    send = {other: np.zeros(1)} if comm.rank == 0 else {}
    comm.exchange(send, {other: np.zeros(1)}, stage="sync").wait()


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (_different_stages, ["rank 0", "'stage 0'", "rank 1", "'stage 1'"]),
        (_different_operations, ["all_reduce", "all_gather", "'loss'"]),
        (_different_shapes, ["float64[2]", "float64[3]"]),
        (_different_types, ["float32[2]", "float64[2]"]),
        (_different_roots, ["from 0", "from 1"]),
        (_different_sizes, ["8 bytes", "16 bytes", "'sync'"]),
        (_different_exchanges, ["'branch a'", "'branch b'"]),
        (_skipped_collective, ["rank 0 waits in 'epoch 3'", "rank 1 returned"]),
        (_exchange_against_collective, ["rank 0 waits in 'sync'", "rank 1 waits in 'epoch 3'"]),
        (_forgotten_send, ["rank 0 waits in 'sync'"]),
    ],
    ids=lambda value: value.__name__[1:] if callable(value) else "",
)
def test_mismatch_is_found_immediately(work: object, words: list[str]) -> None:
    with pytest.raises(CollectiveMismatch) as caught:
        run_local(work, 2)  # type: ignore[arg-type]
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_wait_raises_exchange_timeout_when_a_rank_computes_for_too_long() -> None:
    woken = threading.Event()

    def work(comm: Communicator) -> None:
        if comm.rank == 1:
            woken.wait(30)
            return
        try:
            comm.barrier(stage="epoch 3")
        finally:
            woken.set()

    with pytest.raises(ExchangeTimeout, match=r"rank 0 waits in 'epoch 3'; rank 1 did not arrive"):
        run_local(work, 2, timeout_s=0.1)


def test_second_thread_of_a_rank_may_communicate() -> None:
    def work(comm: Communicator) -> int:
        other = comm.split(0)
        sums: list[int] = []

        def prepare() -> None:
            for _ in range(50):
                sums.append(int(other.all_gather_int(comm.rank, stage="prepare").sum()))

        helper = threading.Thread(target=prepare)
        helper.start()
        for _ in range(50):
            comm.barrier(stage="train")
        helper.join()
        return sum(sums)

    assert run_local(work, 3) == 150


def test_many_exchanges_keep_apart() -> None:
    def work(comm: Communicator) -> None:
        rng = np.random.default_rng(7)  # the same draws on every rank
        for i in range(200):
            sizes = rng.integers(0, 50, (comm.size, comm.size))
            peers = [peer for peer in range(comm.size) if peer != comm.rank]
            send = {p: np.full(sizes[comm.rank, p], 10 * comm.rank + p) for p in peers}
            recv = {p: np.zeros(sizes[p, comm.rank], np.int64) for p in peers}
            comm.exchange(send, recv, stage=f"step {i}").wait()
            assert all((recv[p] == 10 * p + comm.rank).all() for p in peers)

    run_local(work, 4)
