"""Layers with PyG's weights have PyG's outputs and gradients, on any number of workers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.data.graph import Graph
from graphtheta.data.schema import matrix_column
from graphtheta.nn import (
    APPNP,
    GCNII,
    SGC,
    SIGN,
    GATConv,
    GATEConv,
    GATv2Conv,
    GCN2Conv,
    GCNConv,
    GINConv,
    PNAConv,
    RGATConv,
    RGCNConv,
    SAGEConv,
    TransformerConv,
)
from tests.nn.steps import assert_equal, assert_same_as, cotangent, run_layer

pyg = pytest.importorskip("torch_geometric.nn")
pyg_utils = pytest.importorskip("torch_geometric.utils")

NUM_NODES, NUM_EDGES, FEATURES, ATTRIBUTES, RELATIONS = 40, 240, 5, 3, 4
SOME_SETUPS = [(1, "node-hash"), (2, "node-hash"), (3, "dbh"), (7, "dbh")]
OTHER_SETUPS = [(2, "dbh"), (3, "node-hash"), (7, "node-hash")]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Return a graph without ties, with isolated nodes, parallel edges and self-loops."""
    rng = np.random.default_rng(4)
    src, dst = rng.integers(0, NUM_NODES - 4, (2, NUM_EDGES))
    src[:6] = dst[:6]
    src[6:12], dst[6:12] = src[12:18], dst[12:18]
    # One self-loop of a node at most: torch gives the weight of an overwritten one a gradient, too.
    loops = np.flatnonzero(src == dst)
    again = np.setdiff1d(loops, loops[np.unique(src[loops], return_index=True)[1]])
    dst[again] = (dst[again] + 1) % (NUM_NODES - 4)
    nodes = {
        "id": pa.array(np.arange(NUM_NODES)),
        "features": matrix_column(rng.standard_normal((NUM_NODES, FEATURES))),
    }
    edges = {
        "src": src,
        "dst": dst,
        "attr": matrix_column(rng.standard_normal((NUM_EDGES, ATTRIBUTES))),
        "type": rng.integers(0, RELATIONS, NUM_EDGES),
        "weight": rng.random(NUM_EDGES),
    }
    return Graph.from_arrow(pa.table(nodes), pa.table(edges))


