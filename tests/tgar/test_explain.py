"""Explanations of layers, and that they describe what runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import graphtheta as gt
from graphtheta.errors import ConfigError
from graphtheta.nn import GATConv, GATEConv, GCNConv, SAGEConv
from graphtheta.tgar import View
from graphtheta.tgar.explain import Explanation
from graphtheta.tgar.layer import TGARLayer
from tests.graphs import power_law, to_graph
from tests.tgar.layers import written

GRAPH = to_graph(power_law(30, 90))


def explain(layer: TGARLayer) -> Explanation:
    shard = gt.open_shard(GRAPH)
    layer(View(shard)[0], shard.features)
    return layer.explain()


def test_a_product_that_is_summed_away_is_folded() -> None:
    about = explain(GATConv(3, 8, heads=4, edge_dim=2))
    assert about.folded == (
        "att_edge . (lin_edge.weight edge.attr): 8 products per edge instead of 64",
    )
    assert about.fused["score"] == "leaky_relu(((src.a + dst.b) + (W3 @ edge.attr)), 0.2)"


def test_a_plain_sum_has_nothing_on_edges_and_saves_nothing() -> None:
    about = explain(SAGEConv(3, 2))
    assert about.executor == "fused"
    assert about.hoisted == {"source": ("src.z",)}
    assert about.fused == {"message": "src.z"}
    assert about.saved == {}
    # An index of 4 bytes and a row of 2 float32, each way; backward also the factor of the mean.
    assert about.bytes_per_edge == {"forward": 12, "backward over out-edges": 16}


def test_attention_saves_a_number_per_head() -> None:
    about = explain(GATEConv(3, 8, heads=4, edge_dim=2, dropout=0.5))
    assert about.saved["forward"] == "score (4 numbers per edge)"
    assert about.saved["over in-edges"].startswith("8 numbers per edge: (attention * keep(0.5));")
    assert about.self_loops
    assert "keep(0.5)" in about.fused["message"]


def test_what_edges_add_up_is_multiplied_once_a_row() -> None:
    about = explain(GATEConv(3, 16, heads=4, edge_dim=2))
    assert about.commuted == {
        "forward": ("sum of (edge.attr * weight), multiplied once per row",),
        "backward over in-edges": ("sum of (edge.attr * attention), multiplied once per row",),
    }
    assert "commuted, forward" in str(about)


def test_what_runs_chunked_says_why() -> None:
    about = explain(written(lambda y, s, d, e: torch.sin(s["h"] + d["h"]), dtype=torch.float32))
    assert (about.executor, about.reason) == ("chunked", "sin() has no kernel")
    assert "chunked: sin() has no kernel" in str(about)


def test_explanation_is_a_table_in_text_and_html() -> None:
    explanation = explain(SAGEConv(3, 2))
    assert repr(explanation).splitlines() == [
        "SAGEConv",
        "  executor                                 fused",
        "  sum                                      mean",
        "  hoisted, source                          src.z",
        "  fused, message                           src.z",
        "  bytes per edge, forward                  12",
        "  bytes per edge, backward over out-edges  16",
    ]
    layer = written(
        lambda y, s, d, e: torch.where(s["h"] > d["h"], s["h"], y.w), dtype=torch.float32
    )
    html = explain(layer)._repr_html_()
    assert html.startswith("<table><caption>Written</caption>")
    assert "(src.h &gt; dst.h)" in html


def test_explaining_before_running_is_refused() -> None:
    with pytest.raises(ConfigError, match="has not run yet"):
        GCNConv(3, 2).explain()


def test_a_sum_keeps_none_of_its_inputs_for_backward() -> None:
    shard = gt.open_shard(GRAPH)
    layer = GCNConv(3, 2)
    out = layer(View(shard)[0], shard.features)
    node = out.grad_fn
    while type(node).__name__ != "_GatherSumBackward":
        node = node.next_functions[0][0]
    kept = [t for t in node.saved_tensors if t is not None and len(t)]
    assert {tuple(t.shape) for t in kept} == {(shard.num_masters, 1)}  # scales, not values
    assert np.isfinite(out.detach().numpy()).all()
