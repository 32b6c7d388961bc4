"""Models whose results would depend on the workers are refused in one line, at any depth."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.errors import ConfigError, TraceError
from graphtheta.tgar import View
from graphtheta.train.model_check import check_model
from tests.graphs import random_graph, to_graph

GRAPH = to_graph(random_graph(30, 90))
WEIGHT = pa.array(np.random.default_rng(0).random(90))
WEIGHTED = gt.Graph(GRAPH.nodes, GRAPH.edges.append_column("weight", WEIGHT))


class Net(nn.Module):
    """Two layers and something of the user's between them."""

    num_layers = 2

    def __init__(self, between: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleList([gt.nn.GCNConv(3, 4), gt.nn.GCNConv(4, 4)])
        self.between = between

    def forward(self, view: View, x: Tensor) -> Tensor:
        h = self.between(self.convs[0](view[0], x))
        out: Tensor = self.convs[1](view[1], h)
        return out


def nested(module: nn.Module) -> nn.Module:
    return Net(nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"a": nn.Sequential(module)})["a"]))


STATISTICS = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm1d without running statistics": lambda: nn.BatchNorm1d(4, track_running_stats=False),
    "BatchNorm2d": lambda: nn.BatchNorm2d(4),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "LazyBatchNorm1d": lambda: nn.LazyBatchNorm1d(),
    "InstanceNorm1d": lambda: nn.InstanceNorm1d(4, track_running_stats=True),
}
RANDOM = {
    "Dropout": lambda: nn.Dropout(0.5),
    "Dropout1d": lambda: nn.Dropout1d(0.5),
    "AlphaDropout": lambda: nn.AlphaDropout(0.5),
    "FeatureAlphaDropout": lambda: nn.FeatureAlphaDropout(0.5),
    "RReLU": lambda: nn.RReLU(),
    "LSTM": lambda: nn.LSTM(4, 4, num_layers=2, dropout=0.1),
    "GRU": lambda: nn.GRU(4, 4, num_layers=2, dropout=0.1),
}
MIXES = {
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, dropout=0.0),
    "Softmax": lambda: nn.Softmax(0),
}
HARMLESS = {
    "Dropout": lambda: nn.Dropout(0.0),
    "RReLU": lambda: nn.RReLU(0.2, 0.2),
    "Softmax": lambda: nn.Softmax(1),
    "LSTM": lambda: nn.LSTM(4, 4, dropout=0.0),
    "LayerNorm": lambda: nn.LayerNorm(4),
    "BatchNorm of ours": lambda: gt.nn.BatchNorm(4),
    "Dropout of ours": lambda: gt.nn.Dropout(0.5),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_modules_with_batch_statistics_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"of torch at 'between.1.0', .* graphtheta.nn.BatchNorm"):
        check_model(nested(STATISTICS[name]()))


@pytest.mark.parametrize("name", RANDOM)
def test_modules_with_random_numbers_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"of torch at 'between.1.0.*random .*nn.Dropout"):
        check_model(nested(RANDOM[name]()))


@pytest.mark.parametrize("name", MIXES)
def test_modules_that_read_all_rows_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"of torch at 'between.1.0.*reads all rows"):
        check_model(nested(MIXES[name]()))


@pytest.mark.parametrize("name", HARMLESS)
def test_modules_without_either_are_not_refused(name: str) -> None:
    check_model(nested(HARMLESS[name]()))


def test_modules_of_pyg_are_refused() -> None:
    pyg = pytest.importorskip("torch_geometric.nn")
    for norm in (pyg.BatchNorm(4), pyg.GraphNorm(4), pyg.PairNorm(), pyg.LayerNorm(4)):
        with pytest.raises(ConfigError, match=r"nn.BatchNorm"):
            check_model(nested(norm))
    for conv in (pyg.GCNConv(4, 4), pyg.GIN(4, 4, 2)):
        with pytest.raises(ConfigError, match="reads edges that a view does not have"):
            check_model(nested(conv))
    check_model(nested(pyg.LayerNorm(4, mode="node")))