class PygGATE(pyg.MessagePassing):
    """GAT-E written with PyG."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.heads, self.channels = heads, channels
        self.lin = nn.Linear(FEATURES, heads * channels, bias=False)
        self.lin_edge = nn.Linear(ATTRIBUTES, heads * channels, bias=False)
        self.lin_message = nn.Linear(ATTRIBUTES, heads * channels, bias=False)
        for name in ("att_src", "att_dst", "att_edge"):
            self.register_parameter(name, nn.Parameter(torch.randn(1, heads, channels)))
        self.bias = nn.Parameter(torch.randn(heads * channels))

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        edge_index, edge_attr = pyg_utils.remove_self_loops(edge_index, edge_attr)
        edge_index, edge_attr = pyg_utils.add_self_loops(
            edge_index, edge_attr, fill_value="mean", num_nodes=x.shape[0]
        )
        z = self.lin(x).view(-1, self.heads, self.channels)
        out = self.propagate(edge_index, z=z, edge_attr=edge_attr, size=(len(x), len(x)))
        return out.flatten(1) + self.bias

    def message(
        self, z_i: Tensor, z_j: Tensor, edge_attr: Tensor, index: Tensor, size_i: int
    ) -> Tensor:
        shape = (-1, self.heads, self.channels)
        score = (z_j * self.att_src).sum(-1) + (z_i * self.att_dst).sum(-1)
        score = score + (self.lin_edge(edge_attr).view(shape) * self.att_edge).sum(-1)
        alpha = pyg_utils.softmax(F.leaky_relu(score, 0.2), index, num_nodes=size_i)
        return alpha.unsqueeze(-1) * (z_j + self.lin_message(edge_attr).view(shape))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU(), nn.Linear(6, 4))


def attention(ours: Any, theirs: Any, **options: Any) -> tuple[Callable[[], Any], Any]:
    return lambda: ours(FEATURES, 4, heads=3, **options), theirs(FEATURES, 4, heads=3, **options)


def transformer(**options: Any) -> tuple[Callable[[], Any], Any]:
    return attention(TransformerConv, pyg.TransformerConv, **options)


def gcn(out: int, **weighted: bool) -> tuple[Callable[[], Any], Any]:
    return lambda: GCNConv(FEATURES, out, **weighted), pyg.GCNConv(FEATURES, out)


class PygWeightedSum(pyg.MessagePassing):
    """GraphSAGE or GIN with weights, written with PyG: their layers take none."""

    def __init__(self, layer: nn.Module, aggr: str = "add") -> None:
        super().__init__(aggr=aggr)
        for name, module in layer.named_children():
            if name in ("lin_l", "lin_r", "nn"):
                setattr(self, name, module)
        if isinstance(layer, pyg.GINConv):
            self.register_buffer("eps", torch.zeros(1))

    def forward(self, x: Tensor, edge_index: Tensor, edge_weight: Tensor) -> Tensor:
        m = self.propagate(edge_index, x=x, edge_weight=edge_weight)
        if hasattr(self, "nn"):
            return self.nn((1 + self.eps) * x + m)
        return self.lin_l(m) + self.lin_r(x)

    def message(self, x_j: Tensor, edge_weight: Tensor) -> Tensor:
        return edge_weight.view(-1, 1) * x_j


def weighted_sage(aggregator: str, out: int) -> tuple[Callable[[], Any], Any]:
    ours = partial(SAGEConv, FEATURES, out, aggregator=aggregator, weighted=True)
    theirs = pyg.SAGEConv(FEATURES, out, aggr=aggregator)
    return ours, PygWeightedSum(theirs, aggregator)


def sage(aggregator: str, out: int) -> tuple[Callable[[], Any], Any]:
    return (
        lambda: SAGEConv(FEATURES, out, aggregator=aggregator),
        pyg.SAGEConv(FEATURES, out, aggr=aggregator),
    )


def rgcn(out: int = 4, **options: Any) -> tuple[Callable[[], Any], Any]:
    return (
        lambda: RGCNConv(FEATURES, out, num_relations=RELATIONS, **options),
        pyg.RGCNConv(FEATURES, out, num_relations=RELATIONS, **options),
    )


def rgat(**options: Any) -> tuple[Callable[[], Any], Any]:
    theirs = pyg.RGATConv(FEATURES, 4, RELATIONS, heads=3, **options)
    for name in ("w", "l1", "b1", "l2", "b2"):  # of other forms of attention
        delattr(theirs, name)
    return lambda: RGATConv(FEATURES, 4, num_relations=RELATIONS, heads=3, **options), theirs


def pna(out: int, **options: Any) -> tuple[Callable[[], Any], Any]:
    deg = torch.tensor([4, 2, 6, 10, 9, 5, 4])
    scalers = ["identity", "amplification", "attenuation", "linear", "inverse_linear"]
    arguments = FEATURES, out, ["mean", "min", "max", "std"], scalers, deg

    def make() -> nn.Module:
        layer = PNAConv(*arguments, **options)
        # torch computes the means of degrees in float32.
        mine, pygs = layer.aggr_module.avg_deg_log, theirs.aggr_module.avg_deg_log
        assert torch.allclose(mine.double(), pygs.double())
        return layer

    theirs = pyg.PNAConv(*arguments, **options)
    return make, theirs


class Ones(pyg.MessagePassing):
    """A layer of PyG on edges of weight 1, since it ignores `improved` without weights."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = [layer]  # not a submodule
        for name, module in layer.named_children():
            setattr(self, name, module)
        self.bias = layer.bias

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.layer[0](x, edge_index, x.new_ones(edge_index.shape[1]))


class PygGCN2(nn.Module):
    """GCNII's layer, whose initial rows are its input."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        conv = pyg.GCN2Conv(FEATURES, 0.3, 0.5, 2, **options)
        for name, parameter in conv.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.conv = [conv]  # not a submodule

    def forward(self, x: Tensor, edge_index: Tensor, weight: Tensor | None = None) -> Tensor:
        conv = self.conv[0].double()
        for name, parameter in self.named_parameters():
            setattr(conv, name, parameter)
        return conv(x, x, edge_index, weight)


def gcn2(**options: Any) -> tuple[Callable[[], Any], Any]:
    return lambda: GCN2Conv(FEATURES, 0.3, 0.5, 2, **options), PygGCN2(**options)


class OfView(nn.Module):
    """A model that is called with the view of one layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, view: Any, x: Tensor) -> Tensor:
        return self.model(view.view, x)


