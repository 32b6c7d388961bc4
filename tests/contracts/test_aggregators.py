"""Contract of every entry of `AGGREGATORS`: a partial does not depend on how edges are split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.tgar import Moments, Several, check_aggregator
from graphtheta.tgar.aggregators import AGGREGATORS, Aggregator, Sum, aggregator

ROWS, EDGES = 6, 40  # the last row has no edge
NAMES = sorted(AGGREGATORS)
inf, nan = float("inf"), float("nan")


def softmax(score: Tensor, message: Tensor) -> Tensor:
    weight = score.softmax(0)
    return (weight.reshape(*weight.shape, *(1,) * (message.dim() - weight.dim())) * message).sum(0)


DEFINITIONS: dict[str, Callable[..., Tensor]] = {
    "sum": lambda m: m.sum(0),
    "mean": lambda m: m.mean(0),
    "max": lambda m: m.amax(0),
    "min": lambda m: m.amin(0),
    "softmax": softmax,
    "std": lambda m: m.std(0, correction=0),
}


def edges(name: str, seed: int = 0) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return destination rows, outputs of gather, and edge keys, of unordered edges."""
    generator = torch.Generator().manual_seed(seed)
    row_e = torch.randint(ROWS - 1, (EDGES,), generator=generator)
    message = torch.randn((EDGES, 2, 3), generator=generator, dtype=torch.float64)
    score = 5 * torch.randn((EDGES, 2), generator=generator, dtype=torch.float64)
    key_e = torch.randperm(EDGES, generator=generator)
    return row_e, [score, message] if AGGREGATORS[name].scored else [message], key_e


def partial_of(
    reduce: Aggregator,
    row_e: Tensor,
    outputs: Sequence[Tensor],
    key_e: Tensor,
    chunk: int = EDGES,
    rows: int = ROWS,
) -> list[Tensor]:
    columns = reduce.start(rows, outputs)
    for first in range(0, len(row_e), chunk):
        some = slice(first, first + chunk)
        reduce.add(columns, row_e[some], [t[some] for t in outputs], key_e[some])
    return columns


def merged(
    reduce: Aggregator,
    row_e: Tensor,
    outputs: Sequence[Tensor],
    key_e: Tensor,
    worker_e: Tensor,
    rows: int = ROWS,
) -> Tensor:
    """Aggregate edges that are spread over workers: worker 0 holds the masters."""
    partials = [
        partial_of(reduce, row_e[on], [t[on] for t in outputs], key_e[on], rows=rows)
        for on in (worker_e == w for w in range(int(worker_e.max()) + 1))
    ]
    received = [torch.cat(columns) for columns in zip(*partials[1:], strict=True)]
    master_S = torch.arange(rows).repeat(len(partials) - 1)
    return reduce.finish(reduce.merge(partials[0], received, master_S))


class PowerMean(Moments):
    """The power mean of positive messages."""

    def __init__(self, power: float) -> None:
        self.power = power

    def functions(self, message: Tensor) -> Sequence[Tensor]:
        return (message**self.power,)

    def value(self, means: Sequence[Tensor]) -> Tensor:
        return means[0] ** (1 / self.power)


class Root(Sum):
    def finish(self, columns: Sequence[Tensor]) -> Tensor:
        return columns[0].abs().sqrt()


class Last(Sum):
    def add(
        self, columns: Sequence[Tensor], row_e: Tensor, outputs: Sequence[Tensor], key_e: Tensor
    ) -> None:
        columns[0][row_e] = outputs[0]


class Half(Sum):
    def finish(self, columns: Sequence[Tensor]) -> Tensor:
        return columns[0].detach() / 2 + columns[0] / 2


class Two(PowerMean):
    num_differentiable = 2


