"""Host of the parameters of a run: leases work to groups, updates, evaluates and keeps versions."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graphtheta.errors import ConfigError, VersionGone
from graphtheta.runtime.numbers import need_whole
from graphtheta.train.checkpoint import InFlight, capture, write_checkpoint
from graphtheta.train.elastic.ledger import Ledger, Outcome, Work
from graphtheta.train.elastic.progress import RunProgress
from graphtheta.train.elastic.source import Contribution, GroupName, RunTerms, Task
from graphtheta.train.elastic.terms import check_terms, terms_of
from graphtheta.train.elastic.updates import Updates, Version
from graphtheta.train.micro_batches import refuse_statistics

__all__ = ["ParameterHost"]

_log = logging.getLogger("graphtheta.engine")
Array = NDArray[Any]
_WAIT_S = 2.0  # longest wait for work in one call
_RATE_S = 60.0  # that the speed is measured over
_REFUSALS = 2  # results of one micro-batch that are not finite, after which the run fails


@dataclass
class _Member:
    """Group that has joined, and when it was last heard of."""

    group: GroupName
    seen: float
    knows_end: bool = False


class ParameterHost:
    """Parameters, optimiser and work of a run, which groups of workers train together.

    It is a `ParameterSource` for groups in the same process; a server passes the calls of others
    to it. Its methods may be called by several threads at the same time.

    Args:
        trainer: A `Trainer` of one worker that holds the whole graph. Its options are those of the
            run, and its run directory gets the files.
        epochs: Number of epochs in total.
        delay: Number of steps by which the version that a step is computed on is behind.
        lease_s: Seconds after which the work of a group may be given to another.
        config: Configuration of the run, which groups of the command line get.
        clock: Function that returns the time in seconds.

    Attributes:
        layout: Order of the parameters in arrays.

    Raises:
        ConfigError: If an option is invalid, or the run directory is in use.
    """

    def __init__(
        self,
        trainer: Any,
        epochs: int,
        *,
        delay: int = 0,
        lease_s: float = 60.0,
        config: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._config = clock, dict(config or {})
        self._trainer, self._saver = trainer, trainer.saver
        self._epochs = need_whole(epochs, "parameters: epochs", 1)
        need_whole(delay, "parameters: delay", 0)
        _check_trainer(trainer)
        self._run = uuid.uuid4().hex
        self._terms = terms_of(trainer)
        self._updates = Updates(trainer)
        self.layout = self._updates.layout
        self._progress = RunProgress(trainer, self._updates, self._epochs)
        flight = trainer.in_flight
        numbers: Mapping[str, Any] = {} if flight is None else flight.numbers
        first = int(numbers.get("first", self._progress.step))
        self._ledger: Ledger[Contribution] = Ledger(
            trainer.micro_batches, delay, lease_s, first=first, version=self._progress.step
        )
        self._keeps_rows = delay > 0
        self._members: dict[str, _Member] = {}
        self._announced: set[str] = set()  # ids of groups that have not joined yet
        self._refusals: dict[Work, int] = {}
        self._failure: ConfigError | None = None
        self._steps_at: deque[float] = deque()  # times of the steps of the last minute
        self._summary: dict[str, Any] | None = None
        self._changed = threading.Condition(threading.RLock())
        self._saving = threading.Lock()
        self._stack = ExitStack()
        with self._changed:
            self._stack.enter_context(self._progress.started())
            self._versions: dict[int, Version] = {}
            if flight is not None:
                self._restore(flight)
            version = self._ledger.version
            if version not in self._versions:
                self._versions[version] = self._updates.version(whole=self._keeps_rows)
            self._settle()

    # -- what groups call -------------------------------------------------------------------------

    def new_group(self, workers: int) -> GroupName:
        return GroupName.new(workers)

    def announce(self, group: str) -> None:
        """Note that a group reads its store, and will join: the end of training waits for it."""
        with self._changed:
            self._announced.add(group)

    def terms(self) -> RunTerms:
        return RunTerms(
            self._run,
            self._config,
            self._terms,
            self._epochs,
            self._progress.micro_batches,
            self._progress.steps_per_epoch,
        )

    def join(self, group: GroupName, terms: Mapping[str, str]) -> None:
        check_terms(self._terms, terms)
        with self._changed:
            self._see(group)

    def next(self, group: GroupName, wait_s: float = _WAIT_S) -> Task:
        until = time.monotonic() + wait_s
        with self._changed:
            while True:
                self._see(group)
                if self._failure is not None:
                    raise ConfigError(str(self._failure))
                if self._summary is not None:
                    self._members[group.id].knows_end = True
                    self._changed.notify_all()
                    return Task("done", self._run, summary=self._summary)
                work = self._ledger.lease(group.id, self._clock())
                if work is not None:
                    if not work.is_evaluation:
                        self._progress.lease(work.step)
                    return Task("work", self._run, work)
                left = until - time.monotonic()
                if left <= 0:
                    return Task("wait", self._run)
                expiry = self._ledger.next_expiry()
                soon = left if expiry is None else min(left, expiry - self._clock())
                self._changed.wait(max(0.01, soon))

    def pull(self, version: int, num_bytes: int = 0) -> Array:
        return self._version(version).state

    def pull_rows(self, version: int, name: str, keys: NDArray[Any], num_bytes: int = 0) -> Array:
        with self._changed:
            rows = self._updates.read_rows(self._version(version), name, keys)
        return np.ascontiguousarray(rows).reshape(-1).view(np.uint8)

    def _version(self, version: int) -> Version:
        with self._changed:
            if version not in self._versions:
                raise VersionGone(
                    f"pull: expected a version in flight, got {version}. Ask for other work."
                )
            return self._versions[version]

    def push(self, group: GroupName, work: Work, result: Contribution) -> Outcome:
        is_finite = self._updates.check(result)
        with self._changed:
            self._see(group)
            if self._is_over():
                return "repeated"
            if not is_finite:
                return self._refuse(work)
            outcome = self._ledger.push(group.id, work, result)
            if outcome == "counted":
                self._advance()
            return outcome

    def report(self, group: GroupName, version: int, metrics: Mapping[str, float]) -> Outcome:
        with self._changed:
            self._see(group)
            outcome = self._ledger.evaluated(group.id, version)
            if outcome == "counted":
                self._progress.add_metrics(version, metrics, self._versions[version])
                self._settle()
            return outcome

    def leave(self, group: GroupName) -> None:
        with self._changed:
            self._ledger.release(group.id)
            self._members.pop(group.id, None)
            self._changed.notify_all()

    def _see(self, group: GroupName) -> None:
        self._announced.discard(group.id)
        member = self._members.get(group.id)
        if member is None:
            self._members[group.id] = _Member(group, self._clock())
            _log.info("group", extra={"group": group.host, "workers": group.workers})
        else:
            member.seen = self._clock()

    def _is_over(self) -> bool:
        """Return whether training has finished or failed."""
        return self._summary is not None or self._failure is not None

    # -- steps ------------------------------------------------------------------------------------

    def _refuse(self, work: Work) -> Outcome:
        if self._ledger.check(work) == "counted":
            self._ledger.refuse(work)
            self._refusals[work] = self._refusals.get(work, 0) + 1
            if self._refusals[work] >= _REFUSALS:
                self._failure = ConfigError(
                    f"trainer: expected finite gradients, but those of micro-batch {work.index} of "
                    f"step {work.step} are not, computed {_REFUSALS} times. Lower the learning "
                    "rate (--lr), or look for extreme features."
                )
            self._changed.notify_all()
        return "refused"

    def _advance(self) -> None:
        """Make the updates whose micro-batches are all there."""
        while (results := self._ledger.complete()) is not None:
            try:
                self._progress.apply(results)
            except ConfigError as error:
                self._failure = error
                self._changed.notify_all()
                return
            self._ledger.commit()
            self._note_step()
            version = self._ledger.version
            if self._progress.is_evaluated(version):
                self._ledger.evaluate(version)
            whole = self._keeps_rows or self._progress.is_evaluated(version)
            self._versions[version] = self._updates.version(whole=whole)
        self._settle()

    def _note_step(self) -> None:
        now = self._clock()
        self._steps_at.append(now)
        while self._steps_at[0] < now - _RATE_S:
            self._steps_at.popleft()
        if _log.isEnabledFor(logging.INFO):
            _log.info("step", extra=self._progress.last_step())

    def _settle(self) -> None:
        """Free versions, open the next steps, and end training if there are none."""
        self._ledger.limit = self._progress.limit()
        needed = self._ledger.needed_versions() | self._progress.versions_to_record()
        self._versions = {n: kept for n, kept in self._versions.items() if n in needed}
        self._finish_if_done()
        self._changed.notify_all()

    def _finish_if_done(self) -> None:
        if not self._ledger.has_work():
            computed = list(self._ledger.computed.values())
            with self._saving:  # a snapshot may be on its way to the disk
                self._summary = self._progress.finish(computed)
            self._versions[-1] = self._updates.version(whole=True)

    # -- snapshots --------------------------------------------------------------------------------

    def snapshot(self) -> None:
        """Save a checkpoint to the run directory; groups are served meanwhile.

        It holds the versions in flight, so that a host of the same run goes on from it with the
        same results. Nothing is saved when training is over.

        Raises:
            ConfigError: If there is no run directory, or the checkpoint cannot be written.
        """
        run_dir = self._saver.run_dir
        if run_dir is None:
            raise ConfigError("parameters: expected a run_dir for snapshots, got none. Give one.")
        with self._changed:
            if self._is_over():
                return
            trainer, self._progress.is_due = self._trainer, False
            state = trainer.state(len(trainer.history.loss), replace(trainer.part))
            state.in_flight = self._in_flight()
            captured = capture(state).copy()
            run_dir.sync_metrics()
        with self._saving:
            if not self._is_over():  # or the last checkpoint has been written meanwhile
                write_checkpoint(run_dir.checkpoints, captured)
                self._saver.start_clock()

    def snapshot_if_due(self) -> None:
        """Save a checkpoint if one is due, by time or by epochs."""
        if self._saver.is_time() or self._progress.is_due:
            self.snapshot()

    def _in_flight(self) -> InFlight:
        numbers = {
            "first": self._ledger.first,
            "evaluations": self._ledger.evaluations,
            "versions": sorted(self._versions),
            **self._progress.unrecorded(),
        }
        tensors = {}
        for number, version in self._versions.items():
            tensors[f"{number}."] = torch.from_numpy(version.state)
            for name, rows in (version.tables or {}).items():
                tensors[f"{number}.{name}"] = rows
        return InFlight(numbers, tensors)

    def _restore(self, flight: InFlight) -> None:
        for number in map(int, flight.numbers["versions"]):
            prefix = f"{number}."
            tables = {
                name.removeprefix(prefix): rows
                for name, rows in flight.tensors.items()
                if name.startswith(prefix) and name != prefix
            }
            is_live = self.layout.sharded.keys() - tables.keys()
            state = flight.tensors[prefix].numpy()
            self._versions[number] = Version(state, None if is_live else tables)
        for version in flight.numbers["evaluations"]:
            self._ledger.evaluate(int(version))
        self._progress.restore(flight.numbers, self._versions)

    # -- the service ------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """Wait until training is over, and return the summary; None after the timeout.

        Raises:
            ConfigError: If the run has failed.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._summary is not None or self._failure is not None, timeout_s
            )
            if self._failure is not None:
                raise self._failure
            return self._summary

    def wait_for_groups(self, timeout_s: float) -> None:
        """Wait until all groups that are about to join, or were heard of lately, have left."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._announced
                    and all(
                        not member.knows_end and member.seen < self._clock() - 2 * _WAIT_S
                        for member in self._members.values()
                    )
                ),
                timeout_s,
            )

    def status(self) -> dict[str, Any]:
        """Return the numbers to show of the run."""
        now = self._clock()
        with self._changed:
            groups = [
                {
                    "host": member.group.host,
                    "workers": member.group.workers,
                    "idle_seconds": round(now - member.seen, 3),
                    "computed": self._ledger.computed[key],
                    "leases": [
                        {"step": work.step, "micro_batch": work.index, "version": work.version}
                        for work, (holder, _) in self._ledger.leases().items()
                        if holder == key
                    ],
                }
                for key, member in self._members.items()
            ]
            state = self._ledger.state() | self._progress.state()
            steps = sum(at > now - _RATE_S for at in self._steps_at)
            since = now - self._steps_at[0] if steps else 0.0
            state["steps_per_second"] = round(steps / since, 4) if since > 0 else None
            failure = "" if self._failure is None else str(self._failure)
            return state | {"groups": groups, "failure": failure}

    def close(self) -> None:
        """Release the run directory."""
        with self._changed:
            self._stack.close()


def _check_trainer(trainer: Any) -> None:
    """Raise a ConfigError if a trainer cannot be that of a host."""
    refuse_statistics(trainer.model)
    for is_wrong, expected, got in (
        (trainer.world.size != 1, "a trainer of one worker", f"one of {trainer.world.size}"),
        (
            trainer.accumulate != 1,
            "accumulate=1 (a larger batch has the same effect)",
            trainer.accumulate,
        ),
        (
            trainer.rate.reads_metrics,
            "a schedule that does not wait for metrics",
            "ReduceLROnPlateau",
        ),
    ):
        if is_wrong:
            raise ConfigError(f"parameters: expected {expected}, got {got}. Change it.")