class PygModel(nn.Module):
    """A deep model of PyG's layers, whose parameters have the names of ours."""

    def __init__(self, model: nn.Module, forward: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.lins = nn.ModuleList(
            nn.Linear(lin.in_features, lin.out_features) for lin in model.lins
        )
        if isinstance(model, GCNII):
            sizes = [(6, conv.alpha, 0.5, k + 1) for k, conv in enumerate(model.convs)]
            self.model.convs = nn.ModuleList(pyg.GCN2Conv(*size) for size in sizes)
        self.run = forward

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.run(self.model, x, edge_index)


def pyg_appnp(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    h = model.lins[1](model.lins[0](x).relu())
    return pyg.APPNP(4, 0.2)(h, edge_index)


def pyg_gcnii(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    h = first = model.lins[0](x).relu()
    for conv in model.convs:
        h = conv(h, first, edge_index).relu()
    return model.lins[1](h)


def pyg_sgc(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    conv = pyg.SGConv(FEATURES, len(model.lins[0].bias), K=4).double()
    conv.lin = model.lins[0]
    return conv(x, edge_index)


def pyg_sign(model: Any, x: Tensor, edge_index: Tensor) -> Tensor:
    powers = [x]
    for _ in range(4):
        powers.append(pyg.APPNP(1, 0.0)(powers[-1], edge_index))
    hidden = [lin(p).relu() for lin, p in zip(model.lins[:-1], powers, strict=True)]
    return model.lins[-1](torch.cat(hidden, 1))


def deep(
    ours: Any, theirs: Callable[..., Tensor], out: int = 4, **options: Any
) -> tuple[Callable[[], Any], Any]:
    def make() -> nn.Module:
        return ours(FEATURES, 6, out, num_layers=4, dropout=0.0, weighted=False, **options)

    return lambda: OfView(make()), PygModel(make(), theirs)


# Name: (ours, theirs, extra arguments of theirs).
PAIRS: dict[str, Callable[[], tuple[Callable[[], Any], Any, str]]] = {
    "gcn_narrow": lambda: (*gcn(4, weighted=False), ""),
    "gcn_even": lambda: (*gcn(FEATURES, weighted=False), ""),
    "gcn_wide": lambda: (*gcn(7, weighted=False), ""),
    "gcn_weights_narrow": lambda: (*gcn(4), "weight"),
    "gcn_weights_wide": lambda: (*gcn(7, weighted=True), "weight"),
    "gcn_no_loops": lambda: (
        lambda: GCNConv(FEATURES, 4, add_self_loops=False),
        pyg.GCNConv(FEATURES, 4, add_self_loops=False),
        "weight",
    ),
    "gcn_not_normalised": lambda: (
        lambda: GCNConv(FEATURES, 7, normalize=False, bias=False),
        pyg.GCNConv(FEATURES, 7, normalize=False, bias=False),
        "weight",
    ),
    "gcn_improved": lambda: (
        lambda: GCNConv(FEATURES, 4, improved=True),
        pyg.GCNConv(FEATURES, 4, improved=True),
        "weight",
    ),
    "gcn_improved_ones": lambda: (
        lambda: GCNConv(FEATURES, 7, improved=True, weighted=False),
        Ones(pyg.GCNConv(FEATURES, 7, improved=True)),
        "",
    ),
    "gat_fill": lambda: (
        *attention(GATConv, pyg.GATConv, edge_dim=ATTRIBUTES, fill_value=0.5),
        "attr",
    ),
    "gatv2_fill": lambda: (
        *attention(GATv2Conv, pyg.GATv2Conv, edge_dim=ATTRIBUTES, fill_value=-1.0),
        "attr",
    ),
    "sage_several": lambda: (
        lambda: SAGEConv(FEATURES, 4, aggr=["mean", "max", "std", "add"]),
        pyg.SAGEConv(FEATURES, 4, aggr=["mean", "max", "std", "add"]),
        "",
    ),
    "gcnii": lambda: (*gcn2(), "weight"),
    "gcnii_two_weights": lambda: (*gcn2(shared_weights=False), "weight"),
    "model_appnp": lambda: (*deep(APPNP, pyg_appnp, alpha=0.2), ""),
    "model_gcnii": lambda: (*deep(GCNII, pyg_gcnii), ""),
    "model_sgc": lambda: (*deep(SGC, pyg_sgc), ""),
    "model_sgc_wide": lambda: (*deep(SGC, pyg_sgc, out=7), ""),
    "model_sign": lambda: (*deep(SIGN, pyg_sign), ""),
    "gat_options": lambda: (
        *attention(GATConv, pyg.GATConv, add_self_loops=False, bias=False, residual=True),
        "",
    ),
    "gatv2_options": lambda: (
        *attention(
            GATv2Conv, pyg.GATv2Conv, residual=True, share_weights=True, bias=False, concat=False
        ),
        "",
    ),
    "gine": lambda: (
        lambda: GINConv(nn=mlp(), edge_dim=ATTRIBUTES),
        pyg.GINEConv(mlp(), edge_dim=ATTRIBUTES),
        "attr",
    ),
    "sage_options": lambda: (
        lambda: SAGEConv(FEATURES, 7, aggr="sum", normalize=True, project=True, bias=False),
        pyg.SAGEConv(FEATURES, 7, aggr="sum", normalize=True, project=True, bias=False),
        "",
    ),
    "sage_std": lambda: (
        lambda: SAGEConv(FEATURES, 4, aggr="std", root_weight=False),
        pyg.SAGEConv(FEATURES, 4, aggr="std", root_weight=False),
        "",
    ),
    "pna": lambda: (*pna(6, towers=3), ""),
    "pna_edges": lambda: (*pna(4, edge_dim=ATTRIBUTES, towers=1), "attr"),
    "sage_sum_weights": lambda: (*weighted_sage("sum", 7), "weight"),
    "sage_mean_weights": lambda: (*weighted_sage("mean", 3), "weight"),
    "sage_max_weights": lambda: (*weighted_sage("max", 4), "weight"),
    "gin_weights": lambda: (
        lambda: GINConv(mlp(), weighted=True),
        PygWeightedSum(pyg.GINConv(mlp())),
        "weight",
    ),
    "sage_mean_narrow": lambda: (*sage("mean", 3), ""),
    "sage_mean_even": lambda: (*sage("mean", FEATURES), ""),
    "sage_mean_wide": lambda: (*sage("mean", 7), ""),
    "sage_sum_narrow": lambda: (*sage("sum", 3), ""),
    "sage_sum_wide": lambda: (*sage("sum", 7), ""),
    "sage_max": lambda: (*sage("max", 4), ""),
    "sage_min": lambda: (*sage("min", 4), ""),
    "gat": lambda: (*attention(GATConv, pyg.GATConv), ""),
    "gat_mean_heads": lambda: (*attention(GATConv, pyg.GATConv, concat=False), ""),
    "gat_edges": lambda: (*attention(GATConv, pyg.GATConv, edge_dim=ATTRIBUTES), "attr"),
    "gatv2": lambda: (*attention(GATv2Conv, pyg.GATv2Conv), ""),
    "gatv2_edges": lambda: (*attention(GATv2Conv, pyg.GATv2Conv, edge_dim=ATTRIBUTES), "attr"),
    "gin": lambda: (lambda: GINConv(mlp()), pyg.GINConv(mlp()), ""),
    "gin_eps": lambda: (
        lambda: GINConv(mlp(), eps=0.3, train_eps=True),
        pyg.GINConv(mlp(), eps=0.3, train_eps=True),
        "",
    ),
    "gat-e": lambda: (
        lambda: GATEConv(FEATURES, 4, heads=3, edge_dim=ATTRIBUTES),
        PygGATE(3, 4),
        "attr",
    ),
    "transformer": lambda: (*transformer(), ""),
    "transformer_beta": lambda: (*transformer(beta=True), ""),
    "transformer_mean_heads": lambda: (*transformer(concat=False, beta=True), ""),
    "transformer_edges": lambda: (*transformer(edge_dim=ATTRIBUTES), "attr"),
    "transformer_edges_beta": lambda: (*transformer(edge_dim=ATTRIBUTES, beta=True), "attr"),
    "transformer_bare": lambda: (*transformer(bias=False, root_weight=False, beta=True), ""),
    "rgcn": lambda: (*rgcn(), "type"),
    "rgcn_wide": lambda: (*rgcn(9), "type"),
    "rgcn_bases": lambda: (*rgcn(num_bases=2), "type"),
    "rgcn_blocks": lambda: (*rgcn(10, num_blocks=5), "type"),
    "rgat": lambda: (*rgat(), "type"),
    "rgat_bases": lambda: (*rgat(num_bases=2, concat=False, bias=False), "type"),
    "rgcn_sum": lambda: (*rgcn(aggr="sum", root_weight=False, bias=False), "type"),
}


@pytest.mark.parametrize(
    "setups",
    [SOME_SETUPS, pytest.param(OTHER_SETUPS, marks=pytest.mark.slow)],
    ids=["some", "rest"],
)
@pytest.mark.parametrize("name", PAIRS)
def test_layer_same_as_pyg(name: str, setups: list[tuple[int, str]], graph: Graph) -> None:
    torch.manual_seed(0)
    ours, theirs, column = PAIRS[name]()
    assert_same_as(theirs, ours, graph, setups, column)


@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), (2, "node-hash"), (3, "dbh")])
@pytest.mark.parametrize("name", ["gat_edges", "gatv2", "transformer_edges"])
def test_attention_weights_equal_pygs(name: str, workers: int, method: str, graph: Graph) -> None:
    torch.manual_seed(0)
    make, theirs, column = PAIRS[name]()
    theirs = theirs.double()
    ends = torch.from_numpy(np.stack([graph.src, graph.dst]))
    extra = [torch.from_numpy(graph.column(column).copy())] if column else []
    x = torch.from_numpy(graph.features.copy())
    _, (_, want) = theirs(x, ends, *extra, return_attention_weights=True)
    want, has_loops = want.detach(), make().self_loops
    of_edges = torch.zeros(NUM_EDGES, 3, dtype=torch.float64)
    read = ends[0] != ends[1] if has_loops else torch.ones(NUM_EDGES, dtype=torch.bool)
    of_edges[read] = want[: int(read.sum())]

    def job(comm: Any) -> None:
        shard = gt.open_shard(graph, comm, method=method)
        layer = make().double()
        layer.load_state_dict(theirs.state_dict())
        view = gt.tgar.View(shard)
        rows = x[shard.node_key_L[: shard.num_masters].copy()]
        token = view.token
        found = layer.attention_weights(view[0], rows)
        assert view.token is token
        assert_equal(found.edges, of_edges[view[0].block.edge_key.copy()], 1e-12, terms=1.0)
        assert (found.loops is not None) == has_loops
        if found.loops is not None:
            assert_equal(found.loops, want[-NUM_NODES:][view[0].node_keys.copy()], 1e-12, terms=1.0)

    gt.run_local(job, workers=workers, timeout_s=60, check=True)


def test_max_of_zero_gives_the_whole_gradient_to_one_winner(graph: Graph) -> None:
    # PyG on CPU takes an initial zero for a tie and halves the gradient; ours is the derivative.
    x_NF = -np.abs(graph.features)
    first = int(np.flatnonzero(np.diff(np.sort(graph.dst)) == 0)[0])
    hub = int(np.sort(graph.dst)[first])
    source = int(graph.src[graph.dst == hub][0])
    x_NF[source] = 0
    x = torch.from_numpy(x_NF)

    def make() -> nn.Module:
        layer = SAGEConv(FEATURES, FEATURES, aggregator="max").double()
        nn.init.eye_(layer.lin_l.weight)
        nn.init.zeros_(layer.lin_l.bias)
        nn.init.zeros_(layer.lin_r.weight)
        return layer

    whole = run_layer(make, graph, x_NF=x.numpy())
    reached = np.unique(graph.dst[graph.src == source])
    want = cotangent((NUM_NODES, FEATURES))[reached].sum(0)
    assert_equal(whole.x_grad_NF[source], want, 1e-12)
    for workers, method in SOME_SETUPS[1:3]:
        run = run_layer(make, graph, workers, method, x_NF=x.numpy())
        assert_equal(run.x_grad_NF, whole.x_grad_NF, 1e-12)
