"""Simple-HGN equals the authors' equations, written over a list of edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.nn import SimpleHGN, SimpleHGNConv
from graphtheta.nn.conv.simple_hgn import Attended
from graphtheta.tgar import Neighbourhoods, View
from tests.graphs import random_graph, to_graph
from tests.nn.steps import assert_equal, gradient, step

RELATIONS, BETA = 5, 0.3


@pytest.fixture(scope="module")
def graph() -> Graph:
    return to_graph(random_graph(20, 80), dtype=np.float64)


def make(**options: Any) -> SimpleHGN:
    options = {"heads": 2, "num_layers": 3, "beta": BETA, "dropout": 0.0, **options}
    model = SimpleHGN(3, 4, 4, num_relations=RELATIONS, edge_channels=3, seed=2, **options)
    return model.double()


def reference(model: SimpleHGN, graph: Graph) -> Tensor:
    """Return the outputs of all nodes, with attention carried from layer to layer."""
    is_loop = graph.src == graph.dst
    loops = np.arange(graph.num_nodes)
    src = torch.from_numpy(np.concatenate([graph.src[~is_loop], loops]))
    dst = torch.from_numpy(np.concatenate([graph.dst[~is_loop], loops]))
    types = np.concatenate([graph.column("type")[~is_loop], np.full(len(loops), RELATIONS)])
    relation, size = torch.from_numpy(types), graph.num_nodes
    h, carried = torch.tensor(graph.features), torch.empty(0)
    for number, conv in enumerate(model.convs):
        z = (h @ conv.lin.weight.T).view(size, conv.heads, -1)
        of_edges = conv.lin_edge(conv.edge_emb[relation]).view(len(src), conv.heads, -1)
        score = (z * conv.att_src).sum(-1)[src] + (z * conv.att_dst).sum(-1)[dst]
        score = F.leaky_relu(score + (of_edges * conv.att_edge).sum(-1), 0.05).exp()
        total = torch.zeros(size, conv.heads, dtype=h.dtype).index_add(0, dst, score)
        attention = score / total[dst]
        if 0 < number < len(model.convs) - 1:
            attention = (1 - BETA) * attention + BETA * carried
        carried = attention.detach()
        out = torch.zeros_like(z).index_add(0, dst, attention.unsqueeze(-1) * z[src])
        if number:
            out = out + conv.lin_res(h).view_as(out)
        h = out.flatten(1) if number == len(model.convs) - 1 else F.elu(out.flatten(1))
    return F.normalize(h) if model.normalise else h


@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), (2, "node-hash"), (3, "dbh")])
@pytest.mark.parametrize("normalise", [False, True])
def test_same_as_the_equations(normalise: bool, workers: int, method: str, graph: Graph) -> None:
    model = make(normalise=normalise)
    got = step(lambda: make(normalise=normalise), graph, workers, method)
    shard = gt.open_shard(graph)
    y, known = shard.label("y")
    keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
    out = reference(model, graph)[keys]
    loss = F.cross_entropy(out[known], y[known], reduction="sum")
    loss.backward()
    want = torch.cat([loss.detach().view(1), *(gradient(p).flatten() for p in model.parameters())])
    assert_equal(got, want, 1e-10)


def test_dropout_does_not_depend_on_workers(graph: Graph) -> None:
    want, got = (step(lambda: make(dropout=0.4), graph, *setup) for setup in [(1,), (3, "dbh")])
    assert_equal(got, want, 1e-10)


def test_batches_with_all_in_edges_have_the_attention_of_the_layer_before(graph: Graph) -> None:
    shard = gt.open_shard(graph)
    model, rows = make().eval(), np.array([1, 4, 7])
    keys = torch.from_numpy(shard.node_key_L[rows].copy())
    blocks = Neighbourhoods(shard).blocks(rows, [None] * 3)
    view = View(shard, blocks=blocks)
    assert_equal(model(view, view.inputs()).detach(), reference(model, graph)[keys].detach(), 1e-10)
    explained = str(model.convs[1].explain())  # type: ignore[operator]
    assert "cat([sum(" in explained
    assert "earlier_relations], 1)[edge.type]" in explained


def test_errors_of_one_line(graph: Graph) -> None:
    with pytest.raises(ConfigError, match=r"expected beta in \[0, 1\], got 2"):
        SimpleHGNConv(3, 4, num_relations=5, beta=2)
    with pytest.raises(ConfigError, match="SimpleHGN: expected heads >= 1, got 0"):
        make(heads=0)
    view = View(gt.open_shard(graph))
    first, second = (SimpleHGNConv(3, 3, num_relations=5, heads=h).double() for h in (1, 2))
    given = first(view[0], Attended(view.inputs()))
    with pytest.raises(ConfigError, match="expected attention of 2 heads, got 1"):
        second(view[1], given)
    few = SimpleHGNConv(3, 3, num_relations=3).double()
    with pytest.raises(ConfigError, match="below num_relations = 3, got 5 types"):
        few(view[0], view.inputs())
