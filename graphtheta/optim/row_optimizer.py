"""Optimiser that updates learned rows when a step reads them, with the results of the dense one.

A dense optimiser moves every row in every step, also rows that the step does not read: by their
moments, which decay, and by weight decay. Here a row makes up for these moves when it is next read.
They are a recursion without a closed form, so that they are repeated step by step, but for one row
at a time, which stays in the cache. Without weight decay in the gradients they vanish, because the
first moment decays faster than the root of the second: after about 230 steps in float32 and 420 in
float64, their sum is below the rounding of one move at the largest learning rate, and they are left
out. A row makes up for a step with the learning rate of that step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.nn.embedding import ShardedParameter
from graphtheta.optim.row_kernels import AdamNumbers, advance_rows

__all__ = ["RowOptimizer"]

_PER_THREAD = 1 << 14  # least number of values for each thread
_ALL_STEPS = 1 << 60
# Options of torch's optimisers that the updates of rows do not have.
_OTHER = ("amsgrad", "maximize", "momentum", "capturable", "differentiable")


class RowOptimizer:
    """Optimiser of torch whose sharded parameters are updated in the rows that a step reads.

    The results are those of the optimiser itself, to rounding: SGD, Adam or AdamW, with or without
    weight decay. A step costs what the rows that it reads cost, and the steps that these have
    missed. A step that reads most rows is the optimiser's own. So are all steps on a GPU, and those
    of other optimisers.

    Rows are updated late only inside of `lazy()`, and its end makes up for all of them.

    Args:
        optimizer: Optimiser of all parameters. It keeps the state of the rows.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        parameters = [
            (parameter, number, group)
            for number, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        ]
        self._tables = [
            _Table(parameter, number, optimizer, index)
            for index, (parameter, number, group) in enumerate(parameters)
            if isinstance(parameter, ShardedParameter) and _is_supported(optimizer, group)
        ]

    @contextmanager
    def lazy(self) -> Iterator[None]:
        """Context in which reading a row of a sharded parameter first makes up for its updates."""
        tables = [table for table in self._tables if table.is_trained]
        try:
            for table in tables:
                table.start()
            yield
        finally:
            for table in tables:
                table.stop()

    def catch_up(self) -> None:
        """Make up for all missed updates of all rows."""
        for table in self._tables:
            table.catch_up(None)

    def missed(self) -> dict[int, tuple[Tensor, list[float]]]:
        """Return what rows have missed, by number of their parameter in the optimiser.

        Returns:
            (M,) int64 number of updates that each row has missed, and the learning rates of the
            last updates, as many as rows of this worker have missed or more; of parameters whose
            rows are updated late now.
        """
        return {table.number: table.missed() for table in self._tables if table.is_late}

    def load_missed(self, missed: Mapping[int, tuple[Tensor, list[float]]]) -> None:
        """Set what rows have missed when `lazy()` starts, from what `missed` has returned."""
        for table in self._tables:
            table.before = missed.get(table.number)

    def zero_grad(self) -> None:
        """Reset the gradients of all parameters."""
        self._optimizer.zero_grad()

    def step(self) -> None:
        """Update all parameters by their gradients."""
        for table in self._tables:
            table.update()
        self._optimizer.step()


