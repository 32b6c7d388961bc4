"""R-GCN + DistMult of PyG, trained for a given time (run by `links.py` with the peers' Python).

    PEERS/bin/python benchmarks/peers/pyg_links.py FOLDER THREADS

Training follows PyG's example (examples/rgcn_link_pred.py): full batches over all training edges
and their reverses, one negative per edge (half of them with another source), binary cross-entropy,
a penalty of 1e-2 on the mean squares of node and relation vectors, and gradients clipped to a norm
of 1. Relation weights use basis decomposition, as in GraphTheta, instead of block-diagonal
matrices.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import RGCNConv


class Model(nn.Module):
    """R-GCN of two layers on learned entity vectors, with a vector per relation."""

    def __init__(self, num_nodes: int, num_relations: int, width: int, bases: int) -> None:
        super().__init__()
        self.entity = nn.Parameter(torch.empty(num_nodes, width))
        self.relation = nn.Parameter(torch.empty(num_relations, width))
        nn.init.xavier_uniform_(self.entity)
        nn.init.xavier_uniform_(self.relation)
        self.convs = nn.ModuleList(
            RGCNConv(width, width, 2 * num_relations, num_bases=bases) for _ in range(2)
        )

    def forward(self, edges: Tensor, kinds: Tensor) -> Tensor:
        """Return the vector of each entity."""
        x = self.convs[0](self.entity, edges, kinds).relu()
        return self.convs[1](F.dropout(x, 0.2, self.training), edges, kinds)


def main() -> None:
    """Train until the time limit, and write the vectors of entities and relations."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    given = np.load(folder / "given.npz")
    src, kind, dst = torch.from_numpy(given["train"]).T.contiguous()
    size, relations = int(given["num_nodes"]), int(given["num_relations"])
    edges = torch.stack([torch.cat([src, dst]), torch.cat([dst, src])])
    kinds = torch.cat([kind, kind + relations])
    model = Model(size, relations, int(given["channels"]), int(given["bases"]))
    optimizer = torch.optim.Adam(model.parameters(), lr=float(given["lr"]))
    seconds, epochs = 0.0, 0
    while seconds < float(given["seconds"]):
        start = time.perf_counter()
        optimizer.zero_grad()
        z = model(edges, kinds)
        at_source = torch.rand(len(src)) < 0.5
        drawn = torch.randint(size, (len(src),))
        heads = torch.cat([src, torch.where(at_source, drawn, src)])
        tails = torch.cat([dst, torch.where(at_source, dst, drawn)])
        scores = (z[heads] * model.relation[kind.repeat(2)] * z[tails]).sum(1)
        truth = torch.cat([torch.ones(len(src)), torch.zeros(len(src))])
        penalty = z.pow(2).mean() + model.relation.pow(2).mean()
        loss = F.binary_cross_entropy_with_logits(scores, truth) + 1e-2 * penalty
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds, epochs = seconds + time.perf_counter() - start, epochs + 1
    model.eval()
    with torch.no_grad():
        z = model(edges, kinds)
    learned = {"z": z.numpy(), "relation": model.relation.detach().numpy()}
    np.savez(folder / "learned.npz", seconds=seconds, epochs=epochs, **learned)


if __name__ == "__main__":
    main()
