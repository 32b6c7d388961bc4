"""Ledger of the work of a run: which micro-batches are open, leased to a group, and computed.

It is a state machine without threads, clocks or messages. Step t of a run is computed on version
max(0, t - delay) of the parameters, and makes version t + 1. Since a micro-batch depends on its
step, its number and its version only, the versions are the same whichever groups compute what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from graphtheta.errors import ConfigError

__all__ = ["Ledger", "Outcome", "Work"]

Payload = TypeVar("Payload")
# What happens to a result: it counts, there was one already, its step is not open, or it is not
# finite.
Outcome = Literal["counted", "repeated", "not open", "refused"]


@dataclass(frozen=True)
class Work:
    """Micro-batch of a step, or evaluation of a version, that one group computes.

    Attributes:
        step: Number of the step over all epochs; -1 for an evaluation.
        index: Number of the micro-batch in its step; 0 for an evaluation.
        version: Version of the parameters to compute on.
    """

    step: int
    index: int
    version: int

    @property
    def is_evaluation(self) -> bool:
        """Whether a version is evaluated."""
        return self.step < 0

    @classmethod
    def evaluation(cls, version: int) -> Work:
        """Return the evaluation of a version."""
        return cls(-1, 0, version)


@dataclass
class _Lease:
    group: str
    until: float


class Ledger(Generic[Payload]):
    """Ledger of the work of a run, from the version that it starts with.

    Work is leased to one group until a time, and then to any other. The first result of a piece of
    work counts, whoever computed it and when; others are dropped.

    Args:
        micro_batches: Number of micro-batches of a step.
        delay: Number of steps by which the version that a step is computed on is behind.
        lease_s: Seconds after which work may be leased to another group.
        first: Oldest version that there is: 0, or the one that a run without a service reached.
        version: Number of steps that are done already.
        limit: Number of steps to do; it can be raised later.

    Attributes:
        version: Number of steps done, which is the newest version of the parameters.
        limit: Number of steps that may be leased so far.
        computed: Number of pieces of work that counted, by group.
        lost: Number of leases that ran out or were given up.
        repeated: Number of results that were dropped.
        staleness: Number of micro-batches by the number of updates between the version that they
            were computed on and the one that they update.
    """

    def __init__(
        self,
        micro_batches: int,
        delay: int,
        lease_s: float,
        *,
        first: int = 0,
        version: int = 0,
        limit: int = 0,
    ) -> None:
        self._micro_batches, self._delay, self._lease_s = micro_batches, delay, lease_s
        self._first, self.version, self.limit = first, version, limit
        self.computed: Counter[str] = Counter()
        self.lost = self.repeated = 0
        self.staleness: Counter[int] = Counter()
        self._results: dict[Work, Payload] = {}  # of micro-batches of open steps
        self._leases: dict[Work, _Lease] = {}
        self._evaluations: list[int] = []  # versions to evaluate, ascending

    # -- what there is to do ----------------------------------------------------------------------

    @property
    def open_steps(self) -> range:
        """Steps that may be computed now: their versions exist."""
        return range(self.version, min(self.version + self._delay + 1, self.limit))

    def version_of(self, step: int) -> int:
        """Return the version that a step is computed on."""
        return max(self._first, step - self._delay)

    def _work(self, step: int, index: int) -> Work:
        return Work(step, index, self.version_of(step))

    def needed_versions(self) -> set[int]:
        """Return the versions that steps without an update, or evaluations, refer to."""
        oldest = self.version_of(self.version)
        return {*range(oldest, self.version + 1), *self._evaluations}

    def has_work(self) -> bool:
        """Return whether any work is open."""
        return bool(self.open_steps or self._evaluations)

    def _open_work(self) -> Iterable[Work]:
        """Yield all work that has no result yet: evaluations, then the oldest step."""
        yield from map(Work.evaluation, self._evaluations)
        for step in self.open_steps:
            for index in range(self._micro_batches):
                work = self._work(step, index)
                if work not in self._results:
                    yield work

    # -- leases -----------------------------------------------------------------------------------

    def lease(self, group: str, now: float) -> Work | None:
        """Lease work to a group, or return None if there is none to do now.

        A group that has a lease gets the same work again, since it has lost the answer.
        """
        free = None
        for work in self._open_work():
            lease = self._leases.get(work)
            if lease is not None and lease.group == group:
                free = work
                break
            if free is None and (lease is None or lease.until <= now):
                free = work
        if free is not None:
            before = self._leases.get(free)
            self.lost += before is not None and before.group != group
            self._leases[free] = _Lease(group, now + self._lease_s)
        return free

    def release(self, group: str) -> None:
        """Give up the leases of a group that leaves."""
        for work in [work for work, lease in self._leases.items() if lease.group == group]:
            del self._leases[work]
            self.lost += 1

    def next_expiry(self) -> float | None:
        """Return the time at which the first lease runs out, or None if there is none."""
        return min((lease.until for lease in self._leases.values()), default=None)

    def leases(self) -> dict[Work, tuple[str, float]]:
        """Return the group and the end of the lease of all leased work."""
        return {work: (lease.group, lease.until) for work, lease in self._leases.items()}

    # -- results ----------------------------------------------------------------------------------

    def check(self, work: Work) -> Outcome:
        """Return whether a result of some work would count.

        Raises:
            ConfigError: If there is no such work in any state of the run.
        """
        if work.is_evaluation:
            return "counted" if work.version in self._evaluations else "repeated"
        if not 0 <= work.index < self._micro_batches or work.version != self.version_of(work.step):
            raise ConfigError(
                f"push: expected micro-batch 0 to {self._micro_batches - 1} of step {work.step} on "
                f"version {self.version_of(work.step)}, got micro-batch {work.index} on version "
                f"{work.version}. Compute what was leased."
            )
        if work.step < self.version or work in self._results:
            return "repeated"
        return "counted" if work.step in self.open_steps else "not open"

    def push(self, group: str, work: Work, payload: Payload) -> Outcome:
        """Count the result of a micro-batch, unless it has one already.

        Raises:
            ConfigError: If there is no such work in any state of the run.
        """
        outcome = self.check(work)
        if outcome == "counted":
            self._results[work] = payload
            self._count(group, work)
            self.staleness[work.step - work.version] += 1
        else:
            self.repeated += 1
        return outcome

    def evaluated(self, group: str, version: int) -> Outcome:
        """Count the evaluation of a version, unless it is done already."""
        outcome = self.check(Work.evaluation(version))
        if outcome == "counted":
            self._evaluations.remove(version)
            self._count(group, Work.evaluation(version))
        else:
            self.repeated += 1
        return outcome

    def _count(self, group: str, work: Work) -> None:
        self._leases.pop(work, None)
        self.computed[group] += 1

    def refuse(self, work: Work) -> None:
        """Lease work again whose result cannot be used."""
        self._leases.pop(work, None)

    @property
    def evaluations(self) -> list[int]:
        """Versions that are to be evaluated, ascending."""
        return list(self._evaluations)

    @property
    def first(self) -> int:
        """Oldest version that there is."""
        return self._first

    def evaluate(self, version: int) -> None:
        """Add the evaluation of a version to the work."""
        self._evaluations = sorted({*self._evaluations, version})

    def complete(self) -> list[Payload] | None:
        """Return the results of the oldest open step in order, or None if one is missing."""
        if self.version >= self.limit:
            return None
        step = [self._work(self.version, index) for index in range(self._micro_batches)]
        return [self._results[work] for work in step] if self._results.keys() >= {*step} else None

    def commit(self) -> None:
        """Finish the oldest open step, whose results have made the next version."""
        for index in range(self._micro_batches):
            del self._results[self._work(self.version, index)]
        self.version += 1

    def state(self) -> dict[str, Any]:
        """Return the numbers to show of the work."""
        return {
            "version": self.version,
            "open_steps": len(self.open_steps),
            "evaluations": len(self._evaluations),
            "lost_leases": self.lost,
            "repeated_results": self.repeated,
            "staleness": dict(sorted(self.staleness.items())),
        }
