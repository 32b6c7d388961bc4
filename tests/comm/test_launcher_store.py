from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from graphtheta.comm import launcher_store
from graphtheta.comm.launcher_store import StoreChannel, StoreCounter, attempt_store
from graphtheta.comm.sentinel import Lifeline
from graphtheta.comm.watchdog import Watchdog


def attempt(store: dist.Store, size: int, skipped: tuple[int, ...] = ()) -> list[Any]:
    """Let all ranks of an attempt find their part of a store, except those that are lost."""

    def find(rank: int) -> dist.Store | str:
        try:
            return attempt_store(store, rank, size, timedelta(seconds=0.3 if skipped else 10))
        except RuntimeError as error:
            return str(error)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(find, [rank for rank in range(size) if rank not in skipped]))


def test_each_attempt_has_keys_of_its_own() -> None:
    store = dist.HashStore()
    for number, size in enumerate([3, 3, 1, 4]):  # torchrun may continue with other hosts
        parts = attempt(store, size)
        assert [part.add("key", 1) for part in parts] == list(range(1, size + 1)), number


def test_attempt_after_one_that_lost_a_rank_at_the_start() -> None:
    store = dist.HashStore()
    assert "1 ranks did not start, such as 2" in attempt(store, 3, skipped=(2,))[0]
    assert all("waited" in text for text in attempt(store, 3, skipped=(0,)))
    assert [part.add("key", 1) for part in attempt(store, 3)] == [1, 2, 3]


class CutOff:
    """Store on a host that is cut off: its calls do not return."""

    def __init__(self) -> None:
        self.end = threading.Event()

    def add(self, key: str, number: int) -> int:
        self.end.wait()
        raise RuntimeError("lost")


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(launcher_store, "PrefixStore", lambda prefix, store: store)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    store = CutOff()
    yield StoreChannel(store, None)  # type: ignore[arg-type]
    store.end.set()


def test_a_store_that_is_cut_off_delays_no_message(channel: StoreChannel) -> None:
    start = time.monotonic()
    channel.send(1, "where?")
    assert [list(channel.receive()) for _ in range(5)] == [[]] * 5
    assert time.monotonic() - start < 0.5


@pytest.mark.parametrize("what", ["exchange", "counter"])
def test_timeout_holds_where_the_store_is_cut_off(
    channel: StoreChannel, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = []

    def end_job(code: int, message: str, lost: object) -> None:
        messages.append(message)
        raise SystemExit(code)

    monkeypatch.setattr(channel, "end_job", end_job)
    dog = Watchdog(channel, notice_s=60, neighbours={}, lifeline=Lifeline(), hosts=["h1", "h2"])
    counter = StoreCounter(channel._store, "c", channel.thread, dog, 0.2)

    def wait() -> None:
        if what == "counter":
            counter.next(stage="count")
        else:
            dog.wait(lambda: False, "count", timeout_s=0.2, peers=lambda: [1])

    with pytest.raises(SystemExit):
        wait()
    assert "rank 1 did not arrive in 'count' (rank 1 on h2, rank 0 on h1)" in messages[0]
