"""Files of a training run: when checkpoints are saved, and what is written at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.errors import ConfigError
from graphtheta.task import BoundTask
from graphtheta.train.checkpoint import (
    RunState,
    latest_checkpoint,
    load_checkpoint,
    remove_old_checkpoints,
    save_checkpoint,
)
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.signals import SignalRequests, Stopped, agree_on
from graphtheta.train.weights import save_weights

__all__ = ["Pauses", "RunSaver"]

_PAUSE_S = 1.0  # between two pauses
_MOST_STEPS = 50  # between two pauses, in case steps become slower


class RunSaver:
    """Checkpoints and results of one run, written by the first group of workers.

    Args:
        run_dir: Directory of the run; if None, nothing can be saved.
        groups: The workers.
        every: Number of epochs between checkpoints; 0 for none by this number.
        seconds: Seconds between checkpoints; 0 for none by time.

    Attributes:
        run_dir: The directory.
        num_saved: Number of epochs in the last checkpoint; -1 if it is within an epoch, or if
            there is none.
    """

    def __init__(
        self, run_dir: RunDirectory | None, groups: Groups, *, every: int, seconds: float
    ) -> None:
        self.run_dir, self.num_saved = run_dir, -1
        self._groups, self._every, self._seconds = groups, every, seconds
        self.start_clock()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context that locks the directory on rank 0, and unlocks it whenever it was locked."""
        if self.run_dir is None or self._groups.world.rank:
            yield
            return
        self.run_dir.lock()
        try:
            yield
        finally:
            self.run_dir.unlock()

    def start_clock(self) -> None:
        """Count the seconds until the next checkpoint from now on."""
        self._saved_at = time.monotonic()

    @property
    def saves_by_time(self) -> bool:
        """Whether checkpoints are saved by time."""
        return self.run_dir is not None and self._seconds > 0

    def is_time(self) -> bool:
        """Return whether the last checkpoint is as old as they may be, by the clock of rank 0."""
        passed = time.monotonic() - self._saved_at
        return self._groups.world.rank == 0 and self._seconds > 0 and passed >= self._seconds

    def is_due(self, epochs: int) -> bool:
        """Return whether a checkpoint is saved after so many epochs, in any case."""
        return self._every > 0 and epochs % self._every == 0

    def save(self, state: RunState) -> None:
        """Write a checkpoint; collective."""
        if self.run_dir is None:
            raise ConfigError("trainer: expected a run_dir for checkpoints, got none. Give one.")
        world = self._groups.world
        if self._groups.index == 0:
            save_checkpoint(self.run_dir.checkpoints, state)
        if world.rank == 0:
            self.run_dir.sync_metrics()
        world.barrier(stage="checkpoint")
        self.start_clock()
        self.num_saved = -1 if state.part.steps else state.epochs

    def load(self, state: RunState) -> Path | None:
        """Load the newest whole checkpoint into the state of a run, if there is one; collective.

        Returns:
            The checkpoint.
        """
        if self.run_dir is None:
            raise ConfigError("trainer: expected a run_dir to resume from, got none. Give one.")
        world, run_dir = self._groups.world, self.run_dir
        is_first = world.rank == 0
        with run_dir.locked() if is_first else nullcontext():
            found = latest_checkpoint(run_dir.checkpoints) if is_first else None
            path = world.broadcast_text(str(found or ""), stage="resume from")
            if path:
                load_checkpoint(Path(path), state)
                self.num_saved = -1 if state.part.steps else state.epochs
            world.barrier(stage="resumed")  # all have read the files
            if is_first:
                with run_dir.writing():
                    done = state.epochs, state.part.steps
                    remove_old_checkpoints(run_dir.checkpoints, done)
                run_dir.truncate_metrics(state.epochs)
        return Path(path) if path else None

    def finish(self, state: RunState, summary: Mapping[str, Any], task: BoundTask) -> None:
        """Write weights, report and summary of a run, if there is a directory; collective."""
        if self.run_dir is not None and self._groups.index == 0:
            is_first = self._groups.comm.rank == 0
            report = task.report()
            if is_first:
                self.run_dir.remove_summary()
                if report:
                    self.run_dir.write_report(report)
            hashes = save_weights(state.model, state.shard, self.run_dir.weights)
            if is_first:
                weights_hash = hashes[self.run_dir.weights.name]
                self.run_dir.write_summary({**summary, "weights_hash": weights_hash})
        self._groups.world.barrier(stage="summary")


class Pauses:
    """Pauses within an epoch, in which all workers agree whether to save and whether to stop.

    There is one about every second, so that its messages cost nothing.

    Args:
        saver: Saves checkpoints.
        world: The workers.
        requests: Signals that this process has received, if they are caught.
        num_steps: Function that returns the number of steps of an epoch.
    """

    def __init__(
        self,
        saver: RunSaver,
        world: Communicator,
        requests: SignalRequests | None,
        num_steps: Callable[[int], int],
    ) -> None:
        self._saver, self._world, self._requests = saver, world, requests
        self._num_steps = num_steps
        self._is_needed = requests is not None or saver.saves_by_time
        self._steps, self._wait = 0, 1  # since the last pause, and until the next one
        self._last = time.monotonic()

    def after_step(self, state: RunState) -> None:
        """Pause, if it is time for a pause; collective.

        Args:
            state: State of the run, within an epoch. One of a loss that is not finite, which ends
                the run after this epoch, is not saved.

        Raises:
            Stopped: On all workers, if one has received a signal to stop.
        """
        self._steps += 1
        if not self._is_needed or self._steps < self._wait or not np.isfinite(state.part.loss):
            return
        self._plan_next()
        save = self._saver.is_time()
        saves, stop, reason = agree_on(self._world, self._requests, save=save, stop=False)
        state.history.stop_reason = reason or state.history.stop_reason
        if saves and self._saver.run_dir is not None:
            state.part.of = self._num_steps(state.epochs)
            self._saver.save(state)
        if stop:
            raise Stopped(state.epochs, stop, steps=state.part.steps)

    def _plan_next(self) -> None:
        """Choose the number of steps until the next pause, by the clock of rank 0; collective."""
        now = time.monotonic()
        in_time = int(_PAUSE_S * self._steps / max(now - self._last, 1e-9))
        wait = np.array([max(1, min(in_time, 2 * self._steps, _MOST_STEPS))], np.int64)
        self._world.broadcast(wait, stage="next pause")
        self._steps, self._wait, self._last = 0, int(wait[0]), now
