"""Gradients through a sync."""

from __future__ import annotations

import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.exchange.autograd import new_token, start_sync


def test_mirrors_of_what_needs_no_gradient_need_none() -> None:
    def job(comm: Communicator) -> tuple[list[bool], float]:
        shard = gt.open_shard(gt.datasets.load("cora"), comm)
        learned = torch.ones(shard.num_masters, 2, requires_grad=True)
        given = torch.ones(shard.num_masters, 1)
        token, masters, mirrors, syncs = start_sync(
            [given, learned], new_token(shard.device), shard.channel, shard.plan.sources, 0
        )
        for sync in syncs:
            sync.finish()
        torch.autograd.backward((2 * masters[1]).sum() + (3 * mirrors[1]).sum() + token)
        assert learned.grad is not None
        assert len(mirrors[1]) == shard.num_mirrors
        assert masters[1].data_ptr() == learned.data_ptr()  # nothing was copied
        return [x.requires_grad for x in (*masters, *mirrors)], learned.grad.mean().item()

    needs, mean = gt.run_local(job, workers=2)
    assert needs == [False, True, False, True]
    assert mean > 2  # three more for each mirror
