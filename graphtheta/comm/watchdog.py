"""Watchdog: finds the rank that others wait for, and ends a job that makes no progress.

It needs no thread, socket or file. Every wait of every rank goes through `Watchdog.wait`, which
polls. A rank that has waited longer than the timeout asks all others, over a channel of their own,
where they wait. A waiting rank answers; a rank that computes or is stopped does not. If nothing
changes during a grace period, the lowest rank that asked reports which ranks wait where and which
did not arrive, and ends the job. If its wait ends in the meantime, it withdraws the question, so
that a slow rank does not end the job.
"""

from __future__ import annotations

import faulthandler
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import psutil

from graphtheta.comm.sentinel import Lifeline
from graphtheta.errors import ExchangeTimeout

__all__ = ["ControlChannel", "Watchdog", "describe_waits", "install_stack_dump"]

_QUESTION, _ANSWER, _WITHDRAWAL, _FAILED, _REPORT = 1, 2, 3, 4, 5  # tags of messages
_LOOK_S = 0.2  # between two looks at the clock and for messages
_NAP_S = 20e-6  # between two tests of a request that is late
_RANK_0_FIRST_S = 3.0  # on a crowded host, ranks reach the same mistake one after another
_STACK_S = 0.3  # time for a lost rank to print its stack and for the launcher to pass it on
_MAX_NAMED = 8  # ranks that a message lists


def describe_waits(waits: Mapping[int, str], absent: Iterable[int], verb: str) -> str:
    """Return a text that lists which ranks wait in which stage, and what the others did.

    Args:
        waits: Quoted stage in which a rank waits, by rank.
        absent: The other ranks.
        verb: What the other ranks did, such as "did not arrive".
    """
    by_stage: dict[str, list[int]] = {}
    for rank in sorted(waits):
        by_stage.setdefault(waits[rank], []).append(rank)
    parts = [
        f"{_ranks(ranks)} {'waits' if len(ranks) == 1 else 'wait'} in {stage}"
        for stage, ranks in by_stage.items()
    ]
    absent = sorted(absent)
    if absent:
        parts.append(f"{_ranks(absent)} {verb}")
    return "; ".join(parts)


def _ranks(ranks: list[int]) -> str:
    names = ", ".join(str(rank) for rank in ranks[:_MAX_NAMED])
    more = f" and {len(ranks) - _MAX_NAMED} more" if len(ranks) > _MAX_NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {names}{more}"


def install_stack_dump() -> bool:
    """Have SIGUSR2, and a crash, print the Python stacks of this process.

    Returns:
        Whether SIGUSR2 was registered; False if the program uses it itself.
    """
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2)  # 2: stderr, unbuffered
    if signal.getsignal(signal.SIGUSR2) != signal.SIG_DFL:
        return False
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
    return True


def _has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


class ControlChannel(Protocol):
    """Channel for short messages between ranks, apart from their usual communication.

    Attributes:
        rank: Index of this process in the job.
        size: Number of processes.
        spins: Number of tests of a request before the first nap.
    """

    rank: int
    size: int
    spins: int

    def send(self, tag: int, text: str, to: int | None = None) -> None:
        """Send a message to one rank, or to all others if `to` is None, without waiting."""

    def receive(self) -> Iterable[tuple[int, int, str]]:
        """Return sender, tag and text of the messages that have arrived."""

    def arrive_at_end(self) -> Callable[[], bool]:
        """Mark that this rank is at its end; return a function that tests whether all ranks are."""

    def end_job(self, code: int, message: str, lost: Sequence[int]) -> NoReturn:
        """Print `message` and end all processes of the job.

        Args:
            code: Exit code.
            message: Text for stderr.
            lost: Ids of processes on this host that may not react to the launcher.
        """


@dataclass(slots=True)
class _Wait:
    """A wait that has become long enough to be watched."""

    stage: str
    since: float
    timeout_s: float
    peers: Callable[[], list[int]]
    noticed: bool = False
    asked: float | None = None

    def __str__(self) -> str:
        peers = self.peers()
        return f"{self.stage!r}{f' for {_ranks(peers)}' if peers else ''}"


