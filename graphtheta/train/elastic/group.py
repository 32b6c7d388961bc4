"""Group of workers that computes micro-batches and evaluations for a parameter service."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.errors import ConfigError, VersionGone
from graphtheta.nn.embedding import ShardedParameter, row_keys
from graphtheta.shard.shard import Shard
from graphtheta.strategy.batch import Batch, Step, Steps
from graphtheta.train.elastic.layout import ModelLayout
from graphtheta.train.elastic.ledger import Work
from graphtheta.train.elastic.source import (
    Contribution,
    ParameterSource,
    RowGradient,
    Task,
)
from graphtheta.train.elastic.terms import terms_of
from graphtheta.train.gradients import reduce_gradients
from graphtheta.train.micro_batches import as_sparse, refuse_statistics, summed_share
from graphtheta.train.signals import SignalRequests, Stopped
from graphtheta.train.step import StepRunner

__all__ = ["ElasticGroup", "check_group"]

_log = logging.getLogger("graphtheta")
Array = NDArray[Any]
_BEST = -1  # version: the best weights, when training is over
_WAIT, _WORK, _DONE = range(3)
_EPOCHS_KEPT = 2  # whose steps may be in flight at the same time


class ElasticGroup:
    """Group of workers that asks a parameter service what to compute, until training is over.

    Its first worker calls the service. The others get the parameters from it, and it gets their
    gradients, which are summed in the order of the workers.

    Args:
        source: The service. Only the first worker uses it.
        trainer: The `Trainer` of this worker, whose model, batches and evaluation are used.

    Attributes:
        num_computed: Number of micro-batches and evaluations so far.
    """

    def __init__(self, source: ParameterSource, trainer: Any) -> None:
        shard: Shard = trainer.shard
        model: nn.Module = trainer.model
        self._source, self._model, self._comm = source, model, shard.comm
        self._steps: Steps = trainer.batches.steps
        self._runner: StepRunner = trainer.runner
        self._evaluate: Callable[[], Mapping[str, float]] = trainer.evaluate
        self._terms = terms_of(trainer)
        self._layout = ModelLayout(model)
        self._rows = {
            name: _PulledRows(name, parameter, shard, self._pull_rows)
            for name, parameter in self._layout.sharded.items()
        }
        self._epochs: dict[int, list[Step]] = {}
        self._group = source.new_group(shard.comm.size)
        self._micro_batches = self._per_epoch = self.num_computed = 0
        self._run = ""  # of the service that the loaded version is from; on the first worker
        self._loaded: int | None = None  # version in the model; None if it must be pulled again
        self._is_gone = False  # whether rows of the version were missing; on the first worker
        self._summary: Mapping[str, Any] = {}

    @property
    def _is_first(self) -> bool:
        return self._comm.rank == 0

    def run(self, epochs: int | None, requests: SignalRequests | None) -> dict[str, Any]:
        """Compute until training is over; then the model holds the best weights; collective.

        Args:
            epochs: Number of epochs that the run is expected to have. If None, any.
            requests: Signals that this process has received, if they are caught.

        Returns:
            The summary of the run, on the first worker.

        Raises:
            WrongServer: If the service trains on other terms.
            ConfigError: If the run has another number of epochs, or has failed.
            Stopped: On SIGTERM and Ctrl-C.
        """
        self._join(epochs)
        self._model.train()
        try:
            while (kind := self._turn(requests)) != _DONE:
                assert kind in (_WAIT, _WORK)
        finally:
            for rows in self._rows.values():
                rows.detach()
            if self._is_first:
                self._source.leave(self._group)
        return dict(self._summary)

    def _join(self, epochs: int | None) -> None:
        numbers = np.zeros(2, np.int64)
        if self._is_first:
            found = self._source.terms()
            if epochs not in (None, found.epochs):
                raise ConfigError(
                    f"trainer: expected the {found.epochs} epochs of the parameter service, got "
                    f"{epochs}. Leave epochs out."
                )
            self._source.join(self._group, self._terms)
            self._run = found.run
            numbers[:] = found.micro_batches, found.steps_per_epoch
        self._comm.broadcast(numbers, stage="terms of the run")
        self._micro_batches, self._per_epoch = numbers.tolist()

    def _turn(self, requests: SignalRequests | None) -> int:
        """Get one piece of work, and compute it."""
        stop = np.array([0 if requests is None else requests.take()[1]], np.int64)
        self._comm.all_reduce(stop, "max", stage="signals")
        if stop[0]:
            raise Stopped(self.num_computed, int(stop[0]))
        task, state = self._next() if self._is_first else (None, None)
        control = np.array([_WAIT, 0, 0, 0, 0], np.int64)
        if task is not None and task.kind != "wait":
            work = task.work or Work.evaluation(_BEST)
            kind = _WORK if task.kind == "work" else _DONE
            control[:] = kind, work.step, work.index, work.version, state is not None
        self._comm.broadcast(control, stage="next work")
        kind, step, index, version, is_new = control.tolist()
        if kind == _WAIT:
            return _WAIT
        if is_new:
            self._load(version, state)
        if kind == _DONE:
            for rows in self._rows.values():
                rows.fetch(None)
        elif step < 0:
            self._report(Work.evaluation(version))
        else:
            self._compute(Work(step, index, version))
        return int(kind)

    def _next(self) -> tuple[Task, Array | None]:
        """Return the next task and, if the model does not hold its version, the parameters."""
        task = self._source.next(self._group)
        if task.run != self._run:  # the service was started again, perhaps with another run
            self._source.join(self._group, self._terms)
            self._run, self._loaded = task.run, None
        self._is_gone = False
        if task.kind == "wait":
            return task, None
        self._summary = task.summary
        version = _BEST if task.work is None else task.work.version
        if version == self._loaded:
            return task, None
        try:
            return task, self._source.pull(version, self._layout.num_bytes)
        except VersionGone:  # others have finished this work
            return Task("wait", task.run), None

    def _load(self, version: int, state: Array | None) -> None:
        buffer = np.empty(self._layout.num_bytes, np.uint8) if state is None else state.copy()
        self._comm.broadcast(buffer, stage="parameters")
        self._layout.load(buffer)
        for rows in self._rows.values():
            rows.begin(version)
        self._loaded = version

    # -- micro-batches ----------------------------------------------------------------------------

    def _compute(self, work: Work) -> None:
        batch = self._batch(work)
        loss, count = self._runner.forward(batch)
        # As many numbers as `MicroBatches` sums at a time, so that each has the same bits.
        sums = np.zeros((self._micro_batches, 2))
        sums[work.index] = float(loss.detach()), count
        self._comm.all_reduce(sums, stage="loss")
        total, weight = sums[work.index].tolist()
        if self._micro_batches == 1:
            self._runner.backward(loss / (weight or 1.0), batch)
            reduce_gradients(self._model.parameters(), self._comm)
            gradients = self._layout.gradients()
        else:
            self._runner.backward(loss, batch)
            gradients = self._gathered(summed_share(self._layout.gradients(), self._comm))
        rows = {name: rows.gradient() for name, rows in self._rows.items()}
        self.num_computed += 1
        if not self._is_first or self._is_gone:
            return
        result = Contribution(total, weight, gradients, rows)
        if self._source.push(self._group, work, result) == "refused":
            _log.warning(
                "trainer: the gradient of micro-batch %d of step %d is not finite; it is computed "
                "again.",
                *(work.index, work.step),
            )

    def _batch(self, work: Work) -> Batch:
        epoch, number = divmod(work.step, self._per_epoch)
        if epoch not in self._epochs:
            self._epochs[epoch] = list(self._steps(epoch))
            for old in sorted(self._epochs)[:-_EPOCHS_KEPT]:
                if old != epoch:
                    del self._epochs[old]
        return self._epochs[epoch][number](work.index, self._micro_batches)

    def _gathered(self, share: Array) -> Array:
        """Return the slices of all workers as one array on the first worker."""
        size = self._comm.size
        sizes = [len(part) for part in np.array_split(np.empty(self._layout.num_gradients), size)]
        parts = [np.empty(some, share.dtype) for some in sizes] if self._is_first else []
        self._comm.exchange({0: share}, dict(enumerate(parts)), stage="gather gradients").wait()
        return np.concatenate([share[:0], *parts])

    # -- evaluation and rows ----------------------------------------------------------------------

    def _report(self, work: Work) -> None:
        metrics = self._evaluate()
        self.num_computed += 1
        if self._is_first and not self._is_gone:
            self._source.report(self._group, work.version, metrics)

    def _pull_rows(
        self, version: int, name: str, keys: NDArray[Any], num_bytes: int
    ) -> Array | None:
        try:
            return self._source.pull_rows(version, name, keys, num_bytes)
        except VersionGone:  # others have finished this work; its result is not sent
            self._is_gone, self._loaded = True, None
            return None


def check_group(
    model: nn.Module, groups: Groups, accumulate: int, files: object, micro_batches: int
) -> None:
    """Raise a ConfigError if a trainer has options of the service, or the model cannot be split."""
    refuse_statistics(model)
    for name, is_given, remedy in (
        ("groups", groups.number > 1, "Start each group as a job of its own."),
        ("micro_batches", micro_batches != 1, "The service has their number."),
        ("accumulate", accumulate != 1, "Give the strategy a larger batch."),
        ("run_dir", files is not None, "The service writes the run."),
    ):
        if is_given:
            raise ConfigError(f"trainer: expected no {name} with parameters, got some. {remedy}")


class _PulledRows:
    """Learned rows of this worker, which are pulled from the service before they are read."""

    def __init__(
        self,
        name: str,
        parameter: ShardedParameter,
        shard: Shard,
        pull: Callable[[int, str, NDArray[Any], int], Array | None],
    ) -> None:
        self._name, self._parameter, self._pull = name, parameter, pull
        self._comm: Communicator = shard.comm
        self._keys = row_keys(shard, parameter.node_type)
        self._has = np.zeros(len(self._keys), np.bool_)  # which rows are of the version
        self._dtype = torch.empty(0, dtype=parameter.dtype).numpy().dtype
        self._version = 0

    def begin(self, version: int) -> None:
        """Read rows of another version from now on."""
        self._version = version
        self._has[:] = False
        self._parameter.before_read = self.fetch

    def detach(self) -> None:
        """Read rows as they are from now on."""
        self._parameter.before_read = None

    def fetch(self, rows: Tensor | None) -> None:
        """Pull the rows that are missing of some rows, or of all; collective."""
        some = np.arange(len(self._keys)) if rows is None else rows.cpu().numpy()
        missing = some[~self._has[some]]
        stage = "pull rows"
        wanted = self._comm.all_gather(self._keys[missing], stage=stage)
        send: dict[int, Array] = {}
        columns, dtype = self._parameter.shape[1], self._dtype
        if self._comm.rank == 0:
            keys = np.concatenate(wanted)
            size = len(keys) * columns * dtype.itemsize
            data = self._pull(self._version, self._name, keys, size)
            values = np.zeros(len(keys) * columns, dtype) if data is None else data.view(dtype)
            cuts = np.cumsum([len(theirs) for theirs in wanted])[:-1]
            send = dict(enumerate(np.split(values.reshape(len(keys), columns), cuts)))
        found = np.empty((len(missing), columns), dtype)
        self._comm.exchange(send, {0: found}, stage=stage).wait()
        with torch.no_grad():
            self._parameter[torch.from_numpy(missing)] = torch.from_numpy(found).to(
                self._parameter.device
            )
        self._has[missing] = True

    def gradient(self) -> RowGradient:
        """Return the gradient of all workers' rows; collective."""
        gradient = self._parameter.grad
        is_dense = np.array([gradient is not None and not gradient.is_sparse], np.int8)
        stage = "gather rows"
        self._comm.all_reduce(is_dense, "max", stage=stage)
        sparse = as_sparse(self._parameter)
        rows, values = sparse.indices()[0].cpu().numpy(), sparse.values().cpu().numpy()
        keys = self._comm.all_gather(self._keys[rows], stage=stage)
        columns = self._comm.all_gather(values, stage=stage)
        return RowGradient(np.concatenate(keys), np.concatenate(columns), bool(is_dense[0]))
