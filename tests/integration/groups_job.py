"""Train in groups as the launcher says, and print the losses and who computed what, as JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import guarded
from graphtheta.strategy import MiniBatch
from tests.graphs import random_graph, to_graph
from tests.nn.steps import CASES

__all__ = ["train"]


def train(
    comm: Communicator, groups: int, prefetch: int, fails: int = -1
) -> dict[str, list[float]]:
    """Return the loss of each epoch, and the micro-batches of each group.

    Args:
        comm: The workers.
        groups: How many groups they make.
        prefetch: As of `Trainer`.
        fails: A rank that fails in the middle.
    """
    graph = to_graph(random_graph(57, 300), dtype=np.float64)
    grouped = gt.Groups(comm, groups)
    shard = gt.open_shard(graph, grouped.comm, method="dbh")
    model = CASES["gat"](dropout=0.3).double()
    if comm.rank == fails:

        def fail(*given: object) -> None:
            raise RuntimeError("this rank fails")

        model.convs[1].register_forward_hook(fail)
    trainer = gt.Trainer(
        model,
        shard,
        strategy=MiniBatch(9, [3, 3]),
        prefetch=prefetch,
        groups=grouped,
        micro_batches=6,
    )
    summary = trainer.fit(4)
    return {key: summary[key] for key in ("loss_history", "micro_batches_by_group")}


def main() -> None:
    comm = gt.communicator(60, check=True)
    torch.set_num_threads(1)
    found = train(comm, *map(int, sys.argv[1:]))
    if comm.rank == 0:
        print(f"\n{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    sys.exit(guarded(main))
