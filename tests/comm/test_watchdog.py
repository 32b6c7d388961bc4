from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import pytest

from graphtheta.comm import watchdog
from graphtheta.comm.sentinel import Lifeline
from graphtheta.comm.watchdog import Watchdog, describe_waits


class Channel:
    """Control channel of ranks that are threads of one process."""

    spins = 0

    def __init__(self, boxes: Sequence[list[tuple[int, int, str]]], rank: int) -> None:
        self.rank, self.size, self._boxes = rank, len(boxes), boxes

    def send(self, tag: int, text: str, to: int | None = None) -> None:
        for rank in range(self.size) if to is None else [to]:
            if rank != self.rank:
                self._boxes[rank].append((self.rank, tag, text))

    def receive(self) -> Iterator[tuple[int, int, str]]:
        while self._boxes[self.rank]:
            yield self._boxes[self.rank].pop(0)

    def arrive_at_end(self) -> Callable[[], bool]:
        return lambda: True

    def end_job(self, code: int, message: str, lost: Sequence[int]) -> NoReturn:
        raise SystemExit(code)


def watchdogs(count: int) -> list[Watchdog]:
    boxes: list[list[tuple[int, int, str]]] = [[] for _ in range(count)]
    return [
        Watchdog(Channel(boxes, rank), notice_s=60, neighbours={}, lifeline=Lifeline())
        for rank in range(count)
    ]


def test_rank_0_never_awaits_its_turn() -> None:
    start = time.monotonic()
    watchdogs(2)[0].await_turn()
    assert time.monotonic() - start < 0.1


def test_waiting_rank_0_gives_the_turn_to_the_first_that_failed() -> None:
    rank_0, rank_1, rank_2 = watchdogs(3)
    over = threading.Event()
    seconds = {}

    def fail(rank: int, dog: Watchdog) -> None:
        start = time.monotonic()
        dog.await_turn()
        seconds[rank] = time.monotonic() - start

    first = threading.Thread(target=fail, args=(2, rank_2))
    second = threading.Thread(target=fail, args=(1, rank_1))
    waiting = threading.Thread(target=rank_0.wait, args=(over.is_set, "s"), kwargs={"timeout_s": 9})
    first.start()
    time.sleep(0.1)
    second.start()
    waiting.start()
    first.join()
    second.join()
    over.set()
    waiting.join()
    assert seconds[2] < 1.5
    assert seconds[1] >= watchdog._RANK_0_FIRST_S  # the job would have ended before


def test_computing_rank_0_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_RANK_0_FIRST_S", 0.3)
    start = time.monotonic()
    watchdogs(2)[1].await_turn()
    assert 0.3 <= time.monotonic() - start < 3


def test_describe_waits_groups_ranks_by_stage() -> None:
    text = describe_waits(
        {2: "'merge' for rank 3", 0: "'sync'", 1: "'sync'"}, [4, 3], "did not arrive"
    )
    assert text == (
        "ranks 0, 1 wait in 'sync'; rank 2 waits in 'merge' for rank 3; ranks 3, 4 did not arrive"
    )


def test_describe_waits_stays_short_with_many_ranks() -> None:
    text = describe_waits(dict.fromkeys(range(1000), "'sync'"), [1000], "did not arrive")
    assert text == (
        "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 992 more wait in 'sync'; rank 1000 did not arrive"
    )


def test_timeout_names_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = []

    def end_job(self: Channel, code: int, message: str, lost: Sequence[int]) -> NoReturn:
        messages.append(message)
        raise SystemExit(code)

    monkeypatch.setattr(Channel, "end_job", end_job)
    boxes: list[list[tuple[int, int, str]]] = [[] for _ in range(20)]
    hosts = [f"h{rank // 2}" for rank in range(20)]
    dog = Watchdog(Channel(boxes, 0), notice_s=60, neighbours={}, lifeline=Lifeline(), hosts=hosts)
    boxes[0].append((1, 2, "'sync'"))
    with pytest.raises(SystemExit):
        dog.wait(lambda: False, "sync", timeout_s=0.1)
    assert "(ranks 2, 3 on h1, ranks 4, 5 on h2, " in messages[0]
    assert "and 2 more hosts). Raise" in messages[0]


def test_notice_names_the_hosts_of_a_job_on_several(capsys: pytest.CaptureFixture[str]) -> None:
    for hosts, text in (["h1", "h2"], "(rank 1 on h2, rank 0 on h1)"), (["h1", "h1"], "rank 1\n"):
        dog = Watchdog(
            Channel([[], []], 0), notice_s=0.1, neighbours={}, lifeline=Lifeline(), hosts=hosts
        )
        over = time.monotonic() + 0.5
        dog.wait(lambda until=over: time.monotonic() > until, "s", timeout_s=60, peers=lambda: [1])
        assert text in capsys.readouterr().err
