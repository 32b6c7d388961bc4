from __future__ import annotations

import threading
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import graphtheta as gt
from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError
from graphtheta.nn import (
    GAT,
    GCN,
    GIPA,
    MODELS,
    BatchNorm,
    Dropout,
    GATConv,
    GCNConv,
    RGCNConv,
    SAGEConv,
    Stack,
    model_for,
    seeded,
)
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View
from tests.graphs import random_graph, to_graph


@pytest.fixture(scope="module")
def shard() -> Shard:
    return gt.open_shard(to_graph(random_graph(20, 80)))


def build(name: str, shard: Shard, label: str = "y", **options: int) -> torch.nn.Module:
    sizes = {"hidden_channels": 4, "num_layers": 2, "heads": 2, **options}
    return model_for(name, shard, label, dropout=0.5, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_layers", [1, 2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_model_fits_the_graph(name: str, num_layers: int, shard: Shard) -> None:
    view = View(shard)
    for label, outputs in (("y", 4), ("score", 1)):
        model = build(name, shard, label, num_layers=num_layers)
        assert model(view, view.inputs()).shape == (20, outputs)
    embedding = model.embed(view, view.inputs())  # type: ignore[operator]
    assert len(embedding) == 20
    heads = 2 if "heads" in MODELS[name].options else 1
    of_features = {"sgc": 3, "sign": 4 * (num_layers + 1)}
    # The output of these is a linear map.
    is_input = num_layers == 1 and name not in ("hgt", "han", "appnp", "gcnii")
    assert embedding.shape[1] == of_features.get(name, 3 if is_input else 4 * heads)


@pytest.mark.parametrize("name", MODELS)
def test_weights_depend_on_the_seed_only(name: str, shard: Shard) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    weights = build(name, shard).state_dict()
    assert torch.get_rng_state().equal(state)  # torch's default generator is unchanged
    torch.manual_seed(6)
    for key, value in build(name, shard).state_dict().items():
        assert value.equal(weights[key])
    other = build(name, shard, seed=1).state_dict()
    assert any(not value.equal(weights[key]) for key, value in other.items())


def test_threads_build_the_same_weights() -> None:
    made: list[torch.Tensor] = []

    def make() -> None:
        model = GAT(3, 4, 2, heads=2, seed=3)
        made.append(torch.cat([p.flatten() for p in model.parameters()]).detach())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert all(weights.equal(made[0]) for weights in made)


def test_parts_draw_independent_weights_from_one_seed() -> None:
    drawn = []
    for part in ("", "lin", "decoder"):
        with seeded(3, part):
            drawn.append(torch.rand(8))
    assert len({tuple(values.tolist()) for values in drawn}) == 3
    with seeded(3, "lin"):
        assert torch.equal(torch.rand(8), drawn[1])


def test_seeded_can_be_nested() -> None:
    with seeded(1):
        before = torch.rand(1)
        with seeded(2):
            torch.rand(1)
        after = torch.rand(1)
    with seeded(1):
        assert torch.cat([before, after]).equal(torch.rand(2))


def test_edge_attributes_of_gat() -> None:
    model = GAT(3, 4, 2, heads=2, edge_dim=2)
    assert all(isinstance(c, GATConv) and c.edge_dim == 2 for c in model.convs)


def test_transformer_reads_edge_attributes_where_there_are_any(shard: Shard) -> None:
    plain = to_graph(random_graph(20, 80))
    without = gt.open_shard(Graph(plain.nodes, plain.edges.drop_columns(["attr"])))
    for there, edge_dim in ((shard, 2), (without, None)):
        model = build("transformer", there)
        assert [c.edge_dim for c in model.convs] == [edge_dim] * 2  # type: ignore[union-attr]
        view = View(there)
        assert model(view, view.inputs()).isfinite().all()


def test_model_raises_config_error_when_a_size_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"GCN: expected in_channels, .* >= 1, got 0, 4, 2"):
        GCN(0, 4, 2)
    with pytest.raises(ConfigError, match="num_layers >= 1"):
        GCN(3, 4, 2, num_layers=0)
    with pytest.raises(ConfigError, match="GAT: expected heads >= 1, got 0"):
        GAT(3, 4, 2, heads=0)
    with pytest.raises(ConfigError, match="GIPA: expected heads >= 1, got 0"):
        GIPA(3, 4, 2, heads=0, edge_dim=2)
    with pytest.raises(ConfigError, match="GIPAConv: expected channels >= 2"):
        GIPA(3, 1, 2, edge_dim=2)


