"""R-GCN and HGT of PyTorch Geometric on typed graphs; the fastest form counts.

- `rgcn`, `rgcn fast`: RGCNConv on all nodes as one graph, with edges sorted by destination, and
  FastRGCNConv, which needs a matrix per edge.
- `rgcn hetero-conv`: HeteroConv of a SAGEConv for each relation, whose adjacency matrix is a torch
  CSR tensor.
- `hgt shipped`: HGTConv. Without pyg-lib, which is not on PyPI, the backward pass of its matrices
  by relation and head moves all rows once for each matrix.
- `hgt`: HGTConv whose `HeteroLinear` joins the products of all matrices instead, so that each row
  is moved once, as in pyg-lib.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch_geometric
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import FastRGCNConv, HeteroConv, HeteroLinear, HGTConv, RGCNConv, SAGEConv

from peers.torch_csr import adjacency

HEADS = 4
VERSION = torch_geometric.__version__
FORMS = {"typed": ("rgcn", "rgcn fast", "rgcn hetero-conv", "hgt", "hgt shipped")}

Get = Callable[[Tensor], Tensor]  # the values of a parameter, or its gradient


def typed(arrays: Any, form: str, sizes: tuple[int, int, int], bases: int | None) -> nn.Module:
    """Return a model of two layers that maps the rows of all nodes to their logits."""
    if form.startswith("hgt"):
        if form == "hgt":
            join_products()
        return HGT(arrays, sizes)
    if form == "rgcn hetero-conv":
        return HeteroRGCN(arrays, sizes)
    conv = RGCNConv if form == "rgcn" else FastRGCNConv
    return RGCN(arrays, sizes, conv, bases)


class RGCN(nn.Module):
    """R-GCN on all nodes as one graph."""

    def __init__(
        self, arrays: Any, sizes: tuple[int, int, int], conv: Any, bases: int | None
    ) -> None:
        super().__init__()
        number = len(arrays.relations)
        pairs = (sizes[:2], sizes[1:])
        self.convs = nn.ModuleList(conv(*pair, number, num_bases=bases) for pair in pairs)
        self._edges, self._type = torch.stack([arrays.src, arrays.dst]), arrays.type

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every node."""
        x = F.relu(self.convs[0](x, self._edges, self._type))
        return self.convs[1](x, self._edges, self._type)

    def shared(self, get: Get) -> dict[str, Any]:
        """Return parameters, or lists of their parts, by GraphTheta's names."""
        return {name: get(parameter) for name, parameter in self.named_parameters()}


class HeteroRGCN(nn.Module):
    """R-GCN of a layer for each relation, the mean of its messages, and a linear map of each node.

    Args:
        arrays: Graph.
        sizes: Columns of the input, between the layers, and of the output.
    """

    def __init__(self, arrays: Any, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        options = {"root_weight": False, "bias": False}
        self.convs, self.roots = nn.ModuleList(), nn.ModuleList()
        for pair in (sizes[:2], sizes[1:]):
            layers = {r: SAGEConv((pair[0], pair[0]), pair[1], **options) for r in arrays.relations}
            self.convs.append(HeteroConv(layers, aggr="sum"))
            self.roots.append(nn.Linear(*pair))
        self._arrays, self._relations = arrays, arrays.relations
        self._matrices = {
            (source, name, destination): adjacency(
                *arrays.ends_of(number),
                (arrays.counts[destination], arrays.counts[source]),
                torch.ones(int((arrays.type == number).sum())),
            )
            for number, (source, name, destination) in enumerate(arrays.relations)
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every node."""
        return self._layer(1, F.relu(self._layer(0, x)))

    def _layer(self, number: int, x: Tensor) -> Tensor:
        out = self.convs[number](self._arrays.of_types(x), self._matrices)
        return torch.cat([out[name] for name in self._arrays.counts]) + self.roots[number](x)

    def shared(self, get: Get) -> dict[str, Any]:
        """Return parameters, or lists of their parts, by GraphTheta's names."""
        found: dict[str, Any] = {}
        for number, (conv, root) in enumerate(zip(self.convs, self.roots, strict=True)):
            layers = [conv.convs[relation] for relation in self._relations]
            found[f"convs.{number}.weight"] = [get(layer.lin_l.weight).T for layer in layers]
            found[f"convs.{number}.root"] = get(root.weight).T
            found[f"convs.{number}.bias"] = get(root.bias)
        return found


class HGT(nn.Module):
    """HGT of two layers, and a linear map after them."""

    def __init__(self, arrays: Any, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        metadata = list(arrays.counts), arrays.relations
        self.convs = nn.ModuleList(
            HGTConv(width, sizes[1], metadata, heads=HEADS) for width in sizes[:2]
        )
        self.lin = nn.Linear(*sizes[1:])
        self._arrays, self._relations = arrays, arrays.relations
        self._edges = {
            relation: torch.stack(arrays.ends_of(number))
            for number, relation in enumerate(arrays.relations)
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every node."""
        parts = self._arrays.of_types(x)
        for conv in self.convs:
            parts = conv(parts, self._edges)
        return self.lin(torch.cat([parts[name] for name in self._arrays.counts]))

    def shared(self, get: Get) -> dict[str, Any]:
        """Return parameters, or lists of their parts, by GraphTheta's names."""
        found: dict[str, Any] = {"lin.weight": get(self.lin.weight), "lin.bias": get(self.lin.bias)}
        for number, conv in enumerate(self.convs):
            name = f"convs.{number}"
            for lin in ("kqv_lin", "out_lin"):
                lins = [getattr(conv, lin).lins[one] for one in self._arrays.counts]
                found[f"{name}.{lin}.weight"] = [get(one.weight) for one in lins]
                found[f"{name}.{lin}.bias"] = [get(one.bias) for one in lins]
            for matrices in ("k_rel", "v_rel"):  # by head, then by relation
                weight = get(getattr(conv, matrices).weight)
                by_head = weight.view(HEADS, len(self._relations), *weight.shape[1:])
                found[f"{name}.{matrices}"] = by_head.transpose(0, 1)
            found[f"{name}.p_rel"] = [get(conv.p_rel["__".join(r)])[0] for r in self._relations]
            if conv.kqv_lin.lins[next(iter(self._arrays.counts))].in_channels == conv.out_channels:
                found[f"{name}.skip"] = [get(conv.skip[one])[0] for one in self._arrays.counts]
        return found


def join_products() -> None:
    """Let `HeteroLinear` join the products of all types, so that backward moves each row once."""
    HeteroLinear.forward_naive = _joined


def _joined(self: HeteroLinear, x: Tensor, type_ptr: Tensor) -> Tensor:
    """Return the products of each type's rows and matrix."""
    sizes = (type_ptr[1:] - type_ptr[:-1]).tolist()
    return torch.cat([rows @ w for rows, w in zip(x.split(sizes), self.weight, strict=True)])
