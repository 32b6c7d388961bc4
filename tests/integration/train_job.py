"""Train some epochs as the launcher says, and print the losses and what is predicted, as JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.launch import guarded
from tests.graphs import random_graph, to_graph
from tests.nn.steps import CASES

EPOCHS = 10


def train(comm: Communicator, name: str, method: str) -> dict[str, list[float]]:
    """Return the loss of each epoch, and on rank 0 the outputs of all nodes."""
    graph = to_graph(random_graph(57, 300), dtype=np.float64)
    shard = gt.open_shard(graph, comm, method=method)
    trainer = gt.Trainer(CASES[name](dropout=0.3).double(), shard, seed=3)
    summary = trainer.fit(EPOCHS)
    outputs = trainer.predict()
    return {
        "loss": summary["loss_history"],
        "outputs": [] if outputs is None else outputs.flatten().tolist(),
    }


def main() -> None:
    comm = gt.communicator(60, check=True)
    torch.set_num_threads(1)
    found = train(comm, *sys.argv[1:])
    if comm.rank == 0:
        print(f"\n{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    sys.exit(guarded(main))