def test_the_public_check_accepts_all_aggregators() -> None:
    for name in NAMES:
        check_aggregator(name)
    check_aggregator(Several("mean", "max", "min", "std"))
    check_aggregator(PowerMean(3.0), positive=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Root(), "finite gradient for rows without edges"),
        (Last(), "same value from 2 merged partials, got a difference"),
        (Half(), "the gradient of finite differences"),
        (Two(2.0), r"num_differentiable = 2 terms, got 1"),
    ],
)
def test_the_public_check_names_what_is_wrong(wrong: Aggregator, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_aggregator(wrong)


def test_several_refuses_scores() -> None:
    with pytest.raises(ConfigError, match="expected aggregators without scores, got mean, softmax"):
        Several("mean", "softmax")


@pytest.mark.parametrize("name", NAMES)
def test_aggregator_is_its_definition(name: str) -> None:
    row_e, outputs, key_e = edges(name)
    got = aggregator(name).finish(partial_of(AGGREGATORS[name], row_e, outputs, key_e))
    for row in range(ROWS - 1):
        want = DEFINITIONS[name](*(t[row_e == row] for t in outputs))
        torch.testing.assert_close(got[row], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_row_without_edges_is_zero(name: str) -> None:
    row_e, outputs, key_e = edges(name)
    for count in (0, EDGES):
        some = [t[:count] for t in outputs]
        columns = partial_of(AGGREGATORS[name], row_e[:count], some, key_e[:count])
        assert (AGGREGATORS[name].finish(columns)[-1] == 0).all()


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("name", NAMES)
def test_aggregator_does_not_depend_on_chunks(name: str, chunk: int) -> None:
    reduce, (row_e, outputs, key_e) = AGGREGATORS[name], edges(name)
    got = reduce.finish(partial_of(reduce, row_e, outputs, key_e, chunk))
    want = reduce.finish(partial_of(reduce, row_e, outputs, key_e))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("workers", [2, 3, 7])
@pytest.mark.parametrize("name", NAMES)
def test_aggregator_does_not_depend_on_workers(name: str, workers: int) -> None:
    reduce, (row_e, outputs, key_e) = AGGREGATORS[name], edges(name)
    want = reduce.finish(partial_of(reduce, row_e, outputs, key_e))
    worker_e = torch.randint(workers, (EDGES,), generator=torch.Generator().manual_seed(1))
    worker_e[0] = workers - 1
    got = merged(reduce, row_e, outputs, key_e, worker_e)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    # All edges are on other workers than the master.
    got = merged(reduce, row_e, outputs, key_e, worker_e.clamp(min=1))
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_differentiable_columns_are_sums_of_terms(name: str) -> None:
    # So backward can differentiate a chunk of edges by itself.
    reduce, (row_e, outputs, key_e) = AGGREGATORS[name], edges(name)
    columns = partial_of(reduce, row_e, outputs, key_e, chunk=7)
    constants = columns[reduce.num_differentiable :]
    terms = reduce.terms(constants, row_e, outputs, key_e)
    assert len(terms) == reduce.num_differentiable
    for column, term in zip(columns, terms, strict=False):
        want = torch.zeros_like(column).index_add(0, row_e, term)
        torch.testing.assert_close(column[:-1], want[:-1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_kept(name: str) -> None:
    reduce, (row_e, outputs, key_e) = AGGREGATORS[name], edges(name)
    first, last = (row_e == 2).nonzero().flatten()[[0, -1]].tolist()
    for at in (first, last):
        poisoned = [t.clone() for t in outputs]
        poisoned[0][at] = nan  # the score, if there is one
        got = reduce.finish(partial_of(reduce, row_e, poisoned, key_e, chunk=3))
        assert got[2].isnan().all()
        assert not got[[0, 1, 3, 4, 5]].isnan().any()
        for on in (0, 1):
            worker_e = torch.full((EDGES,), 1 - on)
            worker_e[at] = on
            spread = merged(reduce, row_e, poisoned, key_e, worker_e)
            assert spread[2].isnan().all()
            assert not spread[[0, 1, 3, 4, 5]].isnan().any()


@pytest.mark.parametrize("name", ["max", "min"])
def test_tie_goes_to_the_lowest_edge_key(name: str) -> None:
    reduce = AGGREGATORS[name]
    key_e = torch.tensor([8, 3, 5, -2, 9])
    for fill in (1.0, 0.0, -1.0, inf, -inf, nan):
        outputs = [torch.full((5, 2), fill)]
        row_e = torch.tensor([0, 0, 0, 1, 1])
        for chunk in (1, 2, 5):
            value, winner = partial_of(reduce, row_e, outputs, key_e, chunk, rows=2)
            torch.testing.assert_close(value, torch.full((2, 2), fill), equal_nan=True)
            assert winner.tolist() == [[3, 3], [-2, -2]]
        own = partial_of(reduce, row_e[:1], [outputs[0][:1]], key_e[:1], rows=2)
        other = partial_of(reduce, row_e[1:], [outputs[0][1:]], key_e[1:], rows=2)
        value, winner = reduce.merge(own, other, torch.arange(2))
        torch.testing.assert_close(value, torch.full((2, 2), fill), equal_nan=True)
        assert winner.tolist() == [[3, 3], [-2, -2]]


@pytest.mark.parametrize("name", ["max", "min"])
def test_gradient_of_a_tie_goes_to_one_worker(name: str) -> None:
    reduce = AGGREGATORS[name]
    own = torch.tensor([[2.0], [2.0]], requires_grad=True)
    theirs = torch.tensor([[2.0], [2.0], [2.0]], requires_grad=True)
    keys, their_keys = torch.tensor([[4], [1]]), torch.tensor([[3], [2], [2**40]])
    value, _ = reduce.merge([own, keys], [theirs, their_keys], torch.tensor([0, 1, 0]))
    value.sum().backward()
    assert own.grad is not None
    assert theirs.grad is not None
    assert own.grad.flatten().tolist() == [0, 1]
    assert theirs.grad.flatten().tolist() == [1, 0, 0]


def test_softmax_of_masked_edges() -> None:
    reduce = AGGREGATORS["softmax"]
    row_e = torch.tensor([0, 0, 1, 1, 2])
    score = torch.tensor([-inf, -inf, -inf, 3.0, 1.0], requires_grad=True)
    message = torch.arange(10.0).reshape(5, 2)
    for chunk in (1, 2, 5):
        with torch.no_grad():
            columns = partial_of(reduce, row_e, [score, message], row_e, chunk, rows=3)
        got = reduce.finish(columns)
        torch.testing.assert_close(got, torch.stack([torch.zeros(2), message[3], message[4]]))
        terms = reduce.terms(columns[2:], row_e, [score, message], row_e)
        (grad,) = torch.autograd.grad([t.sum() for t in terms], score)
        assert grad.isfinite().all()
    worker_e = torch.tensor([0, 1, 0, 1, 1])
    with torch.no_grad():
        spread = merged(reduce, row_e, [score, message], row_e, worker_e, rows=3)
    torch.testing.assert_close(spread, got)


def test_softmax_does_not_overflow() -> None:
    reduce = AGGREGATORS["softmax"]
    score = torch.tensor([1e4, -1e4, 9999.0, 3e4])
    message = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    row_e, keys = torch.zeros(4, dtype=torch.int64), torch.arange(4)
    got = reduce.finish(partial_of(reduce, row_e, [score, message], keys, 1, rows=1))
    torch.testing.assert_close(got, torch.tensor([[8.0]]))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_softmax_takes_a_score_a_column_or_a_head(shape: tuple[int, ...]) -> None:
    reduce, row_e = AGGREGATORS["softmax"], torch.zeros(4, dtype=torch.int64)
    score, message = torch.randn(4, *shape), torch.randn(4, *(shape or (3,)))
    got = reduce.finish(partial_of(reduce, row_e, [score, message], row_e, rows=1))
    torch.testing.assert_close(got[0], softmax(score, message))


def test_softmax_raises_config_error_when_score_does_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"message's shape \(2, 3\), or .* got \(3,\)"):
        AGGREGATORS["softmax"].start(1, [torch.zeros(4, 3), torch.zeros(4, 2, 3)])


def test_mean_counts_beyond_what_float32_can() -> None:
    reduce = AGGREGATORS["mean"]
    total, count = reduce.start(1, [torch.zeros(0, 1)])
    count += 2**24
    total += 2.0**24 + 2
    row_e = torch.zeros(2, dtype=torch.int64)
    reduce.add([total, count], row_e, [torch.ones(2, 1)], row_e)
    assert count.item() == 2**24 + 2
    assert reduce.finish([total, count]).dtype == torch.float32


def test_aggregator_raises_config_error_when_unknown() -> None:
    with pytest.raises(ConfigError, match=r"expected one of max, mean, .*got 'median'"):
        aggregator("median")
