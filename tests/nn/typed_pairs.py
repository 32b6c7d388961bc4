"""Typed layers of PyG and of ours with the same weights, and a graph for both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column
from graphtheta.nn import HANConv, HeteroConv, HGTConv, RGATConv, RGCNConv, SAGEConv

pyg = pytest.importorskip("torch_geometric.nn")
han_conv = pytest.importorskip("torch_geometric.nn.conv.han_conv")

__all__ = [
    "ATTR",
    "COUNTS",
    "EDGES",
    "FIRST_EDGE",
    "NUM_NODES",
    "PAIRS",
    "SETUPS",
    "TOLERANCE",
    "WIDTH",
    "Pair",
    "X",
    "of_types",
    "typed_graph_for_pyg",
]

COUNTS = {"paper": 24, "author": 15, "venue": 4, "tag": 7}  # no relation ends in a tag
RELATIONS = {
    ("paper", "cites", "paper"): 90,
    ("author", "writes", "paper"): 60,
    ("paper", "written_by", "author"): 60,
    ("paper", "in", "venue"): 24,
    ("tag", "of", "paper"): 20,
    ("tag", "of", "author"): 0,
}
METADATA = list(COUNTS), list(RELATIONS)
FIRST = dict(zip(COUNTS, np.cumsum([0, *COUNTS.values()]), strict=False))
FIRST_EDGE = dict(zip(RELATIONS, np.cumsum([0, *RELATIONS.values()]), strict=False))
NUM_NODES, WIDTH, HEADS, ATTRIBUTES = sum(COUNTS.values()), 6, 2, 2
RNG = np.random.default_rng(1)
EDGES = {
    relation: np.stack(
        [RNG.integers(0, COUNTS[relation[0]], size), RNG.integers(0, COUNTS[relation[2]] - 1, size)]
    )
    for relation, size in RELATIONS.items()
}
ATTR = {relation: RNG.standard_normal((size, ATTRIBUTES)) for relation, size in RELATIONS.items()}
X = RNG.standard_normal((NUM_NODES, WIDTH))

# Workers and partitioner: edge-cuts and vertex-cuts.
SETUPS = [(1, "node-hash"), *((w, m) for w in (2, 3, 4) for m in ("node-hash", "dbh"))]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def typed_graph_for_pyg(**paper: Any) -> Graph:
    """Return the graph; `paper` are further columns of papers."""
    nodes = {
        name: pa.table({"id": np.arange(count)} | (paper if name == "paper" else {}))
        for name, count in COUNTS.items()
    }
    edges = {
        relation: pa.table({"src": src, "dst": dst, "attr": matrix_column(ATTR[relation])})
        for relation, (src, dst) in EDGES.items()
    }
    return Graph.from_arrow(nodes, edges)


def of_types(x_NF: Tensor) -> dict[str, Tensor]:
    return {name: x_NF[FIRST[name] : FIRST[name] + count] for name, count in COUNTS.items()}


@dataclass(frozen=True)
class Pair:
    """A layer of PyG and ours.

    Attributes:
        theirs: Called as theirs(in_channels, out_channels).
        ours: Called in the same way.
        translate: From PyG's parameters by name, or their gradients, to ours.
    """

    theirs: Callable[[int, int], nn.Module]
    ours: Callable[[int, int], nn.Module]
    translate: Callable[[dict[str, Tensor]], dict[str, Tensor]]

    def make_theirs(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return PyG's layer in float64 without zeros as weights."""
        layer = self.theirs(in_channels, out_channels).double()
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.5)
        return layer

    def weights(self, layer: nn.Module) -> dict[str, Tensor]:
        """Return the weights of PyG's layer by the names of ours."""
        return self.translate({name: p.detach() for name, p in layer.named_parameters()})

    def gradients(self, layer: nn.Module) -> dict[str, Tensor]:
        """Return the gradients of PyG's layer by the names of ours; zeros where it has none."""
        named = layer.named_parameters()
        return self.translate(
            {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named}
        )

    def run_theirs(
        self,
        layer: nn.Module,
        x_NF: Tensor,
        edges: dict[Any, NDArray[np.int64]] = EDGES,
        active_N: Tensor | None = None,
    ) -> Tensor:
        """Return the outputs of PyG's layer for the nodes of all types.

        Types in which no relation ends keep their rows, or get zeros if the widths differ.

        Args:
            layer: PyG's layer.
            x_NF: Its inputs.
            edges: Edges of each relation.
            active_N: Whether a node is an output; statistics are over these. If None, all are.
        """
        index = {relation: torch.from_numpy(ends) for relation, ends in edges.items()}
        if isinstance(layer, pyg.RGCNConv | pyg.RGATConv):  # one graph with types of edges
            ends = [
                ends + torch.tensor([[FIRST[source]], [FIRST[destination]]])
                for (source, _, destination), ends in index.items()
            ]
            types = [torch.full(e.shape[1:], number) for number, e in enumerate(ends)]
            out: Tensor = layer(x_NF, torch.cat(ends, 1), torch.cat(types))
            return out
        active = torch.ones(NUM_NODES, dtype=torch.bool) if active_N is None else active_N
        with mock.patch.object(han_conv, "group", grouped(of_types(active))):
            found = layer(of_types(x_NF), index)
        width = next(rows.shape[1] for rows in found.values() if rows is not None)
        rest = of_types(x_NF if width == x_NF.shape[1] else x_NF.new_zeros((NUM_NODES, width)))
        rows = [found.get(name) for name in COUNTS]
        return torch.cat([rest[n] if r is None else r for n, r in zip(COUNTS, rows, strict=True)])