class _Table:
    """Rows of one sharded parameter, and the last step that each of them has.

    Attributes:
        number: Number of the parameter in the optimiser.
        before: What rows have missed when `start` is called, as `missed` returns it.
    """

    def __init__(
        self, weight: ShardedParameter, group: int, optimizer: torch.optim.Optimizer, number: int
    ) -> None:
        self._weight, self._group, self._optimizer = weight, group, optimizer
        self.number, self.before = number, cast(tuple[Tensor, list[float]] | None, None)
        self._is_adam = not isinstance(optimizer, torch.optim.SGD)
        self._step, self._last = 0, np.empty(0, np.int64)
        self._rates: list[float] = []  # learning rates of the last steps, up to `_step`
        self._options = self._present_options()

    def _present_options(self) -> dict[str, Any]:
        """Return the options of the rows' group, which may change between steps, but for `lr`."""
        group = self._optimizer.param_groups[self._group]
        return {name: group[name] for name in ("betas", "eps", "weight_decay") if name in group}

    @property
    def is_trained(self) -> bool:
        return self._weight.requires_grad and self._weight.device.type == "cpu"

    @property
    def is_late(self) -> bool:
        return self._weight.before_read is not None

    def missed(self) -> tuple[Tensor, list[float]]:
        return torch.from_numpy(self._step - self._last), list(self._rates)

    def start(self) -> None:
        weight, state = self._weight, self._optimizer.state[self._weight]
        if self._is_adam and not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = weight.zeros(), weight.zeros()
        self._step = int(state["step"]) if self._is_adam else 0
        self._last = np.full(len(weight), self._step)
        if self.before is not None:
            self._last -= self.before[0].numpy()
            self._rates, self.before = list(self.before[1]), None
        self._options = self._present_options()
        weight.before_read = self.catch_up

    def stop(self) -> None:
        self.catch_up(None)
        self._weight.before_read, self._last = None, np.empty(0, np.int64)

    def catch_up(self, rows: Tensor | None) -> None:
        """Make up for the missed updates of distinct rows, or of all rows."""
        if rows is None:
            missing = np.flatnonzero(self._last < self._step)
        else:
            some = rows.numpy()
            missing = some[self._last[some] < self._step]
        if len(missing):
            self._advance(missing, None)
        if rows is None:
            self._rates.clear()

    def update(self) -> None:
        """Apply a step to the rows of a sparse gradient. A dense one is left to the optimiser."""
        gradient = self._weight.grad
        if gradient is None or self._weight.before_read is None:
            return
        if self._options != (present := self._present_options()):
            self.catch_up(None)  # by the options of the missed steps
            self._options = present
        if not gradient.is_sparse:
            self.catch_up(None)
            self._step += 1
            self._last.fill(self._step)
            return
        gradient = gradient.coalesce()
        self._step += 1
        self._rates.append(float(self._optimizer.param_groups[self._group]["lr"]))
        self._advance(gradient.indices()[0].numpy(), gradient.values())
        self._weight.grad = None
        if self._is_adam:
            self._optimizer.state[self._weight]["step"].fill_(self._step)

    def _advance(self, rows: NDArray[np.int64], gradient: Tensor | None) -> None:
        if not len(rows):
            return
        first = int(self._last[rows].min()) + 1
        advance = self._adam(first, gradient) if self._is_adam else self._sgd(first, gradient)
        threads = min(torch.get_num_threads(), -(-len(rows) * self._weight.shape[1] // _PER_THREAD))
        if threads > 1:
            # More pieces than threads, since rows have missed more or fewer steps.
            bounds = [len(rows) * n // (8 * threads) for n in range(8 * threads + 1)]
            list(_threads(threads).map(partial(advance, rows), bounds[:-1], bounds[1:]))
        else:
            advance(rows, 0, len(rows))

    def _adam(self, first: int, gradient: Tensor | None) -> Any:
        options, state, step = self._options, self._optimizer.state[self._weight], self._step
        (beta1, beta2), decay = options["betas"], options["weight_decay"]
        weight = self._weight.detach().numpy()
        dtype, limits = weight.dtype.type, np.finfo(weight.dtype)
        is_decoupled = isinstance(self._optimizer, torch.optim.AdamW)
        steps, missed = np.arange(first, step + 1), step - first + (gradient is None)
        rates = self._rates_from(first)
        sizes, roots = rates / (1 - beta1**steps), np.sqrt(1 - beta2**steps)
        shrinks = (1 - rates * decay if is_decoupled else np.ones(len(rates))).astype(dtype)
        # The factors are rounded first, as in a step: in float32 that shows after a thousand steps.
        factors = (shrinks, np.full(len(rates), beta1, dtype), np.full(len(rates), beta2, dtype))
        numbers = (1 - beta1, beta2, 1 - beta2, options["eps"])
        added = 0 if is_decoupled else decay
        terms = _ALL_STEPS if added else _terms(beta1, beta2, float(limits.eps))
        arguments: Any = (
            weight,
            (state["exp_avg"].numpy(), state["exp_avg_sq"].numpy()),
            self._last,
            step,
            terms,
            (sizes.astype(dtype), roots.astype(dtype), shrinks),
            tuple(_products(some[:missed].astype(np.float64)).astype(dtype) for some in factors),
            AdamNumbers(*map(dtype, (*numbers, added, limits.tiny))),
        )
        columns = np.empty((0, weight.shape[1]), dtype) if gradient is None else gradient.numpy()

        def advance(rows: NDArray[np.int64], start: int, stop: int) -> None:
            advance_rows(rows[start:stop], columns[start:stop], *arguments)

        return advance

    def _sgd(self, first: int, gradient: Tensor | None) -> Any:
        decay, rates = self._options["weight_decay"], self._rates_from(first)
        before = self._step - (gradient is not None)
        factors = _products(1 - rates[: before - first + 1] * decay)
        weight = self._weight.detach().numpy()

        def advance(rows: NDArray[np.int64], start: int, stop: int) -> None:
            some = rows[start:stop]
            if decay or gradient is not None:
                values = weight[some]
                missed = (before - self._last[some])[:, None]
                values *= factors[missed].astype(weight.dtype)
                if gradient is not None:
                    columns = gradient[start:stop].numpy()
                    values -= float(rates[-1]) * (columns + decay * values)
                weight[some] = values
            self._last[some] = self._step

        return advance

    def _rates_from(self, first: int) -> NDArray[np.float64]:
        """Return the learning rates of the steps from `first` to the last one."""
        return np.array(self._rates[first - self._step - 1 :], np.float64)


def _products(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the products of the last n factors, for n from 0: (F + 1,)."""
    if len(factors) and (factors == factors[0]).all():
        powers: NDArray[np.float64] = factors[0] ** np.arange(len(factors) + 1)
        return powers
    return np.concatenate([[1.0], np.cumprod(factors[::-1])])


def _is_supported(optimizer: torch.optim.Optimizer, options: dict[str, Any]) -> bool:
    """Return whether the updates of rows are those of an optimiser with these options."""
    if type(optimizer) is torch.optim.Adam and options.get("decoupled_weight_decay"):
        return False  # use AdamW
    known = type(optimizer) in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
    return known and not any(options.get(name) for name in _OTHER)


def _terms(beta1: float, beta2: float, rounding: float) -> int:
    """Return after how many steps the moves of a row without gradient may be left out.

    A move is at most beta1 / sqrt(beta2) times the one before, apart from the bias corrections,
    which let it grow 15-fold at most. What is left out is therefore below the rounding of one move.
    """
    if beta1 == 0:
        return 0
    ratio = beta1 / math.sqrt(beta2)
    if ratio >= 1:
        return _ALL_STEPS
    return math.ceil(math.log(rounding / 256 * (1 - ratio)) / math.log(ratio))


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(number, os.cpu_count() or 1), "graphtheta-rows")
