"""Optimiser updates from the results of micro-batches, and the versions that they make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import ShardedParameter, row_keys
from graphtheta.shard.shard import Shard
from graphtheta.train.elastic.layout import ModelLayout
from graphtheta.train.elastic.source import Contribution, RowGradient
from graphtheta.train.micro_batches import sum_in_order

__all__ = ["Updates", "Version"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Version:
    """Parameters after a number of steps.

    Attributes:
        state: Parameters without rows, and buffers, as `ModelLayout.state` returns them.
        tables: Learned rows by parameter. If None, they are those of the model.
    """

    state: Array
    tables: dict[str, Tensor] | None


class Updates:
    """Model and optimiser of a run, which are updated from the results of micro-batches.

    Args:
        trainer: A `Trainer` of one worker that holds the whole graph.

    Attributes:
        layout: Order of the parameters in arrays.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, self._micro_batches = trainer, int(trainer.micro_batches)
        self.layout = ModelLayout(trainer.model)
        shard: Shard = trainer.shard
        self._tables = {n: _Table(p, shard) for n, p in self.layout.sharded.items()}

    # -- results ----------------------------------------------------------------------------------

    def check(self, result: Contribution) -> bool:
        """Check the shapes of a result, and return whether all its numbers are finite.

        Raises:
            ConfigError: If an array has a wrong shape or type, or a row is not in the graph.
        """
        dtype = self.layout.numpy_dtype
        _need("gradients", result.gradients, (self.layout.num_gradients,), dtype)
        if result.rows.keys() != self._tables.keys():
            names = ", ".join(self._tables) or "no parameter"
            got = ", ".join(result.rows) or "none"
            raise ConfigError(
                f"push: expected gradients of rows of {names}, got {got}. Correct it."
            )
        arrays = [np.array([result.loss, result.count]), result.gradients]
        for name, rows in result.rows.items():
            table = self._tables[name]
            _need(f"keys of '{name}'", rows.keys, (len(rows.keys),), np.dtype(np.int64))
            shape = (len(rows.keys), table.parameter.shape[1])
            _need(f"rows of '{name}'", rows.values, shape, dtype)
            table.positions(rows.keys)
            arrays.append(rows.values)
        return all(bool(np.isfinite(array).all()) for array in arrays)

    def apply(self, results: Sequence[Contribution]) -> tuple[float, float]:
        """Update the parameters by the results of a step, in the order of its micro-batches.

        Returns:
            Mean loss of the step's targets, and their number or summed weight.
        """
        sums = np.array([[result.loss, result.count] for result in results])
        loss, count = sum_in_order(sums).tolist()
        weight = count or 1.0  # a step whose targets weigh nothing has no loss
        is_whole = self._micro_batches == 1  # and the gradients are those of the mean already
        total = sum_in_order([result.gradients for result in results])
        if not is_whole:
            total /= weight
        self._trainer.optimizer.zero_grad()
        self.layout.assign(total)
        for name, table in self._tables.items():
            rows = [result.rows[name] for result in results]
            table.parameter.grad = table.gradient(rows, None if is_whole else weight)
        self._trainer.runner.update()
        return loss / weight, count

    # -- versions ---------------------------------------------------------------------------------

    def version(self, *, whole: bool) -> Version:
        """Return the present version.

        Args:
            whole: Whether to copy learned rows, so that the version outlives the next update.
        """
        if not whole or not self._tables:
            return Version(self.layout.state(), None if self._tables else {})
        self._trainer.rows.catch_up()
        return Version(
            self.layout.state(),
            {name: table.parameter.copy() for name, table in self._tables.items()},
        )

    def read_rows(self, version: Version, name: str, keys: NDArray[Any]) -> Array:
        """Return learned rows of a version.

        Raises:
            ConfigError: If there is no such parameter or row.
        """
        if name not in self._tables:
            raise ConfigError(
                f"pull: expected one of {', '.join(self._tables) or 'no'} parameters with learned "
                f"rows, got '{name}'. Correct it."
            )
        table = self._tables[name]
        rows = torch.from_numpy(table.positions(keys))
        if version.tables is not None:
            found: Array = version.tables[name][rows].numpy()
            return found
        if table.parameter.before_read is not None:
            table.parameter.before_read(torch.unique(rows))
        found = table.parameter.detach()[rows].cpu().numpy()
        return found

    @contextmanager
    def loaded(self, version: Version) -> Iterator[None]:
        """Context in which the model has the parameters of a version."""
        now = self.version(whole=version.tables is not None)
        self._load(version)
        try:
            yield
        finally:
            self._load(now)

    def _load(self, version: Version) -> None:
        self.layout.load(version.state)
        for name, rows in (version.tables or {}).items():
            with torch.no_grad():
                self._tables[name].parameter.copy_(rows)


class _Table:
    """Learned rows of a parameter, found by node key."""

    def __init__(self, parameter: ShardedParameter, shard: Shard) -> None:
        self.parameter = parameter
        keys = row_keys(shard, parameter.node_type)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    def positions(self, keys: NDArray[Any]) -> NDArray[Any]:
        """Return the positions of rows.

        Raises:
            ConfigError: If a key is not that of a row.
        """
        found = np.searchsorted(self._keys, keys)
        is_there = found < len(self._keys)
        is_there[is_there] = self._keys[found[is_there]] == keys[is_there]
        if not is_there.all():
            raise ConfigError(
                f"rows: expected node keys of the graph, got {keys[~is_there][0]}. Use the store "
                "of the run."
            )
        return self._order[found]

    def gradient(self, results: Sequence[RowGradient], weight: float | None) -> Tensor | None:
        """Return the gradient of a step, as its micro-batches would add up in one job.

        Args:
            results: Gradients of the micro-batches.
            weight: Sum of the weights of the targets; None if the gradients are those of the mean.
        """
        shape, is_dense = self.parameter.shape, any(rows.is_dense for rows in results)
        keys = np.concatenate([rows.keys for rows in results])
        if weight is None and not is_dense and not len(keys):
            return None
        distinct, position = np.unique(self.positions(keys), return_inverse=True)
        total = np.zeros((len(distinct), shape[1]), results[0].values.dtype)
        start = 0
        for rows in results:
            stop = start + len(rows.keys)
            total[position[start:stop]] += rows.values  # rows of a micro-batch are distinct
            start = stop
        if weight is not None:
            total /= weight
            is_dense = not self.parameter.is_sparse_for(len(distinct))
        gradient = torch.sparse_coo_tensor(
            torch.from_numpy(distinct)[None],
            torch.from_numpy(total),
            shape,
            device=self.parameter.device,
            check_invariants=False,
            is_coalesced=True,
        )
        return gradient.to_dense() if is_dense else gradient


def _need(what: str, array: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise ConfigError(
            f"push: expected {what} of shape {shape} and type {dtype}, got {array.shape} and "
            f"{array.dtype}. Use the model of the run."
        )