def test_none_between_layers_is_an_error_of_one_line(shard: Shard) -> None:
    class Forgets(GCNConv):
        def apply_node(self, n: Any, m: Any) -> Any:
            super().apply_node(n, m)

    view = View(shard)
    with pytest.raises(ConfigError, match=r"Forgets.apply_node: expected .*, got None. Return it"):
        Forgets(3, 4)(view[0], view.inputs())
    for module in (GCNConv(3, 4), Dropout(0.5), BatchNorm(3)):
        with pytest.raises(ConfigError, match="expected the rows of the nodes, got None"):
            module(view[0], None)


@pytest.mark.parametrize("aggregator", ["softmax", "max"])
def test_layers_may_return_their_message(aggregator: str, shard: Shard) -> None:
    class Message(SAGEConv):
        def gather(self, src: Any, dst: Any, edge: Any) -> Any:
            return (src["h"], src["h"]) if self.aggregator == "softmax" else src["h"]

        def transform(self, h: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"h": self.lin_l(h)}

        def apply_node(self, n: Any, m: torch.Tensor) -> torch.Tensor:
            return m

    model, view = Stack(partial(Message, aggregator=aggregator), 3, 4, 4), View(shard)
    (model(view, view.inputs()).sum() + view.token).backward()
    assert model.convs[0].lin_l.weight.grad.isfinite().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("model", [GCN, GAT])
def test_model_refuses_an_unknown_argument(model: Any) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'width'"):
        model(3, 4, 2, width=5)


def test_stack_takes_any_layers(shard: Shard) -> None:
    stack = Stack(SAGEConv, 3, 4, 2, num_layers=3, make_last_layer=GCNConv, batch_norm=True)
    assert [type(layer) for layer in stack.convs] == [SAGEConv, SAGEConv, GCNConv]
    assert len(stack.norms) == 2
    view = View(shard)
    assert stack(view, view.inputs()).shape == (20, 2)


def test_layer_raises_config_error_when_the_graph_has_more_relations(shard: Shard) -> None:
    view, types = View(shard), shard.num_edge_types
    for bases in (None, 2):
        layer = RGCNConv(3, 4, num_relations=types - 1, num_bases=bases)
        with pytest.raises(ConfigError, match=rf"below num_relations = {types - 1}, got {types}"):
            layer(view[0], view.inputs())


def test_model_for_raises_config_error_when_the_graph_lacks_something(shard: Shard) -> None:
    with pytest.raises(ConfigError, match=r"model .*: expected one of .*gat, gat-e, .* got 'gnc'"):
        build("gnc", shard)
    with pytest.raises(ConfigError, match=r"label .*, got 'z'"):
        build("gcn", shard, "z")
    nodes = {"id": np.arange(3), "label:y": np.arange(3)}
    bare = gt.open_shard(
        Graph.from_arrow(pa.table(nodes), pa.table({"src": [0, 1], "dst": [1, 2]}))
    )
    for name in ("gat-e", "gipa"):
        with pytest.raises(ConfigError, match="no 'attr' column"):
            build(name, bare)
    with pytest.raises(ConfigError, match="no 'type' column"):
        build("rgcn", bare)
    with pytest.raises(ConfigError, match="expected node features, got none"):
        build("transformer", bare)  # which does not need edge attributes
    with pytest.raises(ConfigError, match="expected node features, got none"):
        build("gcn", bare)
