"""R-GCN and HGT of DGL 1.1.3 on typed graphs, in the forms DGL recommends.

- `rgcn hetero`: HeteroGraphConv of a GraphConv for each relation, with the mean of its messages,
  and a linear map of each node.
- `hgt`: HGTConv on the graph that `to_homogeneous` gives, with nodes and edges sorted by type.
  Unlike the paper, PyG and GraphTheta it has no GELU and no biases, so that it does less, and its
  results cannot be compared.

Ids are int32, and CSC and CSR are built when the graph is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dgl
import torch
from dgl.nn import GraphConv, HeteroGraphConv, HGTConv
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 4
VERSION = dgl.__version__
FORMS = {"typed": ("rgcn hetero", "hgt")}


def typed(arrays: Any, form: str, sizes: tuple[int, int, int], bases: int | None) -> nn.Module:
    """Return a model of two layers that maps the rows of all nodes to their logits."""
    if form == "hgt":
        return HGT(arrays, sizes)
    if bases:
        raise ValueError("HeteroGraphConv has no bases")
    return RGCN(arrays, sizes)


class RGCN(nn.Module):
    """R-GCN of a layer for each relation.

    Args:
        arrays: Graph.
        sizes: Columns of the input, between the layers, and of the output.
    """

    def __init__(self, arrays: Any, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        self._arrays, self._relations = arrays, arrays.relations
        ends = {relation: arrays.ends_of(number) for number, relation in enumerate(self._relations)}
        self._graph = dgl.heterograph(ends, num_nodes_dict=arrays.counts, idtype=torch.int32)
        self._graph.create_formats_()
        options = {"norm": "right", "bias": False, "allow_zero_in_degree": True}
        self.convs, self.roots = nn.ModuleList(), nn.ModuleList()
        for pair in (sizes[:2], sizes[1:]):
            layers = {relation: GraphConv(*pair, **options) for relation in self._relations}
            self.convs.append(HeteroGraphConv(layers, aggregate="sum"))
            self.roots.append(nn.Linear(*pair))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every node."""
        return self._layer(1, F.relu(self._layer(0, x)))

    def _layer(self, number: int, x: Tensor) -> Tensor:
        parts = self._arrays.of_types(x)
        out = self.convs[number](self._graph, parts)
        return torch.cat([out[name] for name in self._arrays.counts]) + self.roots[number](x)

    def shared(self, get: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Return parameters, or lists of their parts, by GraphTheta's names."""
        found: dict[str, Any] = {}
        for number, (conv, root) in enumerate(zip(self.convs, self.roots, strict=True)):
            layers = [conv._get_module(relation) for relation in self._relations]
            found[f"convs.{number}.weight"] = [get(layer.weight) for layer in layers]
            found[f"convs.{number}.root"] = get(root.weight).T
            found[f"convs.{number}.bias"] = get(root.bias)
        return found


class HGT(nn.Module):
    """HGT of two layers, and a linear map after them."""

    def __init__(self, arrays: Any, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        order = torch.argsort(arrays.type, stable=True)
        ends = arrays.src[order], arrays.dst[order]
        self._graph = dgl.graph(ends, num_nodes=arrays.num_nodes, idtype=torch.int32)
        self._graph.create_formats_()
        counts = torch.tensor(list(arrays.counts.values()))
        self._node_type = torch.repeat_interleave(torch.arange(len(counts)), counts)
        self._type = arrays.type[order]
        number = len(counts), len(arrays.relations)
        self.convs = nn.ModuleList(
            HGTConv(width, sizes[1] // HEADS, HEADS, *number, dropout=0.0) for width in sizes[:2]
        )
        self.lin = nn.Linear(*sizes[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every node."""
        for conv in self.convs:
            x = conv(self._graph, x, self._node_type, self._type, presorted=True)
        return self.lin(x)

    def shared(self, get: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Return nothing: the weights are not those of GraphTheta."""
        return {}
