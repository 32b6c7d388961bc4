"""A layer with attention, edge attributes and dropout, from its equation to its tests.

The graph is made up: accounts rate one another, old ratings are random, and recent ones tell who
is dishonest. The layer must learn which edges to look at. docs/writing-a-layer.md explains each
line.
"""

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.comm.communicator import Communicator


class EdgeAttention(gt.tgar.TGARLayer):
    """h_i = W h_i + sum over j in N(i) of softmax_j(s_ij) (V h_j + U e_ij), a head.

    s_ij = a . leaky_relu(Q h_i + V h_j + U e_ij)

    Shape:
        h: (M, in_channels). Returns (M, heads channels).
    """

    aggregator = "softmax"

    def __init__(
        self, in_channels: int, channels: int, edge_dim: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.heads, self.channels, self.dropout = heads, channels, dropout
        self.root = nn.Linear(in_channels, heads * channels)
        self.query = nn.Linear(in_channels, heads * channels)
        self.value = nn.Linear(in_channels, heads * channels)
        self.from_edge = nn.Linear(edge_dim, heads * channels, bias=False)
        self.att = nn.Parameter(torch.randn(heads, channels) / channels**0.5)

    def per_head(self, x: Tensor) -> Tensor:
        return x.view(-1, self.heads, self.channels)

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        return {
            "root": self.root(h),
            "query": self.per_head(self.query(h)),
            "value": self.per_head(self.value(h)),
        }

    def gather(self, src, dst, edge):
        message = src["value"] + self.per_head(self.from_edge(edge["attr"]))
        score = (F.leaky_relu(dst["query"] + message, 0.2) * self.att).sum(-1)
        if self.dropout:
            message = message * gt.tgar.keep(self.dropout, self.heads).unsqueeze(-1)
        return score, message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        return n["root"] + m.flatten(1)


class Model(nn.Module):
    """The layer, and a linear map of its result to one number."""

    def __init__(self, in_channels: int, edge_dim: int) -> None:
        super().__init__()
        self.layer = EdgeAttention(in_channels, 8, edge_dim, heads=4, dropout=0.2)
        self.out = nn.Linear(32, 1)

    def forward(self, view: gt.tgar.View, x: Tensor) -> Tensor:
        return self.out(F.elu(self.layer(view[0], x)))


def ratings(accounts: int, count: int) -> gt.Graph:
    """Return a graph whose edges carry a score and whether it is recent."""
    rng = np.random.default_rng(0)
    dishonest = rng.random(accounts) < 0.3
    by, of = rng.integers(accounts, size=(2, count))
    recent = rng.random(count) < 0.3
    tells = np.where(dishonest[of], -0.5, 0.5) * recent
    nodes = {
        "id": np.arange(accounts),
        "one": np.ones(accounts, np.float32),
        "dishonest": dishonest,
        "split": rng.choice(["train", "val", "test"], accounts),
    }
    edges = {
        "src": by,
        "dst": of,
        "score": rng.normal(tells).astype(np.float32),
        "recent": recent.astype(np.float32),
    }
    return gt.Graph.from_arrow(
        pa.table(nodes),
        pa.table(edges),
        features=["one"],
        labels=["dishonest"],
        splits=["split"],
        edge_features=["score", "recent"],
    )


def train(graph: gt.Graph, workers: int, epochs: int) -> dict:
    """Train on so many workers; return the summary."""

    def work(comm: Communicator) -> dict:
        shard = gt.open_shard(graph, comm)
        with gt.nn.seeded(0):
            model = Model(shard.num_features, shard.edge_dim)
        return gt.Trainer(model, shard, lr=0.02).fit(epochs=epochs)

    return gt.run_local(work, workers=workers)


def check_workers() -> None:
    """Losses do not depend on the number of workers, dropout included."""
    graph = ratings(200, 2000)
    want = train(graph, 1, epochs=5)["loss_history"]
    for workers in (2, 3):
        got = train(graph, workers, epochs=5)["loss_history"]
        np.testing.assert_allclose(got, want, rtol=1e-4)


def check_gradients() -> None:
    """Gradients of nodes, edge attributes and parameters are those of finite differences."""
    shard = gt.open_shard(ratings(6, 20))
    with gt.nn.seeded(0):
        layer = EdgeAttention(1, 2, shard.edge_dim, heads=2, dropout=0.2).double()
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, attr: Tensor, *parameters: Tensor) -> Tensor:
        view = gt.tgar.View(shard)  # the same seed, and so the same dropout, each time
        view[0].edge_columns["attr"] = attr
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, given, (view[0], x))

    inputs = [shard.features, shard.edge_columns["attr"], *layer.parameters()]
    leaves = [t.detach().double().requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(run, leaves)


if __name__ == "__main__":
    check_workers()
    check_gradients()
    summary = train(ratings(1000, 15_000), workers=2, epochs=40)
    print(f"test AUROC {summary['test_auroc']:.3f}")
