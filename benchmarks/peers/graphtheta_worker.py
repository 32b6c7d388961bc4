"""Worker process for GraphTheta (see `peers/worker.py` for the requests).

    python -m peers.graphtheta_worker gather|attention|epoch|typed|sample|steps

`gather` runs Gather and Sum, `attention` one layer forward and backward, `epoch` a training epoch
on the whole graph, `typed` one of R-GCN or HGT with learned inputs, `sample` draws neighbourhoods,
and `steps` trains on them. Rows are saved in the order of the input, and gradients by PyG's
parameter names, or GraphTheta's for `typed`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.bench.executors import executors, require_fused
from graphtheta.bench.kernels import Aggregate
from graphtheta.bench.timing import Clock
from graphtheta.comm.launch import tune_rank
from graphtheta.nn import GAT, GATE, GCN, HGT, RGCN, GATConv, GATEConv, GATv2, GraphSAGE, seeded
from graphtheta.nn.models import Stack
from graphtheta.tgar import Fanout, Neighbourhoods, TGARLayer, View
from graphtheta.train.trainer import Trainer
from peers.worker import seeds_of, serve

HEADS, EDGE_FEATURES, WIDTH = 4, 16, 32

LAYERS: dict[str, Callable[..., TGARLayer]] = {"gat-edge": GATConv, "gat-e": GATEConv}
MODELS: dict[str, Callable[..., Stack]] = {
    "gcn": lambda **sizes: GCN(hidden_channels=64, **sizes),
    "sage": lambda **sizes: GraphSAGE(hidden_channels=64, **sizes),
    "gat": lambda **sizes: GAT(hidden_channels=16, heads=HEADS, **sizes),
    "gatv2": lambda **sizes: GATv2(hidden_channels=16, heads=HEADS, **sizes),
    "gat-edge": lambda **sizes: GAT(
        hidden_channels=16, heads=HEADS, edge_dim=EDGE_FEATURES, **sizes
    ),
    "gat-e": lambda **sizes: GATE(hidden_channels=16, heads=HEADS, edge_dim=EDGE_FEATURES, **sizes),
}


class Worker:
    """Base class of the benchmark cases."""

    module: nn.Module

    def load(self, folder: str) -> dict[str, Any]:
        """Open the store and read its columns into memory, without reading the topology yet."""
        self.shard = gt.open_shard(Path(folder) / "store")
        self.keys = torch.from_numpy(self.shard.node_key_L[: self.shard.num_masters].copy())
        for column in (self.shard.features, *self.shard.edge_columns.values()):
            column.sum()
        return {"version": gt.__version__, "forms": ["store"]}

    def rows(self, width: int) -> Tensor:
        """Return the random input of all workers, in the shard's order."""
        shape = (self.shard.num_masters, width)
        x = np.random.default_rng(width).standard_normal(shape, np.float32)
        return torch.from_numpy(x)[self.keys]

    def checked(self, seconds: dict[str, float]) -> dict[str, Any]:
        """Return the answer; raise an error if a layer ran chunked and this is not allowed."""
        if not self.allow_chunked:
            require_fused(self.module)
        return {**seconds, "executors": executors(self.module)}

    def in_order(self, out: Tensor) -> np.ndarray[Any, Any]:
        """Return rows in the order of the input."""
        ordered = torch.empty_like(out.detach())
        ordered[self.keys] = out.detach()
        return ordered.numpy()

    def write_weights(self, path: str) -> None:
        """Save the weights; GAT-E gets equal weights for score and message, as in DGL."""
        for module in self.module.modules():
            if isinstance(module, GATEConv):
                module.lin_message.weight.data.copy_(module.lin_edge.weight.data)
        weights = {name: t.detach().numpy() for name, t in self.module.state_dict().items()}
        np.savez(path, **weights)

    def write(self, path: str, out: Tensor, x: Tensor | None = None) -> None:
        """Save output and gradients; for weights that DGL shares, the sum of the gradients."""
        grads = {name: p.grad for name, p in self.module.named_parameters()}
        for name in [name for name in grads if "lin_message" in name]:
            shared = name.replace("lin_message", "lin_edge")
            grads[shared] = grads[shared] + grads.pop(name)
        found = {name: grad.numpy() for name, grad in grads.items() if grad is not None}
        if x is not None and x.grad is not None:
            found["x"] = self.in_order(x.grad)
        np.savez(path, out=self.in_order(out), **found)