def trainer(model: Any, graph: gt.Graph = GRAPH, **options: Any) -> gt.Trainer:
    return gt.Trainer(model, gt.open_shard(graph), **options)


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "dropout": lambda h: F.dropout(h, 0.5),
    "nested dropout": lambda h: F.scaled_dot_product_attention(h, h, h, dropout_p=0.5),
    "rrelu": lambda h: F.rrelu(h, training=True),
    "gumbel": F.gumbel_softmax,
    "randn": lambda h: h + torch.randn(1),
    "branch": lambda h: h if torch.rand(1) < 0.5 else -h,
    "random": lambda h: h * random.random(),
    "numpy": lambda h: h * np.random.rand(),
    "own generator": lambda h: h + torch.rand(1, generator=torch.Generator()),
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_functions_in_a_forward_are_refused_in_the_first_step(name: str) -> None:
    with pytest.raises(TraceError, match=r"draws random numbers .* graphtheta.nn.Dropout"):
        trainer(Net(DRAWS[name])).fit(1)


def test_functions_that_draw_nothing_are_not_refused() -> None:
    harmless = [lambda h: F.dropout(h, 0.5, training=False), lambda h: F.dropout(h, 0.0), F.relu]
    for function in harmless:
        trainer(Net(function)).fit(1)


NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "functional": lambda h: F.batch_norm(h, None, None, training=True),
    "torch": lambda h: torch.batch_norm(h, None, None, None, None, True, 0.1, 1e-5, False),
    "native": lambda h: torch.native_batch_norm(h, None, None, None, None, True, 0.1, 1e-5)[0],
    "hidden module": lambda h: nn.BatchNorm1d(4)(h),
}


@pytest.mark.parametrize("name", NORMS)
def test_functions_of_batch_norm_are_refused_in_the_first_step(name: str) -> None:
    with pytest.raises(TraceError, match=r"graphtheta.nn.BatchNorm"):
        trainer(Net(NORMS[name])).fit(1)


def gcn() -> nn.Module:
    return gt.nn.GCN(3, 4, 4, weighted=False)


def mixed() -> nn.Module:
    model = gcn()
    model.convs[1].double()  # type: ignore[index, union-attr]
    return model


def compiled() -> nn.Module:
    model = Net(nn.ReLU())
    model.between.compile(backend="eager")  # type: ignore[operator, union-attr]
    return model


MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "bfloat16": (lambda: gcn().bfloat16(), "expected float32 or float64, got bfloat16"),
    "half": (lambda: gcn().half(), "expected float32 or float64, got float16"),
    "mixed": (mixed, "expected parameters of one dtype"),
    "name": (lambda: "gcn", "expected a model, .* got str"),
    "class": (lambda: gt.nn.GCN, "expected a model, .* got type"),
    "linear": (lambda: nn.Linear(4, 3), r"called as model\(view, x\), got Linear"),
    "empty": (lambda: Net(nn.ReLU()).between, "expected a model with parameters"),
    "lazy": (lambda: Net(nn.LazyLinear(4)), "'between.weight' of a lazy module"),
    "compiled whole": (lambda: gcn().compile(), "cannot be compiled"),
    "compiled": (compiled, "expected a model without torch.compile"),
}


@pytest.mark.parametrize("name", MODELS)
def test_other_models_are_refused_at_once(name: str) -> None:
    make, message = MODELS[name]
    with pytest.raises(ConfigError, match=message) as caught:
        trainer(make())
    assert "\n" not in str(caught.value)


