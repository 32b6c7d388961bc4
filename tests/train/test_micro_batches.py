"""Gradients of micro-batches are summed in ascending order, whichever group computed them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.comm.threads import run_local
from graphtheta.comm.timers import StageTimers
from graphtheta.train import gradients as reduce
from graphtheta.train.micro_batches import MicroBatches

NUMBER = 5
TAKEN: dict[str, list[list[int]]] = {
    "in turns": [[0, 2, 4], [1, 3]],
    "all by the first": [[0, 1, 2, 3, 4], []],
    "all by the last": [[], [0, 1, 2, 3, 4]],
    "the end by the first": [[3, 4], [0, 1, 2]],
}


def gradient(step: int, number: int, rank: int) -> torch.Tensor:
    """Return the gradient of a micro-batch on a worker of any group."""
    rng = np.random.default_rng([step, number, rank])
    return torch.from_numpy(rng.standard_normal(11)).float()


@pytest.mark.parametrize("bucket_bytes", [reduce.BUCKET_BYTES, 1])
@pytest.mark.parametrize("taken", TAKEN)
def test_sum_is_in_order_for_any_assignment(
    taken: str, bucket_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduce, "BUCKET_BYTES", bucket_bytes)

    def work(comm: Communicator) -> Any:
        groups = Groups(comm, 2)
        model = nn.Sequential(nn.Linear(2, 3, bias=True), nn.Linear(1, 1), nn.Linear(1, 1))
        model[2].requires_grad_(False)
        micro = MicroBatches(NUMBER, groups, model, StageTimers())
        found = []
        for step in range(2):
            for number in TAKEN[taken][groups.index]:
                model.zero_grad()
                reduce.assign_gradients(
                    gradient(step, number, groups.comm.rank), list(model.parameters())[:4]
                )
                micro.add(number, 0.5 * number, number + groups.comm.rank)
            mean = micro.finish()
            everyone = comm.all_gather(
                reduce.flatten_gradients(list(model.parameters())[:4]).numpy(), stage="gradients"
            )
            assert all(np.array_equal(theirs, everyone[0]) for theirs in everyone)
            found.append((mean, everyone[0]))
        assert model[2].weight.grad is None
        assert micro.by_group() == [2 * len(numbers) for numbers in TAKEN[taken]]
        return found

    count = sum(2 * number + 1 for number in range(NUMBER))
    for step, ((loss, targets), got) in enumerate(run_local(work, workers=4)):
        want = torch.zeros(11)
        for number in range(NUMBER):
            want = want + (gradient(step, number, 0) + gradient(step, number, 1))
        assert np.array_equal(got, (want / count).numpy())
        assert (loss, targets) == (sum(range(NUMBER)) / count, count)
