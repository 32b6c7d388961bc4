"""What a sync asks of backward."""

from __future__ import annotations

import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.exchange import new_token, start_sync


def test_mirrors_of_what_needs_no_gradient_need_none() -> None:
    def job(comm: Communicator) -> tuple[list[bool], tuple[int, ...]]:
        shard = gt.open_shard(gt.datasets.load("cora"), comm)
        learned = torch.ones(shard.num_masters, 2, requires_grad=True)
        given = torch.ones(shard.num_masters, 1)
        token, fields, arrivals = start_sync(
            [given, learned], new_token(shard.device), shard.channel, shard.plan.sources, 0
        )
        for arrival in arrivals:
            arrival.finish()
        torch.autograd.backward(fields[1].sum() + token)
        assert learned.grad is not None
        return [field.requires_grad for field in fields], tuple(learned.grad.shape)

    needs, shape = gt.run_local(job, workers=2)
    assert needs == [False, True]
    assert shape[1] == 2
