"""Finding the rank that did not arrive, without a thread, a socket or a file.

Every wait of every rank goes through `Watchdog.wait`, which polls. A rank that has waited longer
than the timeout asks all others, by a post of their own, where they wait. A rank that waits
answers; one that computes, is stopped or has lost its way does not. If nothing moves during a
period of grace, the lowest rank that asked says who waits where and who did not arrive, and ends
the job. A wait that ends after all is withdrawn: a slow rank is not a dead one.
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

from graphtheta.comm.sentinel import Lifeline

__all__ = ["Post", "Watchdog", "describe_waits", "install_stack_dump"]

_ASK, _TELL, _WITHDRAW, _FAILED, _SPEAK = 1, 2, 3, 4, 5  # tags of letters
_LOOK_S = 0.2  # between looks at clock and letters
_NAP_S = 20e-6  # between tests of a request that is late
_RANK_0_FIRST_S = 3.0  # ranks of a crowded host come to the same mistake one after another
_STACK_S = 0.3  # for a lost rank to print its stack, and for the launcher to pass it on
_NAMED = 8  # ranks named one by one in a message
_EXIT_CODE = 2  # as for every GraphThetaError


def describe_waits(waits: Mapping[int, str], absent: Iterable[int], verb: str) -> str:
    """Say which ranks wait where, and which of the others `verb` ("did not arrive").

    Args:
        waits: Where, by rank: a quoted stage and what else there is to say.
        absent: The other ranks.
        verb: What they did.
    """
    by_stage: dict[str, list[int]] = {}
    for rank in sorted(waits):
        by_stage.setdefault(waits[rank], []).append(rank)
    said = [
        f"{_ranks(ranks)} {'waits' if len(ranks) == 1 else 'wait'} in {stage}"
        for stage, ranks in by_stage.items()
    ]
    absent = sorted(absent)
    if absent:
        said.append(f"{_ranks(absent)} {verb}")
    return "; ".join(said)


def _ranks(ranks: list[int]) -> str:
    names = ", ".join(str(rank) for rank in ranks[:_NAMED])
    more = f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {names}{more}"


def install_stack_dump() -> bool:
    """Make SIGUSR2, and a crash, print this process's Python stacks.

    Returns:
        False if the program uses SIGUSR2 itself.
    """
    if not faulthandler.is_enabled():
        faulthandler.enable(file=2)  # 2: stderr, unbuffered
    if signal.getsignal(signal.SIGUSR2) != signal.SIG_DFL:
        return False
    faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
    return True


class Post(Protocol):
    """How ranks reach each other when the usual way is stuck, and how they end the job.

    Attributes:
        rank: Index of this process in the job.
        size: Number of processes.
        spins: Tests of a request before the first nap.
    """

    rank: int
    size: int
    spins: int

    def send(self, tag: int, text: str, to: int | None = None) -> None:
        """Send a letter to one rank, or to all others; never waits for them."""

    def receive(self) -> Iterable[tuple[int, int, str]]:
        """Return sender, tag and text of the letters that have arrived."""

    def leave(self) -> Callable[[], bool]:
        """Say that this rank is at its end; return what tells whether all are."""

    def end(self, code: int, message: str, lost: Sequence[int]) -> NoReturn:
        """Print `message` and end all processes of the job.

        Args:
            code: Exit code.
            message: For stderr.
            lost: Process ids on this host that may not react to a polite end.
        """


@dataclass(slots=True)
class _Wait:
    """One wait that has become long enough to be watched."""

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
    """Watches the waits of one rank; one a process, shared by all its communicators.

    Attributes:
        last_stage: Stage of this rank's latest wait; empty before the first.
    """

    def __init__(
        self,
        post: Post,
        *,
        notice_s: float,
        neighbours: Mapping[int, int],
        lifeline: Lifeline,
    ) -> None:
        """Watch, by a post that nobody else uses.

        Args:
            post: Reaches the whole job.
            notice_s: Wait after which a rank says so.
            neighbours: Process id by rank, of the ranks on this host that can dump their stack.
            lifeline: Knows the stage when this process is dead.
        """
        self.notice_s = notice_s
        self.last_stage = ""
        self._post = post
        self._neighbours = neighbours
        self._lifeline = lifeline
        self._waits: dict[int, _Wait] = {}
        self._tickets = itertools.count()
        self._lock = threading.Lock()
        self._answers: dict[int, str] = {}  # where other ranks wait
        self._stuck: set[int] = set()  # the other ranks that asked
        self._word_given = False  # to say what went wrong: by rank 0, or to this one

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
            test: Makes progress and says whether the operation is over.
            stage: What the job is doing.
            timeout_s: Wait after which this rank asks the others. Infinite: it only answers.
            peers: Says for which ranks of the job this one still waits; none: for any.
        """
        self.last_stage = stage
        self._lifeline.note(stage)
        for _ in range(self._post.spins):
            if test():
                return
            os.sched_yield()  # to a rank that shares this core: a third of a nap's latency
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
                    self._post.send(_WITHDRAW, "")

    def finish(self) -> None:
        """Return when every rank has called this, however long it takes.

        By the post, lest it match a collective that this rank left out.
        """
        self.wait(self._post.leave(), "end of the job", timeout_s=math.inf)
        self._lifeline.finish()

    def await_turn(self) -> None:
        """Return when this rank is the one to say what went wrong, and to end the job.

        A user's mistake meets all ranks, and rank 0 says it. If rank 0 waits elsewhere, the mistake
        is not its own: it gives the word to the first that failed. If it computes, no rank waits
        for it longer than three seconds.
        """
        if self._post.rank == 0:
            return
        self._post.send(_FAILED, "", 0)
        until = time.monotonic() + _RANK_0_FIRST_S
        self.wait(
            lambda: self._word_given or time.monotonic() >= until,
            "a failure of its own",
            timeout_s=math.inf,
        )

    def abort(self, code: int, message: str, lost: Sequence[int] = ()) -> NoReturn:
        """Print `message` and end all processes of the job; `lost` as in `Post.end`."""
        self._lifeline.explained()
        self._post.end(code, message, lost)

    def _look(self, wait: _Wait, now: float) -> None:
        self._read()
        waited = now - wait.since
        if waited >= self.notice_s and not wait.noticed:
            wait.noticed = True
            # Two ranks suffice: a job that hangs leaves at least one of the two waiting.
            if self._post.rank < 2:
                self._say(f"rank {self._post.rank} has waited {waited:.0f} s in {wait}")
        if wait.asked is None:
            if waited >= wait.timeout_s:
                wait.asked = now
                self._post.send(_ASK, self._where())
            return
        grace_s = min(30.0, max(1.0, 0.2 * wait.timeout_s))
        lowest = all(rank > self._post.rank for rank in self._stuck)
        # The lowest may have died while we listened: then anyone may speak.
        if now - wait.asked >= (grace_s if lowest else 2 * grace_s):
            self._give_up(wait, waited)

    def _read(self) -> None:
        """Take in what has arrived, and answer those who ask."""
        for rank, tag, text in self._post.receive():
            if tag == _WITHDRAW:
                self._answers.pop(rank, None)
                self._stuck.discard(rank)
                continue
            if tag == _SPEAK:
                self._word_given = True
                continue
            if tag == _FAILED:
                if not self._word_given:
                    self._word_given = True
                    self._post.send(_SPEAK, "", rank)
                continue
            self._answers[rank] = text
            if tag == _ASK:
                self._stuck.add(rank)
                self._post.send(_TELL, self._where(), rank)

    def _where(self) -> str:
        return " and ".join(dict.fromkeys(str(wait) for wait in list(self._waits.values())))

    def _give_up(self, wait: _Wait, waited: float) -> NoReturn:
        waits = self._answers | {self._post.rank: self._where()}
        lost = set(range(self._post.size)) - waits.keys()
        report = describe_waits(waits, lost, f"did not arrive in {wait.stage!r}")
        if not lost:
            report += " (the ranks are in different operations)"
        near = lost & self._neighbours.keys()
        for rank in near:
            self._say(f"stack of rank {rank} (none if it is stopped):")
            os.kill(self._neighbours[rank], signal.SIGUSR2)
            time.sleep(_STACK_S)
        self.abort(
            _EXIT_CODE,
            f"error: rank {self._post.rank}: ExchangeTimeout: nothing moved for {waited:.0f} s: "
            f"{report}. Raise the timeout if a rank is only slow.",
            [self._neighbours[rank] for rank in near],
        )

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
