"""Gradients with one owner are found; where torch does not tell, none is taken for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from graphtheta.nn.linear import relu
from graphtheta.runtime import ownership
from graphtheta.runtime.ownership import is_sole_owner


class Record(torch.autograd.Function):
    """Identity that notes whether its gradient had one owner."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, found: list[bool]) -> Tensor:
        ctx.found = found
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        alone = is_sole_owner(grad)
        ctx.found.append(alone)
        return grad.clone(), None


def recorded(use: Callable[[Tensor], Tensor]) -> bool:
    """Return what `is_sole_owner` says of the gradient of y, where `use` makes the loss of y."""
    found: list[bool] = []
    y: Tensor = Record.apply(torch.ones(3, requires_grad=True), found)  # type: ignore[no-untyped-call]
    use(y).backward()  # type: ignore[no-untyped-call]
    return found[0]


def kept_by_a_hook(y: Tensor, kept: list[Tensor]) -> Tensor:
    y.register_hook(kept.append)
    return (y * 2.0).sum()


@pytest.fixture(autouse=True)
def _measured_again() -> Iterator[None]:
    ownership._counts_of_single_owner.cache_clear()
    yield
    ownership._counts_of_single_owner.cache_clear()


def test_single_owner_is_found() -> None:
    assert recorded(lambda y: (y * 2.0).sum())


def test_gradient_kept_by_a_hook_has_two_owners() -> None:
    kept: list[Tensor] = []
    assert not recorded(lambda y: kept_by_a_hook(y, kept))


def test_gradient_of_two_summands_has_two_owners() -> None:
    found: list[bool] = []
    x = torch.ones(3, requires_grad=True)
    y: Tensor = Record.apply(x, found) + Record.apply(x, found)  # type: ignore[no-untyped-call]
    (y * 2.0).sum().backward()  # type: ignore[no-untyped-call]
    assert found == [False, True]  # the second is the last to hold it


def _missing(self: Tensor) -> int:
    raise AttributeError("'Tensor' object has no attribute '_use_count'")


STORAGE, TENSOR = (torch._C, "_storage_Use_Count"), (Tensor, "_use_count")
LACKS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no storage count": lambda patch: patch.delattr(*STORAGE),
    "no tensor count": lambda patch: patch.setattr(*TENSOR, _missing, raising=False),
    "storage count of other arguments": lambda patch: patch.setattr(*STORAGE, lambda: 2),
    "storage count that stays": lambda patch: patch.setattr(*STORAGE, lambda storage: 2),
    "tensor count that stays": lambda patch: patch.setattr(*TENSOR, lambda _: 1, raising=False),
}


@pytest.mark.parametrize("lack", LACKS)
def test_without_reliable_counts_nothing_is_overwritten(
    lack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    LACKS[lack](monkeypatch)
    assert not recorded(lambda y: (y * 2.0).sum())
    x = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    relu(x * 2.0).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 2.0]]
