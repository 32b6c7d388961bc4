"""Gradients are summed over workers in buckets; a missing gradient counts as zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphtheta import run_local
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import CollectiveMismatch
from graphtheta.train import gradients as reduce
from graphtheta.train.gradients import broadcast_model, reduce_gradients


def parameters(rank: int) -> list[nn.Parameter]:
    made = [nn.Parameter(torch.zeros(n, dtype=d)) for n, d in _KINDS]
    for index, parameter in enumerate(made):
        if (index + rank) % 3:
            parameter.grad = torch.full_like(parameter, rank + 1 + index)
    made[-1].requires_grad_(False)
    made[-1].grad = None
    return made


_KINDS = [(3, torch.float32), (5, torch.float64), (2, torch.float64), (7, torch.float32)] * 2


@pytest.mark.parametrize("bucket_bytes", [1, 40, 1 << 20])
def test_reduce_sums_over_workers(bucket_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "BUCKET_BYTES", bucket_bytes)

    def work(comm: Communicator) -> list[torch.Tensor | None]:
        mine = parameters(comm.rank)
        reduce_gradients(mine, comm)
        return [p.grad for p in mine]

    grads = run_local(work, workers=3, timeout_s=20)
    for index, grad in enumerate(grads[:-1]):
        expected = sum(rank + 1 + index for rank in range(3) if (index + rank) % 3)
        assert grad is not None
        assert torch.equal(grad, torch.full_like(grad, expected))
    assert grads[-1] is None  # frozen


def test_one_worker_has_zeros_too() -> None:
    mine = parameters(0)
    reduce_gradients(mine, SingleCommunicator())
    assert [None if p.grad is None else p.grad.unique().tolist() for p in mine] == [
        [0.0], [2.0], [3.0], [0.0], [5.0], [6.0], [0.0], None,
    ]  # fmt: skip


def test_broadcast_gives_all_workers_the_weights_of_rank_0() -> None:
    def work(comm: Communicator) -> float:
        model = nn.Linear(2, 2)
        nn.init.constant_(model.weight, float(comm.rank + 5))
        broadcast_model(model, comm)
        spread = model.weight.detach().sub(5).abs().max().reshape(1).numpy().copy()
        comm.all_reduce(spread, "max", stage="spread")
        return float(spread[0])

    assert run_local(work, workers=3, timeout_s=20) == 0


def test_broadcast_raises_when_models_differ() -> None:
    def work(comm: Communicator) -> None:
        broadcast_model(nn.Linear(2, 2 + comm.rank), comm)

    with pytest.raises(CollectiveMismatch, match="rank"):
        run_local(work, workers=2, timeout_s=20)