def grouped(active: dict[str, Tensor], group: Any = han_conv.group) -> Callable[..., Any]:
    """Return PyG's attention over relations, with means over the active nodes of each type."""
    types: Iterator[str] = iter(COUNTS)

    def of_active(xs: list[Tensor], *weights: Any) -> tuple[Tensor | None, Tensor | None]:
        rows = active[next(types)]
        out, attention = group([x[rows] for x in xs], *weights)
        return None if out is None else xs[0].new_zeros(xs[0].shape).index_put(
            (rows,), out
        ), attention

    return of_active


def by_relation(weight: Tensor) -> Tensor:
    """Return matrices of PyG's by relation and head; they are by head, then by relation."""
    return weight.view(HEADS, len(RELATIONS), *weight.shape[1:]).transpose(0, 1)


def hgt_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {
        f"{lin}.{name}": torch.stack([theirs[f"{lin}.lins.{one}.{name}"] for one in COUNTS])
        for lin in ("kqv_lin", "out_lin")
        for name in ("weight", "bias")
    }
    names |= {name: by_relation(theirs[f"{name}.weight"]) for name in ("k_rel", "v_rel")}
    relations = ["__".join(relation) for relation in RELATIONS]
    names["p_rel"] = torch.stack([theirs[f"p_rel.{relation}"][0] for relation in relations])
    width = len(names["out_lin.bias"][0])
    if theirs["kqv_lin.lins.paper.weight"].shape[1] == width:  # PyG has it, but ignores it
        names["skip"] = torch.stack([theirs[f"skip.{name}"][0] for name in COUNTS])
    return names


def han_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {name: theirs[name] for name in ("q", "k_lin.weight", "k_lin.bias")}
    for name in ("weight", "bias"):
        names[f"proj.{name}"] = torch.stack([theirs[f"proj.{one}.{name}"] for one in COUNTS])
    for number, relation in enumerate(RELATIONS):
        for name in ("lin_src", "lin_dst"):
            names[f"attention.{number}.{name}"] = theirs[f"{name}.{'__'.join(relation)}"]
    return names


def lifted_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = {name: name.split(".", 2) for name in theirs}  # convs, relation, parameter
    numbers = {key: n for n, key in enumerate(dict.fromkeys(key for _, key, _ in parts.values()))}
    return {
        f"convs.{numbers[key]}.{name}": theirs[whole] for whole, (_, key, name) in parts.items()
    }


def rgcn(**options: Any) -> Pair:
    number = len(RELATIONS)
    return Pair(
        lambda i, o: pyg.RGCNConv(i, o, number, **options),
        lambda i, o: RGCNConv(i, o, num_relations=number, **options),
        lambda theirs: theirs,
    )


def rgat(**options: Any) -> Pair:
    def theirs(in_channels: int, out_channels: int) -> nn.Module:
        layer = pyg.RGATConv(in_channels, out_channels // HEADS, number, heads=HEADS, **options)
        for name in ("w", "l1", "b1", "l2", "b2"):  # of other forms of attention
            delattr(layer, name)
        return layer  # type: ignore[no-any-return]

    number = len(RELATIONS)
    return Pair(
        theirs,
        lambda i, o: RGATConv(i, o // HEADS, num_relations=number, heads=HEADS, **options),
        lambda tensors: tensors,
    )


def sage(aggr: str, inner: str = "mean") -> Pair:
    return Pair(
        lambda i, o: pyg.HeteroConv({r: pyg.SAGEConv(i, o, aggr=inner) for r in RELATIONS}, aggr),
        lambda i, o: HeteroConv({r: SAGEConv(i, o, aggregator=inner) for r in RELATIONS}, aggr),
        lifted_names,
    )


PAIRS = {
    "rgcn": rgcn(),
    "rgcn_bases": rgcn(num_bases=2),
    "rgcn_blocks": rgcn(num_blocks=2),
    "rgat": rgat(),
    "rgat_bases": rgat(num_bases=2),
    "hgt": Pair(
        lambda i, o: pyg.HGTConv(i, o, METADATA, heads=HEADS),
        lambda i, o: HGTConv(i, o, METADATA, heads=HEADS),
        hgt_names,
    ),
    "han": Pair(
        lambda i, o: pyg.HANConv(i, o, METADATA, heads=HEADS),
        lambda i, o: HANConv(i, o, METADATA, heads=HEADS),
        han_names,
    ),
    "sage": sage("sum"),
    "sage_mean": sage("mean"),
    "sage_max": sage("max", "max"),
}
