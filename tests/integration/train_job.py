"""Train as the launcher starts it, and print losses and predictions of each case as JSON.

    train_job.py [--fail RANK]

One started job runs all cases, because starting processes takes longer than training them. With
`--fail`, that rank fails in a last case, in the middle of training in groups.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import guarded
from graphtheta.strategy import MiniBatch
from tests.graphs import random_graph, to_graph
from tests.nn.steps import CASES

__all__ = ["MODELS", "train", "train_in_groups"]

EPOCHS = 10
MODELS = (("gat_edges", "dbh"), ("sage_max", "node-hash"))


def train(comm: Communicator, name: str, method: str) -> dict[str, list[float]]:
    """Return the loss of each epoch, and on rank 0 the outputs of all nodes."""
    graph = to_graph(random_graph(57, 300), dtype=np.float64)
    shard = gt.open_shard(graph, comm, method=method)
    trainer = gt.Trainer(CASES[name](dropout=0.3).double(), shard, seed=3)
    summary = trainer.fit(EPOCHS)
    outputs = trainer.predict()
    return {
        "loss_history": summary["loss_history"],
        "outputs": [] if outputs is None else outputs.flatten().tolist(),
    }


def train_in_groups(
    comm: Communicator, groups: int, prefetch: int, failing_rank: int = -1
) -> dict[str, list[float]]:
    """Return the loss of each epoch, and the number of micro-batches of each group.

    Args:
        comm: The workers.
        groups: Number of groups.
        prefetch: As of `Trainer`.
        failing_rank: A rank that fails in the middle of a step.
    """
    graph = to_graph(random_graph(57, 300), dtype=np.float64)
    grouped = gt.Groups(comm, groups)
    shard = gt.open_shard(graph, grouped.comm, method="dbh")
    model = CASES["gat"](dropout=0.3).double()
    if comm.rank == failing_rank:

        def fail(*_: object) -> None:
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
    """Run every case."""
    comm = gt.communicator(60, check=True)
    torch.set_num_threads(1)
    found: dict[str, Any] = {name: train(comm, name, method) for name, method in MODELS}
    # Several groups, with a background thread and without; of several ranks where there are four.
    found["groups_of_two"] = train_in_groups(comm, max(2, comm.size // 2), 2)
    found["groups_of_one"] = train_in_groups(comm, comm.size, 0)
    if comm.rank == 0:
        print(f"\n{json.dumps(found)}", flush=True)
    if "--fail" in sys.argv:
        train_in_groups(comm, 2, 0, int(sys.argv[sys.argv.index("--fail") + 1]))


if __name__ == "__main__":
    sys.exit(guarded(main))
