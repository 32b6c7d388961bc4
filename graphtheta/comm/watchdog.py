"""Finding the rank that did not arrive, without a thread, a socket or a file.

Every wait of every rank goes through `Watchdog.wait`, which polls. A rank that has waited longer
than the timeout asks all others, on a communicator of its own, where they wait. A rank that waits
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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from graphtheta.comm.sentinel import Lifeline

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Watchdog", "describe_waits", "end_job", "install_stack_dump"]

_ASK, _TELL, _WITHDRAW = 1, 2, 3  # tags on the control communicator
_STAGE_BYTES = 256  # of a stage in a message
_LOOK_S = 0.2  # between looks at clock and letters
_SPINS = 1000  # tests of a request before the first nap: about 1 ms
_NAP_S = 20e-6  # between tests of a request that is late
_FORWARD_S = 0.3  # for the launcher to pass on what was printed: on an abort it drops the rest
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


def end_job(code: int, message: str) -> NoReturn:
    """Print `message` on stderr and end all processes of the MPI job with exit code `code`."""
    from mpi4py import MPI

    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    time.sleep(_FORWARD_S)
    abort: Callable[[int], object] = MPI.COMM_WORLD.Abort
    abort(code)
    # It may return when two ranks abort at once, or from a second thread: the end is on its way.
    time.sleep(5)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a killed process went on")


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
        control: MPI.Intracomm,
        *,
        notice_s: float,
        neighbours: Mapping[int, int],
        lifeline: Lifeline,
    ) -> None:
        """Watch on a communicator that nobody else uses.

        Args:
            control: Spans the whole job.
            notice_s: Wait after which a rank says so.
            neighbours: Process id by rank, of the ranks on this host that can dump their stack.
            lifeline: Knows the stage when this process is dead.
        """
        self.notice_s = notice_s
        self.last_stage = ""
        self._control = control
        self._neighbours = neighbours
        self._lifeline = lifeline
        self._waits: dict[int, _Wait] = {}
        self._tickets = itertools.count()
        self._lock = threading.Lock()
        self._answers: dict[int, str] = {}  # where other ranks wait
        self._stuck: set[int] = set()  # the other ranks that asked
        self._sent: list[tuple[MPI.Request, np.ndarray]] = []

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
        for _ in range(_SPINS):
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
                    self._tell_all(_WITHDRAW)

    def finish(self) -> None:
        """Return when every rank has called this, however long it takes.

        On the communicator of its own, lest it match a collective that this rank left out.
        """
        self.wait(self._control.Ibarrier().Test, "end of the job", timeout_s=math.inf)
        self._lifeline.finish()

    def abort(self, code: int, message: str) -> NoReturn:
        """Print `message` and end all processes of the job."""
        self._lifeline.explained()
        end_job(code, message)

    def _look(self, wait: _Wait, now: float) -> None:
        self._read()
        waited = now - wait.since
        if waited >= self.notice_s and not wait.noticed:
            wait.noticed = True
            # Two ranks suffice: a job that hangs leaves at least one of the two waiting.
            if self._control.rank < 2:
                self._say(f"rank {self._control.rank} has waited {waited:.0f} s in {wait}")
        if wait.asked is None:
            if waited >= wait.timeout_s:
                wait.asked = now
                self._tell_all(_ASK)
            return
        grace_s = min(30.0, max(1.0, 0.2 * wait.timeout_s))
        lowest = all(rank > self._control.rank for rank in self._stuck)
        # The lowest may have died while we listened: then anyone may speak.
        if now - wait.asked >= (grace_s if lowest else 2 * grace_s):
            self._give_up(wait, waited)

    def _read(self) -> None:
        """Take in what has arrived, and answer those who ask."""
        from mpi4py import MPI

        self._sent = [pair for pair in self._sent if not pair[0].Test()]
        status = MPI.Status()
        letter = np.empty(_STAGE_BYTES, np.uint8)
        while self._control.Iprobe(MPI.ANY_SOURCE, MPI.ANY_TAG, status):
            rank, tag = status.Get_source(), status.Get_tag()
            self._control.Recv([letter, MPI.BYTE], rank, tag)
            if tag == _WITHDRAW:
                self._answers.pop(rank, None)
                self._stuck.discard(rank)
                continue
            self._answers[rank] = letter.tobytes().rstrip(b"\0").decode(errors="replace")
            if tag == _ASK:
                self._stuck.add(rank)
                self._tell(rank, _TELL)

    def _tell_all(self, tag: int) -> None:
        for rank in range(self._control.size):
            if rank != self._control.rank:
                self._tell(rank, tag)

    def _tell(self, rank: int, tag: int) -> None:
        from mpi4py import MPI

        text = self._where().encode()[:_STAGE_BYTES]
        letter = np.zeros(_STAGE_BYTES, np.uint8)
        letter[: len(text)] = np.frombuffer(text, np.uint8)
        self._sent.append((self._control.Isend([letter, MPI.BYTE], rank, tag), letter))

    def _where(self) -> str:
        return " and ".join(dict.fromkeys(str(wait) for wait in list(self._waits.values())))

    def _give_up(self, wait: _Wait, waited: float) -> NoReturn:
        waits = self._answers | {self._control.rank: self._where()}
        lost = set(range(self._control.size)) - waits.keys()
        report = describe_waits(waits, lost, f"did not arrive in {wait.stage!r}")
        if not lost:
            report += " (the ranks are in different operations)"
        for rank in lost & self._neighbours.keys():
            self._say(f"stack of rank {rank} (none if it is stopped):")
            os.kill(self._neighbours[rank], signal.SIGUSR2)
            time.sleep(_FORWARD_S)
        self.abort(
            _EXIT_CODE,
            f"error: rank {self._control.rank}: ExchangeTimeout: nothing moved for {waited:.0f} s: "
            f"{report}. Raise the timeout if a rank is only slow.",
        )

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