class Gather(Worker):
    """Gather and Sum over in-edges."""

    def build(self, width: int, weighted: bool, allow_chunked: bool, **_: Any) -> None:
        """Build the layer and its input."""
        self.allow_chunked = allow_chunked
        self.module = Aggregate("sum", weighted=weighted)
        self.x = self.rows(width)

    def run(self) -> dict[str, Any]:
        """Run one forward pass without gradients."""
        clock = Clock()
        with torch.no_grad(), clock.measure("forward"):
            self.out = self.module(View(self.shard)[0], self.x)
        return self.checked(clock.seconds)

    def save(self, path: str) -> None:
        """Save the sums."""
        np.savez(path, out=self.in_order(self.out))


class Attention(Worker):
    """Attention layer with edge attributes."""

    def build(
        self, layer: str, dropout: float, weights: str, allow_chunked: bool, **_: Any
    ) -> None:
        """Build the layer, and save its weights for the peers."""
        self.allow_chunked, self.step = allow_chunked, 0
        with seeded(0):
            self.module = LAYERS[layer](
                64, 16, heads=HEADS, edge_dim=EDGE_FEATURES, dropout=dropout
            )
        self.write_weights(weights)
        self.x = self.rows(64).requires_grad_()
        self.grad = self.rows(16 * HEADS)

    def run(self) -> dict[str, Any]:
        """Run one forward and backward pass."""
        clock, self.step = Clock(), self.step + 1
        for tensor in (self.x, *self.module.parameters()):
            tensor.grad = None
        with clock.measure("forward"):
            self.out = self.module(View(self.shard, step=self.step)[0], self.x)
        with clock.measure("backward"):
            self.out.backward(self.grad)
        return self.checked(clock.seconds)

    def save(self, path: str) -> None:
        """Save output and gradients of the last run."""
        self.write(path, self.out, self.x)


class Epoch(Worker):
    """Training epochs on the whole graph."""

    def build(self, model: str, weights: str | None, allow_chunked: bool, **_: Any) -> None:
        """Build model and trainer, and save the initial weights for the peers."""
        shard, self.allow_chunked = self.shard, allow_chunked
        sizes = {"in_channels": shard.num_features, "out_channels": shard.num_classes}
        self.module = MODELS[model](**sizes, dropout=0.0)
        if weights is not None:
            self.write_weights(weights)
        self.trainer = Trainer(self.module, shard, lr=0.01, evaluate_every=1_000_000)

    def run(self) -> dict[str, Any]:
        """Train one epoch."""
        history = self.trainer.history
        self.trainer.fit(len(history.loss) + 1)
        return self.checked({"epoch": history.epoch_seconds[-1]})

    def save(self, path: str) -> None:
        """Save output and gradients for the current weights."""
        self.module.train()
        self.module.zero_grad()
        view = View(self.shard)
        out = self.module(view, view.inputs())
        target, known = self.shard.label("y")
        rows = torch.nonzero((self.shard.split("split") == 1) & known).flatten()
        F.cross_entropy(out[rows], target[rows].long()).backward()
        self.write(path, out)


