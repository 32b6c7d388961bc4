"""Contract of an aggregator, as a function that anyone can call on one of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.tgar.aggregators import Aggregator, aggregator

__all__ = ["check_aggregator"]

_ROWS, _EDGES, _STEP = 6, 40, 1e-5  # the last row has no edge


def check_aggregator(which: str | Aggregator, *, positive: bool = False, seed: int = 0) -> None:
    """Check that an aggregator may be computed in chunks, by several workers, and backward.

    Random messages in float64 are aggregated in one piece, in chunks of edges, and in partials of
    several workers that are merged. The gradient is compared with finite differences.

    Args:
        which: The aggregator, or its name.
        positive: Whether messages are positive, for aggregators that need such.
        seed: Random seed of the messages.

    Raises:
        ConfigError: If a property does not hold; the message names it.
    """
    reduce = aggregator(which)
    generator = torch.Generator().manual_seed(seed)
    row_e = torch.randint(_ROWS - 1, (_EDGES,), generator=generator)
    key_e = torch.randperm(_EDGES, generator=generator)
    message = torch.randn((_EDGES, 2, 3), generator=generator, dtype=torch.float64)
    score = torch.randn((_EDGES, 2), generator=generator, dtype=torch.float64)
    message = message.abs() + 0.1 if positive else message
    outputs = [score, message] if reduce.scored else [message]
    whole = _partial(reduce, row_e, outputs, key_e, _EDGES)
    value = reduce.finish(whole)

    _require(reduce, "0 for a row without edges", value[-1], torch.zeros_like(value[-1]))
    for chunk in (1, 3, 7):
        found = reduce.finish(_partial(reduce, row_e, outputs, key_e, chunk))
        _require(reduce, f"the same value in chunks of {chunk} edges", found, value)
    for workers in (2, 3):
        on_e = torch.randint(workers, (_EDGES,), generator=generator)
        for held in (on_e, on_e.clamp(min=1)):  # in the second, not by the owner of the rows
            found = _merged(reduce, row_e, outputs, key_e, held)
            _require(reduce, f"the same value from {workers} merged partials", found, value)
    _require_gradient(reduce, row_e, outputs, key_e, whole)


def _partial(
    reduce: Aggregator, row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor, chunk: int
) -> list[Tensor]:
    columns = reduce.start(_ROWS, [t[:0] for t in outputs])
    for first in range(0, len(row_e), chunk):
        some = slice(first, first + chunk)
        reduce.add(columns, row_e[some], [t[some] for t in outputs], key_e[some])
    return columns


def _merged(
    reduce: Aggregator, row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor, on_e: Tensor
) -> Tensor:
    """Aggregate edges that are spread over workers; worker 0 owns the rows."""
    partials = [
        _partial(reduce, row_e[on], [t[on] for t in outputs], key_e[on], _EDGES)
        for on in (on_e == worker for worker in range(int(on_e.max()) + 1))
    ]
    received = [torch.cat(columns) for columns in zip(*partials[1:], strict=True)]
    master_S = torch.arange(_ROWS).repeat(len(partials) - 1)
    return reduce.finish(reduce.merge(partials[0], received, master_S))


def _require_gradient(
    reduce: Aggregator,
    row_e: Tensor,
    outputs: Sequence[Tensor],
    key_e: Tensor,
    columns: Sequence[Tensor],
) -> None:
    """Require that terms sum to the differentiable columns, and give the gradient."""
    number = reduce.num_differentiable
    leaves = [t.clone().requires_grad_() for t in outputs]
    terms = reduce.terms(columns[number:], row_e, leaves, key_e)
    if len(terms) != number:
        raise ConfigError(
            f"{reduce}: expected num_differentiable = {number} terms, got {len(terms)}. Set "
            "num_differentiable to the number of columns that are sums over edges."
        )
    filled = torch.bincount(row_e).nonzero().flatten()
    for column, term in zip(columns, terms, strict=False):
        total = torch.zeros_like(column).index_add(0, row_e, term.detach())
        name = "sums of terms in the differentiable columns"
        _require(reduce, name, total[filled], column[filled])
    wide = [c.detach().clone().requires_grad_() for c in columns[:number]]
    value = reduce.finish([*wide, *columns[number:]])
    direction = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).reshape(value.shape)
    of_columns = torch.autograd.grad((value * direction).sum(), wide)
    if not all(grad.isfinite().all() for grad in of_columns):
        raise ConfigError(
            f"{reduce}: expected a finite gradient for rows without edges, got another. Choose "
            "the value by torch.where before a root or quotient, too."
        )
    found = torch.autograd.grad(terms, leaves, [grad[row_e] for grad in of_columns])
    for at, (leaf, grad) in enumerate(zip(outputs, found, strict=True)):
        step = _STEP * torch.cos(torch.arange(leaf.numel(), dtype=leaf.dtype)).reshape(leaf.shape)
        ends = [
            (reduce.finish(_partial(reduce, row_e, moved, key_e, _EDGES)) * direction).sum()
            for moved in (
                [t + sign * step if n == at else t for n, t in enumerate(outputs)]
                for sign in (1, -1)
            )
        ]
        slope, want = (grad * step).sum() / _STEP, (ends[0] - ends[1]) / (2 * _STEP)
        _require(reduce, "the gradient of finite differences", slope, want, 1e-5)


def _require(
    reduce: Aggregator, what: str, found: Tensor, want: Tensor, tolerance: float = 1e-10
) -> None:
    found, want = found.detach(), want.detach()
    if found.shape != want.shape or not torch.allclose(
        found, want, rtol=tolerance, atol=tolerance, equal_nan=True
    ):
        if found.shape == want.shape:
            got = f"a difference of {(found - want).abs().max():.3g}"
        else:
            got = f"shape {tuple(found.shape)} for {tuple(want.shape)}"
        raise ConfigError(f"{reduce}: expected {what}, got {got}. See the interface of Aggregator.")
