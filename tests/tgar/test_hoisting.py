"""Which expressions are computed per node, which are sent, and which remain on edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import graphtheta as gt
from graphtheta.exchange.plan import Role
from graphtheta.nn import GATConv, GATEConv, GATv2Conv, GCNConv, RGCNConv, SAGEConv
from graphtheta.tgar import TGARLayer, View
from graphtheta.tgar.expression import Expression, Leaf
from tests.graphs import CORNER_GRAPHS, power_law, random_graph, to_graph
from tests.nn.steps import run_layer
from tests.tgar.layers import written

K, C = 2, 4  # heads, columns a head


def expression_of(layer: TGARLayer) -> Expression:
    shard = gt.open_shard(to_graph(CORNER_GRAPHS["random"], dtype=np.float64))
    view = View(shard)
    layer.double()(view[0], view.inputs())
    (expression,) = layer._expressions.values()
    return expression


def leaves(expression: Expression, indices: list[int]) -> list[str]:
    nodes = [expression.nodes[i] for i in indices]
    assert all(isinstance(n, Leaf) for n in nodes)
    return [n.name for n in nodes if isinstance(n, Leaf)]


def test_gat_sends_projection_and_score_of_the_source() -> None:
    expression = expression_of(GATConv(3, C, heads=K))
    assert sorted(leaves(expression, expression.sources)) == ["a", "z"]
    assert leaves(expression, expression.destinations) == ["b"]
    assert expression.parameters == []
    assert expression.edge_columns == []


def test_gat_reads_edges_only_for_their_share_of_the_score() -> None:
    expression = expression_of(GATConv(3, C, heads=K, edge_dim=2))
    assert sorted(leaves(expression, expression.sources)) == ["a", "z"]
    assert leaves(expression, expression.parameters) == ["lin_edge.weight", "att_edge"]
    assert [name for _, name in expression.edge_columns] == ["attr"]


def test_gatv2_sends_one_field_each_way() -> None:
    expression = expression_of(GATv2Conv(3, C, heads=K))
    assert leaves(expression, expression.sources) == ["l"]
    assert leaves(expression, expression.destinations) == ["r"]
    assert leaves(expression, expression.parameters) == ["att"]


def test_attention_dropout_remains_on_edges() -> None:
    expression = expression_of(GATConv(3, C, heads=K, dropout=0.5))
    assert [(spec.p, spec.heads) for _, spec in expression.keeps] == [(0.5, K)]


def test_gather_of_one_field_has_no_operations_on_edges() -> None:
    for layer in (SAGEConv(3, C), SAGEConv(3, C, aggregator="max")):
        expression = expression_of(layer)
        assert leaves(expression, expression.sources) == ["z"]
        assert expression.destinations == expression.parameters == []
        assert expression.edge_order == []


def test_whole_expression_of_one_endpoint_is_computed_per_node() -> None:
    def per_node(s: TGARLayer, src: dict[str, Tensor], dst: object, edge: object) -> Tensor:
        return torch.tanh(s.lin(src["h"]) * s.w).square()  # type: ignore[operator]

    layer = written(per_node)
    expression = expression_of(layer)
    assert len(expression.sources) == 1
    assert expression.edge_order == []


def test_fields_that_gather_does_not_read_are_not_sent() -> None:
    layer = written(
        lambda s, src, dst, edge: src["a"] + dst["b"],
        transform=lambda s, h: {"a": h[:, :1], "b": h[:, 1:2], "unread": torch.cat([h] * 50, 1)},
    )
    expression = expression_of(layer)
    assert leaves(expression, expression.sources) == ["a"]
    assert leaves(expression, expression.destinations) == ["b"]


# Layer; then the number of columns that sync sends for a source and for a destination, that merge
# sends for a partial, and that its backward returns: 8 bytes each.
WIDTHS = {
    "gcn": (lambda: GCNConv(3, C), 3 + 1, 1, 3, 3),
    "gcn_narrow": (lambda: GCNConv(3, 2), 2 + 1, 1, 2, 2),
    "mean": (lambda: SAGEConv(3, 7), 3, 0, 3 + 1, 3),
    "mean_narrow": (lambda: SAGEConv(3, 2), 2, 0, 2 + 1, 2),
    "max": (lambda: SAGEConv(3, 7, aggregator="max"), 3, 0, 3 + 3, 3),
    "gat": (lambda: GATConv(3, C, heads=K), K * C + K, K, 2 * K + K * C, K + K * C),
    "gatv2": (lambda: GATv2Conv(3, C, heads=K), K * C, K * C, 2 * K + K * C, K + K * C),
    "gat-e": (lambda: GATEConv(3, C, heads=K, edge_dim=2), K * C + K, K, 2 * K + K * C, K + K * C),
    "rgcn": (lambda: RGCNConv(3, C, num_relations=5), 3, 5, C, C),
    "rgcn_bases": (lambda: RGCNConv(3, C, num_relations=5, num_bases=2), 3, 5, C, C),
}


@pytest.mark.parametrize("method", ["node-hash", "dbh"])
@pytest.mark.parametrize("name", WIDTHS)
def test_bytes_sent_are_active_mirrors_times_width(name: str, method: str) -> None:
    make, source, destination, partial, cotangent = WIDTHS[name]
    counts = name.startswith(("gcn", "rgcn"))  # degrees need no gradient
    back = source - 1 if name.startswith("gcn") else source
    run = run_layer(make, to_graph(power_law(60, 400), dtype=np.float64), 3, method)
    plans = {rank: shard.plan for rank, shard in run.shards.items()}
    for rank, sent in run.bytes_sent.items():
        plan = plans[rank]
        # Roles of the mirrors that other ranks hold of our masters.
        away = [p.role_H[p.owner_H == rank] for other, p in plans.items() if other != rank]
        there = np.concatenate(away)
        sources, here = there & Role.SOURCE, plan.role_H & Role.SOURCE
        expected = {
            "forward layer 0 sync": np.count_nonzero(sources) * source,
            "backward layer 0 sync": np.count_nonzero(here) * back,
        }
        if method == "dbh":
            destinations, held = there & Role.DESTINATION, plan.role_H & Role.DESTINATION
            given = 0 if counts else destination
            expected["forward layer 0 sync"] += np.count_nonzero(destinations) * destination
            expected["backward layer 0 sync"] += np.count_nonzero(held) * given
            expected["forward layer 0 merge"] = np.count_nonzero(held) * partial
            expected["backward layer 0 merge"] = np.count_nonzero(destinations) * cotangent
        assert {k: v for k, v in sent.items() if "layer" in k} == {
            k: 8 * v for k, v in expected.items()
        }


def test_bytes_do_not_depend_on_the_number_of_edges() -> None:
    num_nodes, src, dst = random_graph(20, 100)
    many = (num_nodes, np.tile(src, 10), np.tile(dst, 10))
    once, often = (
        run_layer(lambda: GATConv(3, C, heads=K), to_graph(g, dtype=np.float64), 3, "node-hash")
        for g in ((num_nodes, src, dst), many)
    )
    assert once.bytes_sent == often.bytes_sent