class Typed(Worker):
    """Training epochs of R-GCN or HGT on the whole graph, with learned inputs."""

    def load(self, folder: str) -> dict[str, Any]:
        """Open the store, and read the labels."""
        loaded = super().load(folder)
        target, train = (np.load(Path(folder) / f"{name}.npy") for name in ("y", "train"))
        self.train = torch.nonzero(torch.from_numpy(train)[self.keys]).flatten()
        self.target = torch.from_numpy(target)[self.keys][self.train]
        self.num_classes = int(target.max()) + 1
        return loaded | {"forms": ["rgcn", "hgt"]}

    def build(
        self, model: str, hidden: int, weights: str | None, allow_chunked: bool, **options: Any
    ) -> None:
        """Build model and optimiser, and save the initial weights for the peers."""
        shard, self.allow_chunked = self.shard, allow_chunked
        if model == "hgt":
            types = {"metadata": shard.metadata, "heads": HEADS}
            sizes = (WIDTH, hidden // HEADS, self.num_classes)
            self.module = HGT(*sizes, dropout=0.0, **types)
        else:
            relations = {"num_relations": shard.num_edge_types, "num_bases": options.get("bases")}
            self.module = RGCN(WIDTH, hidden, self.num_classes, dropout=0.0, **relations)
        if weights is not None:
            self.write_weights(weights)
        self.x = nn.Parameter(self.rows(WIDTH) / 10)
        self.optimizer = torch.optim.Adam([self.x, *self.module.parameters()], lr=0.01, fused=True)

    def run(self) -> dict[str, Any]:
        """Train one epoch; return also the seconds of all threads together."""
        clock, before = Clock(), time.process_time()
        with clock.measure("epoch"):
            self.optimizer.zero_grad()
            self._backward()
            self.optimizer.step()
        return self.checked({**clock.seconds, "cpu": time.process_time() - before})

    def _backward(self) -> Tensor:
        view = View(self.shard)
        out: Tensor = self.module(view, self.x)
        (F.cross_entropy(out[self.train], self.target) + view.token).backward()
        return out

    def save(self, path: str) -> None:
        """Save output and gradients for the current weights."""
        self.optimizer.zero_grad()
        self.write(path, self._backward(), self.x)


class Sample(Worker):
    """Sampling of in-edges for batches of seeds: the same nodes as the peers, in shard order."""

    def build(self, fanouts: list[int], **_: Any) -> None:
        """Build the sampler."""
        self.step, self.fanouts = 0, [Fanout(size) for size in fanouts]
        self.neighbourhoods = Neighbourhoods(self.shard)
        self.row = torch.empty_like(self.keys)
        self.row[self.keys] = torch.arange(len(self.keys))

    def run(self) -> dict[str, float]:
        """Draw the neighbourhoods of some batches, and return the number of drawn edges."""
        batches = [self.row.numpy()[seeds] for seeds in seeds_of(self.step, len(self.keys))]
        clock, edges = Clock(), 0
        with clock.measure("draw"):
            for n, rows in enumerate(batches):
                step = self.step * len(batches) + n
                blocks = self.neighbourhoods.blocks(np.sort(rows), self.fanouts, step=step)
                edges += sum(block.num_edges for block in blocks)
        self.step += 1
        return {**clock.seconds, "edges": edges}


class Steps(Worker):
    """Training on sampled neighbourhoods."""

    def load(self, folder: str) -> dict[str, Any]:
        """Open the store; its forms prepare batches before the step or in the background."""
        return {**super().load(folder), "forms": ["prefetch 0", "prefetch 2"]}

    def build(
        self, model: str, fanouts: list[int], form: str, allow_chunked: bool, **_: Any
    ) -> None:
        """Build model and trainer."""
        shard, self.allow_chunked = self.shard, allow_chunked
        self.module = MODELS[model](
            in_channels=shard.num_features,
            out_channels=shard.num_classes,
            num_layers=len(fanouts),
            dropout=0.0,
        )
        self.trainer = Trainer(
            self.module,
            shard,
            strategy=gt.MiniBatch(1024, fanouts),
            lr=0.01,
            prefetch=int(form.split()[1]),
            evaluate_every=1_000_000,
        )

    def run(self) -> dict[str, Any]:
        """Train one epoch; return its seconds, and the seconds for which steps waited."""
        history, stages = self.trainer.history, self.trainer.stages
        before = stages.seconds["forward prepare"]
        self.trainer.fit(len(history.loss) + 1)
        waited = stages.seconds["forward prepare"] - before
        return self.checked({"steps": history.epoch_seconds[-1], "waited": waited})


if __name__ == "__main__":
    tune_rank()
    works: dict[str, Any] = {"gather": Gather, "attention": Attention, "epoch": Epoch}
    works |= {"typed": Typed, "sample": Sample, "steps": Steps}
    serve(works[sys.argv[1]]())