FORWARDS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "none": (lambda _: None, "return a floating-point tensor .* got NoneType"),
    "tuple": (lambda h: (h, h), "got tuple"),
    "sum": (lambda h: h.sum(), r"got torch.float32 of shape \(\)"),
    "classes": (lambda h: h.long(), "got torch.int64"),
    "mean": (lambda h: h.mean(0, keepdim=True), "a row of outputs for each node, got 1 row"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_other_results_of_forward_are_refused(name: str) -> None:
    function, message = FORWARDS[name]

    class Other(Net):
        def forward(self, view: View, x: Tensor) -> Any:
            return function(super().forward(view, x))

    with pytest.raises(ConfigError, match=message):
        trainer(Other(nn.Identity())).fit(1)


def test_other_values_between_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected tensors of one dtype, got: .*double != float"):
        trainer(Net(lambda h: h.double())).fit(1)


def test_autocast_and_a_later_cast_are_refused() -> None:
    ready = trainer(gcn())
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(ConfigError, match=r"expected no autocast around fit.*precision='bf16'"),
    ):
        ready.fit(1)
    ready.model.bfloat16()
    with pytest.raises(ConfigError, match="got bfloat16"):
        ready.fit(1)


def test_a_graph_in_place_of_a_shard_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected a shard, got Graph. .*gt.open_shard"):
        gt.Trainer(gcn(), GRAPH)  # type: ignore[arg-type]
    adam = torch.optim.Adam(gcn().parameters())
    with pytest.raises(ConfigError, match=r"optimiser of the model's parameters, got Adam with"):
        trainer(gcn(), optimizer=adam)


class Residual(nn.Module):
    """A model with a residual connection, as it is written for whole graphs."""

    num_layers = 2

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], *, carries: bool = False) -> None:
        super().__init__()
        self.first, self.second = gt.nn.GCNConv(3, 4), gt.nn.GCNConv(4, 4)
        self.join, self.carries = join, carries

    def forward(self, view: View, x: Tensor) -> Tensor:
        h = self.first(view[0], x)
        out = self.second(view[1], h)
        return self.join(view[1].carry(h) if self.carries else h, out)


JOINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda h, out: h + out,
    "concatenation": lambda h, out: torch.cat([h, out], 1)[:, :4],
    "stack": lambda h, out: torch.stack([h, out]).amax(0),
}


@pytest.mark.parametrize("name", JOINS)
def test_a_residual_connection_in_a_batch_explains_the_rows(name: str) -> None:
    trainer(Residual(JOINS[name])).fit(1)  # works on the whole graph
    with pytest.raises(ConfigError, match=r"rows of its outputs only.*view\[k\].carry\(h\)"):
        trainer(Residual(JOINS[name]), strategy=gt.MiniBatch(2)).fit(1)
    trainer(Residual(JOINS[name], carries=True), strategy=gt.MiniBatch(2)).fit(1)


def test_rows_of_another_layer_are_refused() -> None:
    class Skips(Residual):
        def forward(self, view: View, x: Tensor) -> Tensor:
            self.first(view[0], x)
            out: Tensor = self.second(view[1], torch.cat([x, x[:, :1]], 1))
            return out

    with pytest.raises(ConfigError, match=r"inputs of view\[1\], got .* rows. In a batch a layer"):
        trainer(Skips(JOINS["sum"]), strategy=gt.MiniBatch(2)).fit(1)


def reported(caplog: pytest.LogCaptureFixture, model: nn.Module, **options: Any) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "graphtheta"):
        trainer(model, WEIGHTED, **options).fit(2)
    return [r.getMessage() for r in caplog.records if "Edge columns" in r.getMessage()]


def test_columns_that_are_not_read_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = reported(caplog, gt.nn.GraphSAGE(3, 4, 4))
    assert line == "Edge columns: the model does not read 'attr', 'type', 'weight'."
    (line,) = reported(caplog, gt.nn.GCN(3, 4, 4), strategy=gt.MiniBatch(5))
    assert "multiplies messages by 'weight' (not with weighted=False" in line
    assert "does not read 'attr', 'type'." in line
    (line,) = reported(caplog, gt.nn.GAT(3, 4, 4, edge_dim=2))
    assert "'attr'" not in line
    (line,) = reported(caplog, gt.nn.RGCN(3, 4, 4, num_relations=5))
    assert "'type'" not in line