class Watchdog:
    """Watchdog over the waits of one rank, shared by all communicators of its process.

    Attributes:
        last_stage: Stage of the latest wait of this rank; empty before the first.
    """

    def __init__(
        self,
        channel: ControlChannel,
        *,
        notice_s: float,
        neighbours: Mapping[int, int],
        lifeline: Lifeline,
        hosts: Sequence[str] = (),
    ) -> None:
        """Create the watchdog of this process.

        Args:
            channel: Channel to all ranks of the job, used for nothing else.
            notice_s: Length of a wait, in seconds, after which it is mentioned on stderr.
            neighbours: Process ids, by rank, of the ranks on this host that can print their stack.
            lifeline: Connection to the sentinel, which reports the stage if this process is killed.
            hosts: Name of the host of each rank, for messages. If empty, they name no hosts.
        """
        self.notice_s = notice_s
        self.last_stage = ""
        self._channel = channel
        self._neighbours = neighbours
        self._lifeline = lifeline
        self._hosts = hosts
        self._waits: dict[int, _Wait] = {}
        self._tickets = itertools.count()
        self._lock = threading.Lock()
        self._answers: dict[int, str] = {}  # where other ranks wait
        self._stuck: set[int] = set()  # other ranks that asked
        self._turn_given = False  # to report a failure: by rank 0 to another, or to this rank

    def wait(
        self,
        test: Callable[[], bool],
        stage: str,
        *,
        timeout_s: float,
        peers: Callable[[], list[int]] = list,
    ) -> None:
        """Return when `test()` is true; end the job if that takes longer than the timeout.

        Args:
            test: Function that makes progress and returns whether the operation is complete.
            stage: What the job is doing.
            timeout_s: Length of the wait after which this rank asks the others. If infinite, it
                only answers.
            peers: Function that returns the ranks of the job that this one waits for; an empty
                list stands for any rank.
        """
        self.last_stage = stage
        self._lifeline.set_stage(stage)
        for _ in range(self._channel.spins):
            if test():
                return
            os.sched_yield()  # lets a rank on this core run; a third of the latency of a nap
        wait = _Wait(stage, time.monotonic(), timeout_s, peers, noticed=math.isinf(timeout_s))
        ticket = next(self._tickets)
        self._waits[ticket] = wait
        try:
            look = wait.since + _LOOK_S
            while not test():
                time.sleep(_NAP_S)
                now = time.monotonic()
                if now >= look:
                    look = now + _LOOK_S
                    with self._lock:
                        self._look(wait, now)
        finally:
            del self._waits[ticket]
            if wait.asked is not None:
                with self._lock:
                    self._channel.send(_WITHDRAWAL, "")

    def finish(self) -> None:
        """Return when every rank has called this, without a timeout.

        It uses the channel, so that it cannot match a collective operation that this rank skipped.
        """
        self.wait(self._channel.arrive_at_end(), "end of the job", timeout_s=math.inf)
        self._lifeline.finish()

    def await_turn(self) -> None:
        """Return when this rank is to report its failure and end the job.

        A mistake of the user fails on all ranks, and rank 0 reports it. If rank 0 waits elsewhere,
        it did not fail, and gives the turn to the first rank that did. If rank 0 computes, other
        ranks wait for it for at most three seconds.
        """
        if self._channel.rank == 0:
            return
        self._channel.send(_FAILED, "", 0)
        until = time.monotonic() + _RANK_0_FIRST_S
        self.wait(
            lambda: self._turn_given or time.monotonic() >= until,
            "a failure of its own",
            timeout_s=math.inf,
        )

    def abort(self, code: int, message: str, lost: Sequence[int] = ()) -> NoReturn:
        """Print `message` and end all processes of the job; see `ControlChannel.end_job`."""
        self._lifeline.mark_explained()
        self._channel.end_job(code, message, lost)

    def ended_neighbours(self) -> list[int]:
        """Return the ranks on this host whose processes have ended."""
        return [rank for rank, pid in sorted(self._neighbours.items()) if _has_ended(pid)]

    def _look(self, wait: _Wait, now: float) -> None:
        self._read()
        waited = now - wait.since
        if waited >= self.notice_s and not wait.noticed:
            wait.noticed = True
            # Two ranks suffice: in a job that hangs, at least one of them waits.
            if self._channel.rank < 2:
                several = len(set(self._hosts)) > 1
                where = self._on_hosts([*wait.peers(), self._channel.rank]) if several else ""
                self._print(f"rank {self._channel.rank} has waited {waited:.0f} s in {wait}{where}")
        if wait.asked is None:
            if waited >= wait.timeout_s:
                wait.asked = now
                self._channel.send(_QUESTION, self._own_waits())
            return
        grace_s = min(30.0, max(1.0, 0.2 * wait.timeout_s))
        lowest = all(rank > self._channel.rank for rank in self._stuck)
        # The lowest rank may have ended in the meantime: then any other reports.
        if now - wait.asked >= (grace_s if lowest else 2 * grace_s):
            self._give_up(wait, waited)

    def _read(self) -> None:
        """Process the messages that have arrived, and answer questions."""
        for rank, tag, text in self._channel.receive():
            if tag == _WITHDRAWAL:
                self._answers.pop(rank, None)
                self._stuck.discard(rank)
                continue
            if tag == _REPORT:
                self._turn_given = True
                continue
            if tag == _FAILED:
                if not self._turn_given:
                    self._turn_given = True
                    self._channel.send(_REPORT, "", rank)
                continue
            self._answers[rank] = text
            if tag == _QUESTION:
                self._stuck.add(rank)
                self._channel.send(_ANSWER, self._own_waits(), rank)

    def _own_waits(self) -> str:
        return " and ".join(dict.fromkeys(str(wait) for wait in list(self._waits.values())))

    def _give_up(self, wait: _Wait, waited: float) -> NoReturn:
        waits = self._answers | {self._channel.rank: self._own_waits()}
        lost = set(range(self._channel.size)) - waits.keys()
        report = describe_waits(waits, lost, f"did not arrive in {wait.stage!r}")
        if not lost:
            report += " (the ranks are in different operations)"
        report += self._on_hosts([*sorted(lost), *sorted(waits)])
        near = lost & self._neighbours.keys()
        for rank in near:
            self._print(f"stack of rank {rank} (none if it is stopped):")
            os.kill(self._neighbours[rank], signal.SIGUSR2)
            time.sleep(_STACK_S)
        self.abort(
            ExchangeTimeout.exit_code,
            f"error: rank {self._channel.rank}: ExchangeTimeout: nothing moved for {waited:.0f} s: "
            f"{report}. Raise the timeout if a rank is only slow.",
            [self._neighbours[rank] for rank in near],
        )

    def _on_hosts(self, ranks: Iterable[int]) -> str:
        """Return a text that lists the hosts of some ranks, in the order of the ranks."""
        by_host: dict[str, list[int]] = {}
        for rank in dict.fromkeys(ranks) if self._hosts else ():
            by_host.setdefault(self._hosts[rank], []).append(rank)
        parts = [f"{_ranks(found)} on {host}" for host, found in by_host.items()]
        more = f" and {len(parts) - _MAX_NAMED} more hosts" if len(parts) > _MAX_NAMED else ""
        return f" ({', '.join(parts[:_MAX_NAMED])}{more})" if parts else ""

    def _print(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
