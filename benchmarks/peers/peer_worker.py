"""Worker process for a peer: PyG, DGL or torch (see `peers/worker.py` for the requests).

    python -m peers.peer_worker pyg|dgl|torch gather|attention|epoch|typed|sample|steps

Runs in a separate environment that has only torch, torch_geometric and dgl. Weights are exchanged
by PyG's parameter names. `build` takes a `form`: one of the graph representations or loader
settings that `load` returns.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peers.worker import seeds_of, serve

WIDTH = 32  # of the learned inputs of typed graphs


class Arrays:
    """Graph in memory, with its edges sorted by destination.

    Attributes:
        num_nodes: Number of nodes.
        src: (E,) int64.
        dst: (E,) int64, sorted.
        weight: (E,) float32.
        attr: (E, A) float32.
        x, y, train: Features, labels and training mask of the nodes, if loaded.
        type: (E,) relations, of a typed graph.
        counts: Number of nodes of each type, whose nodes follow each other.
        relations: Source type, name and destination type of each relation.
    """

    counts: dict[str, int]
    relations: list[tuple[str, str, str]]

    def __init__(self, folder: str, names: tuple[str, ...]) -> None:
        for name in ("src", "dst", *names):
            array = np.load(Path(folder) / f"{name}.npy")
            setattr(self, name, torch.from_numpy(array))
        self.num_nodes = int(np.load(Path(folder) / "num_nodes.npy"))

    def with_loops(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return src, dst and attr with an edge from each node to itself, sorted by dst.

        The attributes of a loop are the mean over the node's in-edges.
        """
        loops = torch.arange(self.num_nodes)
        src, dst = torch.cat([self.src, loops]), torch.cat([self.dst, loops])
        order = torch.argsort(dst, stable=True)
        attr = None
        if hasattr(self, "attr"):
            shape = (self.num_nodes, self.attr.shape[1])
            total = torch.zeros(shape).index_add_(0, self.dst, self.attr)
            degree = torch.bincount(self.dst, minlength=self.num_nodes).clamp(min=1)
            attr = torch.cat([self.attr, total / degree[:, None]])[order]
        return src[order], dst[order], attr

    def rows(self, width: int) -> Tensor:
        """Return the random input of all workers."""
        shape = (self.num_nodes, width)
        return torch.from_numpy(np.random.default_rng(width).standard_normal(shape, np.float32))

    def of_types(self, x: Tensor) -> dict[str, Tensor]:
        """Return the rows of each node type."""
        return dict(zip(self.counts, x.split(list(self.counts.values())), strict=True))

    def ends_of(self, relation: int) -> tuple[Tensor, Tensor]:
        """Return sources and destinations of a relation's edges, numbered within their types."""
        first = dict(zip(self.counts, np.cumsum([0, *self.counts.values()]), strict=False))
        source, _, destination = self.relations[relation]
        edges = torch.nonzero(self.type == relation).flatten()
        return self.src[edges] - int(first[source]), self.dst[edges] - int(first[destination])


class Worker:
    """Base class of the benchmark cases.

    Args:
        library: Module with the library's layers.
        work: Name of the case.
        names: Arrays to read from the graph's folder.
    """

    names: tuple[str, ...] = ()

    def __init__(self, library: Any, work: str) -> None:
        self.library = library
        self.forms = list(library.FORMS[work])

    def load(self, folder: str) -> dict[str, Any]:
        """Read the graph."""
        self.arrays = Arrays(folder, self.names)
        return {"version": self.library.VERSION, "forms": self.forms}

    def write(self, path: str, out: Tensor, x: Tensor | None = None) -> None:
        """Save output and gradients by PyG's parameter names."""
        found = self.library.gradients(self.module)
        if x is not None:
            found["x"] = x.grad
        arrays = {name: tensor.detach().numpy() for name, tensor in found.items()}
        np.savez(path, out=out.detach().numpy(), **arrays)

    def take_weights(self, path: str) -> None:
        """Load the initial weights that GraphTheta has saved."""
        given = {name: torch.from_numpy(array) for name, array in np.load(path).items()}
        self.library.take_weights(self.module, given)


class Gather(Worker):
    """Gather and Sum over in-edges, weighted or unweighted."""

    names = ("weight",)

    def build(self, width: int, weighted: bool, form: str, **_: Any) -> None:
        """Build the graph representation and the input."""
        self.sum = self.library.gather_sum(self.arrays, form, weighted=weighted)
        self.x = self.arrays.rows(width)

    def run(self) -> dict[str, float]:
        """Run one forward pass without gradients."""
        with torch.no_grad():
            start = time.perf_counter()
            self.out = self.sum(self.x)
            return {"forward": time.perf_counter() - start}

    def save(self, path: str) -> None:
        """Save the sums."""
        np.savez(path, out=self.out.numpy())


class Attention(Worker):
    """Attention layer with edge attributes."""

    names = ("attr",)

    def build(self, layer: str, dropout: float, weights: str, form: str, **_: Any) -> None:
        """Build the layer and its input."""
        made = self.library.attention(self.arrays, layer, form, dropout=dropout)
        self.module, self.forward = made
        self.take_weights(weights)
        self.x = self.arrays.rows(64).requires_grad_()
        self.grad = self.arrays.rows(64)

    def run(self) -> dict[str, float]:
        """Run one forward and backward pass."""
        for tensor in (self.x, *self.module.parameters()):
            tensor.grad = None
        start = time.perf_counter()
        self.out = self.forward(self.x)
        between = time.perf_counter()
        self.out.backward(self.grad)
        return {"forward": between - start, "backward": time.perf_counter() - between}

    def save(self, path: str) -> None:
        """Save output and gradients of the last run."""
        self.write(path, self.out, self.x)


