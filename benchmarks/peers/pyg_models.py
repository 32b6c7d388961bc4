"""Layers, models and loaders of PyTorch Geometric in its documented forms; the fastest counts.

- `coo`: an edge index sorted by destination.
- `edge-index`: the same as an `EdgeIndex`, which knows that it is sorted and caches CSC and CSR.
- `csr`: the transposed adjacency matrix as a torch CSR tensor.

The normalisation of GCN is computed once (`cached`, or in advance by `gcn_norm`), and self-loops
are added once, with the mean of the attributes of a node's in-edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch_geometric
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric import EdgeIndex
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader
from torch_geometric.nn import GATConv, GATv2Conv, GCNConv, SAGEConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.utils import scatter, trim_to_layer

from peers.torch_csr import adjacency

VERSION = torch_geometric.__version__
FORMS = {
    "gather": ("scatter",),
    "attention": ("coo", "edge-index", "csr"),
    "epoch": ("coo", "edge-index", "csr"),
    "steps": ("0 workers", "1 worker", "0 workers, trimmed", "1 worker, trimmed"),
}


def gather_sum(arrays: Any, form: str, *, weighted: bool) -> Callable[[Tensor], Tensor]:
    """Return a function that sums over in-edges by `scatter`, as layers that are not fused do."""
    src, dst, size, weight = arrays.src, arrays.dst, arrays.num_nodes, arrays.weight[:, None]

    def run(x: Tensor) -> Tensor:
        messages = x.index_select(0, src)
        return scatter(messages * weight if weighted else messages, dst, dim_size=size)

    return run


def attention(
    arrays: Any, layer: str, form: str, *, dropout: float
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return GATConv (edge attributes only in the score), and a function that runs it."""
    src, dst, attr = arrays.with_loops()
    options = {"edge_dim": attr.shape[1], "dropout": dropout, "add_self_loops": False}
    conv, graph = GATConv(64, 16, heads=4, **options), _represent(src, dst, arrays.num_nodes, form)
    return conv, lambda x: conv(x, graph, attr)


def model(arrays: Any, name: str, form: str, num_classes: int) -> nn.Module:
    """Return a model of two layers with 64 columns between them (attention: 4 heads of 16)."""
    size, width = arrays.num_nodes, arrays.x.shape[1]
    if name == "sage":
        convs = [SAGEConv(width, 64), SAGEConv(64, num_classes)]
        graph = _represent(arrays.src, arrays.dst, size, form)
        return _Model(convs, F.relu, graph)
    src, dst, attr = arrays.with_loops()
    graph = _represent(src, dst, size, form)
    if name == "gcn" and form == "csr":
        cached = {"cached": True, "add_self_loops": False}
        return _Model(
            [GCNConv(width, 64, **cached), GCNConv(64, num_classes, **cached)], F.relu, graph
        )
    if name == "gcn":
        _, weight = gcn_norm(torch.stack([src, dst]), num_nodes=size, add_self_loops=False)
        convs = [GCNConv(width, 64, normalize=False), GCNConv(64, num_classes, normalize=False)]
        return _Model(convs, F.relu, graph, weight)
    conv = GATv2Conv if name == "gatv2" else GATConv
    with_attributes = name in ("gat-edge", "gat-e")
    options = {"add_self_loops": False, "edge_dim": attr.shape[1] if with_attributes else None}
    convs = [
        conv(width, 16, heads=4, **options),
        conv(64, num_classes, heads=1, concat=False, **options),
    ]
    return _Model(convs, F.elu, graph, *([attr] if with_attributes else []))


def steps(
    arrays: Any, name: str, fanouts: list[int], form: str, num_classes: int
) -> tuple[nn.Module, Callable[[], Iterator[tuple[Tensor, Tensor]]]]:
    """Return a model, and a function that yields the logits and seeds of each step of an epoch."""
    hidden = len(fanouts) - 1
    widths = [arrays.x.shape[1], *[64] * hidden]
    if name == "sage":
        outs = [*[64] * hidden, num_classes]
        convs = [SAGEConv(*sizes) for sizes in zip(widths, outs, strict=True)]
    else:
        convs = [GATConv(width, 16, heads=4) for width in widths[:-1]]
        convs.append(GATConv(64, num_classes, heads=1, concat=False))
    module = nn.ModuleList(convs)
    pairs = torch.stack([arrays.src, arrays.dst])
    loader = NeighborLoader(
        Data(x=arrays.x, edge_index=pairs, num_nodes=arrays.num_nodes),
        num_neighbors=fanouts[::-1],  # in order from the seeds
        batch_size=1024,
        input_nodes=arrays.train,
        shuffle=True,
        num_workers=int(form.split()[0]),
    )

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            x, edges = batch.x, batch.edge_index
            for number, conv in enumerate(module):
                if "trimmed" in form:
                    nodes, sizes = batch.num_sampled_nodes, batch.num_sampled_edges
                    x, edges, _ = trim_to_layer(number, nodes, sizes, x, edges)
                x = conv(x, edges)
                if number < hidden:
                    x = (F.relu if name == "sage" else F.elu)(x)
            yield x[: batch.batch_size], batch.n_id[: batch.batch_size]

    return module, epoch


def take_weights(module: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Load weights by name, except edge weights of messages, which GATConv does not have."""
    module.load_state_dict({n: w for n, w in given.items() if "lin_message" not in n})


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the gradients by parameter name."""
    return {name: parameter.grad for name, parameter in module.named_parameters()}


def _represent(src: Tensor, dst: Tensor, size: int, form: str) -> Tensor:
    if form == "csr":
        return adjacency(src, dst, size, torch.ones(len(src)))
    pairs = torch.stack([src, dst])
    if form == "coo":
        return pairs
    index = EdgeIndex(pairs, sparse_size=(size, size), sort_order="col")
    return index.fill_cache_()


class _Model(nn.Module):
    """Layers on one graph, with further arguments for each layer."""

    def __init__(
        self,
        convs: list[nn.Module],
        activation: Callable[[Tensor], Tensor],
        graph: Tensor,
        *more: Tensor,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self._activation, self._graph, self._more = activation, graph, more

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every node."""
        for conv in self.convs[:-1]:
            x = self._activation(conv(x, self._graph, *self._more))
        return self.convs[-1](x, self._graph, *self._more)
