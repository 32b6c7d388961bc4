"""Linear maps, biases and activations in pooled memory have the values and gradients of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.nn.linear import Linear, add_bias, elu, linear, relu
from tests.nn.steps import Seen

ROWS = [0, 1, 7, 40_000]  # the last takes blocks of the pool

CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "linear": (lambda x, w, b: linear(x, w), lambda x, w, b: x @ w.t()),
    "linear onto": (
        lambda x, w, b: linear(x, w, x[:, :48] * 2.0),
        lambda x, w, b: x[:, :48] * 2.0 + x @ w.t(),
    ),
    "add_bias": (lambda x, w, b: add_bias(x, b), lambda x, w, b: x + b),
    "relu": (lambda x, w, b: relu(x * 2.0), lambda x, w, b: F.relu(x * 2.0)),
    "elu": (lambda x, w, b: elu(x * 2.0), lambda x, w, b: F.elu(x * 2.0)),
}


def inputs(rows: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows)
    shapes = [(rows, 64), (48, 64), (64,)]
    made = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
    return [x.requires_grad_() for x in made]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name: str, rows: int, dtype: torch.dtype) -> None:
    found: list[list[Any]] = []
    for function in CASES[name]:
        given = inputs(rows, dtype)
        out = function(*given)
        (out * torch.arange(out.shape[1], dtype=dtype)).sum().backward()  # type: ignore[no-untyped-call]
        found.append([out.detach(), *(x.grad for x in given)])
    for ours, theirs in zip(*found, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3 if rows > 7 else 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    assert torch.autograd.gradcheck(CASES[name][0], inputs(5, torch.float64))


@pytest.mark.parametrize("frozen", [0, 1])
def test_frozen_inputs_get_no_gradient(frozen: int) -> None:
    x, w, _ = inputs(9, torch.float64)
    pair = (x, w)
    pair[frozen].requires_grad_(False)
    linear(x, w).sum().backward()  # type: ignore[no-untyped-call]
    assert pair[frozen].grad is None
    assert pair[1 - frozen].grad is not None


def test_other_shapes_are_computed_by_torch() -> None:
    x, w = torch.randn(3, 4, 64), torch.randn(48, 64)
    torch.testing.assert_close(linear(x, w), F.linear(x, w))
    torch.testing.assert_close(add_bias(x, w[0]), x + w[0])
    torch.testing.assert_close(relu(x.clone()), F.relu(x))
    torch.testing.assert_close(elu(x.clone()), F.elu(x))


def test_layer_has_the_initial_weights_of_torch() -> None:
    ours, theirs = Linear(64, 48), nn.Linear(64, 48)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(11, 64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_gradient_with_a_sole_owner_is_changed_in_place() -> None:
    weight = torch.randn(4, 8)
    seen: list[int] = []
    x = torch.randn(50, 8, requires_grad=True)
    y = Seen.apply(relu(Seen.apply(x, seen)), seen)  # type: ignore[no-untyped-call]
    out = linear(y, weight) + linear(y, weight)
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert seen[0] == seen[1]
    torch.testing.assert_close(x.grad, 2 * weight.sum(0) * (x > 0))


def test_shared_gradient_is_not_changed() -> None:
    given = torch.ones(50, 8)
    x = torch.randn(50, 8, requires_grad=True)
    relu(x * 1.0).backward(given)  # type: ignore[no-untyped-call]
    assert (given == 1).all()
    assert x.grad is not None
    assert (x.grad == (x > 0)).all()


def test_gradient_of_two_branches_is_not_changed() -> None:
    x, z = torch.randn(50, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    (relu(x * 1.0) + relu(z * 1.0)).square().sum().backward()  # type: ignore[no-untyped-call]
    both = 2 * (F.relu(x) + F.relu(z)).detach()
    torch.testing.assert_close(x.grad, both * (x > 0))
    torch.testing.assert_close(z.grad, both * (z > 0))


@pytest.mark.parametrize("as_numpy", [False, True])
def test_gradient_that_a_hook_keeps_is_not_changed(as_numpy: bool) -> None:
    kept: list[Any] = []
    weight = torch.randn(4, 8)
    y = relu(torch.randn(50, 8, requires_grad=True) * 1.0)
    y.register_hook(lambda grad: kept.append(grad.numpy() if as_numpy else grad))  # type: ignore[no-untyped-call]
    y.retain_grad()
    linear(y, weight).sum().backward()  # type: ignore[no-untyped-call]
    expected = weight.sum(0).expand(50, 8)
    torch.testing.assert_close(torch.as_tensor(kept[0]), expected)
    torch.testing.assert_close(y.grad, expected)


def test_view_of_a_gradient_is_not_changed() -> None:
    x = torch.randn(50, 8, requires_grad=True)
    relu(x * 1.0).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert (x.grad == (x > 0)).all()


def test_backward_twice_where_the_graph_is_kept() -> None:
    weight = torch.randn(4, 8)
    x = torch.randn(50, 8, requires_grad=True)
    loss = linear(relu(x * 1.0), weight).square().sum()
    first, second = (torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