class Epoch(Worker):
    """Training epochs on the whole graph."""

    names = ("x", "y", "train")

    def load(self, folder: str) -> dict[str, Any]:
        """Read the graph, with edge attributes if it has any."""
        if (Path(folder) / "attr.npy").exists():
            self.names = (*self.names, "attr")
        return super().load(folder)

    def build(self, model: str, weights: str, form: str, **_: Any) -> None:
        """Build model and optimiser."""
        arrays = self.arrays
        self.rows = torch.nonzero(arrays.train).flatten()
        self.module = self.library.model(arrays, model, form, int(arrays.y.max()) + 1)
        self.take_weights(weights)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=0.01)

    def run(self) -> dict[str, float]:
        """Train one epoch."""
        self.module.train()
        start = time.perf_counter()
        self.optimizer.zero_grad()
        self._loss(self.module(self.arrays.x)).backward()
        self.optimizer.step()
        return {"epoch": time.perf_counter() - start}

    def _loss(self, out: Tensor) -> Tensor:
        return F.cross_entropy(out[self.rows], self.arrays.y[self.rows])

    def save(self, path: str) -> None:
        """Save output and gradients for the current weights."""
        self.module.zero_grad()
        out = self.module(self.arrays.x)
        self._loss(out).backward()
        self.write(path, out)


class Typed(Epoch):
    """Training epochs of R-GCN or HGT on the whole graph, with learned inputs."""

    names = ("y", "train", "type")

    def load(self, folder: str) -> dict[str, Any]:
        """Read the graph, its node types and relations."""
        loaded = super().load(folder)
        types = json.loads((Path(folder) / "types.json").read_text())
        self.arrays.counts = types["counts"]
        self.arrays.relations = [tuple(relation) for relation in types["relations"]]
        return loaded

    def build(self, hidden: int, weights: str, form: str, **options: Any) -> None:
        """Build model and optimiser."""
        arrays = self.arrays
        self.rows = torch.nonzero(arrays.train).flatten()
        sizes = WIDTH, hidden, int(arrays.y.max()) + 1
        self.module = self.library.typed(arrays, form, sizes, options.get("bases"))
        self.take_weights(weights)
        self.x = (arrays.rows(WIDTH) / 10).requires_grad_()
        self.optimizer = torch.optim.Adam([self.x, *self.module.parameters()], lr=0.01, fused=True)

    def run(self) -> dict[str, float]:
        """Train one epoch; return also the seconds of all threads together."""
        start, before = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        self._loss(self.module(self.x)).backward()
        self.optimizer.step()
        cpu = time.process_time() - before
        return {"epoch": time.perf_counter() - start, "cpu": cpu}

    def save(self, path: str) -> None:
        """Save output and gradients for the current weights."""
        self.optimizer.zero_grad()
        out = self.module(self.x)
        self._loss(out).backward()
        found = self.module.shared(lambda parameter: parameter.grad)
        if not found:  # the weights are others, and so are the results
            np.savez(path)
            return
        grads = {n: g if isinstance(g, Tensor) else torch.stack(g) for n, g in found.items()}
        arrays = {name: grad.numpy() for name, grad in grads.items()}
        np.savez(path, out=out.detach().numpy(), x=self.x.grad.numpy(), **arrays)

    def take_weights(self, path: str) -> None:
        """Load the initial weights that GraphTheta has saved, if the model has them."""
        with np.load(path) as given:
            for name, parts in self.module.shared(lambda parameter: parameter.data).items():
                value = torch.from_numpy(given[name])
                if isinstance(parts, Tensor):
                    parts.copy_(value)
                    continue
                for part, of_part in zip(parts, value, strict=True):
                    part.copy_(of_part)


class Sample(Worker):
    """Sampling of in-edges for batches of seeds."""

    def build(self, fanouts: list[int], form: str, **_: Any) -> None:
        """Build the sampler."""
        self.draw, self.step = self.library.sampler(self.arrays, fanouts), 0

    def run(self) -> dict[str, float]:
        """Draw the neighbourhoods of some batches, and return the number of drawn edges."""
        batches = seeds_of(self.step, self.arrays.num_nodes)
        self.step += 1
        start = time.perf_counter()
        edges = sum(self.draw(torch.from_numpy(seeds)) for seeds in batches)
        return {"draw": time.perf_counter() - start, "edges": edges}


class Steps(Worker):
    """Training on sampled neighbourhoods with the library's own loader."""

    names = ("x", "y", "train")

    def build(self, model: str, fanouts: list[int], form: str, **_: Any) -> None:
        """Build loader, model and optimiser."""
        classes = int(self.arrays.y.max()) + 1
        self.module, self.epoch = self.library.steps(self.arrays, model, fanouts, form, classes)
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=0.01)

    def run(self) -> dict[str, float]:
        """Train one epoch over the training nodes."""
        self.module.train()
        start = time.perf_counter()
        for out, seeds in self.epoch():
            self.optimizer.zero_grad()
            F.cross_entropy(out, self.arrays.y[seeds]).backward()
            self.optimizer.step()
        return {"steps": time.perf_counter() - start}


MODULES = {"pyg": "peers.pyg_models", "dgl": "peers.dgl_models", "torch": "peers.torch_csr"}
TYPED = {"pyg": "peers.pyg_typed", "dgl": "peers.dgl_typed"}


if __name__ == "__main__":
    library, work = sys.argv[1:]
    works = {"gather": Gather, "attention": Attention, "epoch": Epoch}
    works |= {"typed": Typed, "sample": Sample, "steps": Steps}
    modules = TYPED if work == "typed" else MODULES
    serve(works[work](importlib.import_module(modules[library]), work))
