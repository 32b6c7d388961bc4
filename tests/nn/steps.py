"""Run one layer, or one step of a model, on any number of workers; gather in input order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.nn import (
    GAT,
    GATE,
    GCN,
    GIN,
    GIPA,
    LOSSES,
    RGCN,
    GATv2,
    GraphSAGE,
    GraphTransformer,
    SimpleHGN,
    Stack,
)
from graphtheta.partition import Store
from graphtheta.shard.shard import Shard
from graphtheta.tgar import LayerView, View
from tests.devices import DEVICES

__all__ = [
    "CASES",
    "LayerRun",
    "Make",
    "Seen",
    "assert_equal",
    "assert_same_as",
    "loss_and_gradients",
    "run_layer",
    "step",
]

Make = Callable[[], nn.Module]


class Seen(torch.autograd.Function):
    """Identity that records the memory address of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[int]) -> Tensor:
        ctx.seen = seen
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        ctx.seen.append(grads[0].data_ptr())
        return grads[0], None


# Every model, and every branch inside one, for graphs of `to_graph`: 3 features, 2 edge attributes,
# 5 edge types, 4 classes.
CASES: dict[str, Callable[..., Stack]] = {
    "gcn": lambda **o: GCN(3, 6, 4, seed=1, **o),
    "gcn_batch_norm": lambda **o: GCN(3, 6, 4, seed=1, num_layers=3, batch_norm=True, **o),
    "sage_mean": lambda **o: GraphSAGE(3, 2, 4, seed=1, **o),
    "sage_max": lambda **o: GraphSAGE(3, 6, 4, seed=1, aggregator="max", **o),
    "sage_min": lambda **o: GraphSAGE(3, 6, 4, seed=1, aggregator="min", **o),
    "gat": lambda **o: GAT(3, 4, 4, heads=2, out_heads=3, seed=1, **o),
    "gat_edges": lambda **o: GAT(3, 4, 4, heads=2, edge_dim=2, seed=1, batch_norm=True, **o),
    "gatv2": lambda **o: GATv2(3, 4, 4, heads=2, edge_dim=2, seed=1, **o),
    "gin": lambda **o: GIN(3, 6, 4, seed=1, **o),
    "gat-e": lambda **o: GATE(3, 4, 4, heads=2, edge_dim=2, seed=1, **o),
    "rgcn": lambda **o: RGCN(3, 6, 4, num_relations=5, seed=1, **o),
    "rgcn_bases": lambda **o: RGCN(3, 6, 4, num_relations=5, num_bases=2, seed=1, **o),
    "transformer": lambda **o: GraphTransformer(3, 4, 4, heads=2, out_heads=3, seed=1, **o),
    "transformer_edges": lambda **o: GraphTransformer(3, 4, 4, heads=2, edge_dim=2, seed=1, **o),
    "gipa": lambda **o: GIPA(3, 4, 4, heads=2, edge_dim=2, seed=1, **o),
    "gipa_heads": lambda **o: GIPA(3, 4, 4, heads=2, edge_dim=2, bitwise=False, seed=1, **o),
    "simple-hgn": lambda **o: SimpleHGN(
        3, 4, 4, num_relations=5, edge_channels=3, heads=2, seed=1, **o
    ),
}


def assert_equal(got: Any, want: Any, tolerance: float, *, terms: float = 1e-300) -> None:
    """Assert equality relative to the largest number, as rounding of a sum is to its terms.

    If the terms may cancel in all numbers, give their size as `terms`.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    largest = max(terms, np.abs(want).max(initial=0))
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * largest)


def gradient(leaf: Tensor) -> Tensor:
    """Return the gradient of a leaf, or zeros if it has none."""
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def loss_and_gradients(model: nn.Module, shard: Shard, view: View, num_targets: int = 1) -> Tensor:
    """Run one step and leave the gradients of all workers in the parameters; return the loss."""
    y, known = shard.label("y")
    loss, _ = LOSSES["multiclass"](model(view, view.inputs())[known], y[known])
    model.zero_grad()
    with torch.autograd.set_multithreading_enabled(False):  # see `View.token`
        (loss / num_targets + view.token).backward()
    flat = torch.cat(
        [loss.detach().reshape(1)] + [gradient(p).flatten() for p in model.parameters()]
    ).cpu()
    shard.comm.all_reduce(flat.numpy(), stage="gradients")
    parts = flat[1:].split([p.numel() for p in model.parameters()])
    for parameter, part in zip(model.parameters(), parts, strict=True):
        if parameter.requires_grad:
            parameter.grad = part.reshape(parameter.shape).clone().to(parameter.device)
    return flat


def step(
    make: Make,
    graph: Graph | Store,
    workers: int = 1,
    method: str = "node-hash",
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> NDArray[Any]:
    """Return the loss and all gradients of one step with dropout, on rank 0."""

    def work(comm: Communicator) -> NDArray[Any]:
        with DEVICES[device].usable():
            shard = gt.open_shard(graph, comm, method=method, device=DEVICES[device].name)
            model = make().to(shard.device, dtype)
            return loss_and_gradients(model, shard, View(shard, seed=3, step=5)).numpy()

    return gt.run_local(work, workers=workers, timeout_s=30, check=True)


@dataclass(frozen=True)
class LayerRun:
    """Results of one layer on all workers together.

    Attributes:
        out_NO: Outputs by node_key.
        x_grad_NF: Gradients of the inputs by node_key.
        parameter_grads: By name.
        edge_grads: Of edge columns by name, by edge_key.
        bytes_sent: By rank, by stage.
        shards: By rank.
    """

    out_NO: NDArray[Any]
    x_grad_NF: NDArray[Any]
    parameter_grads: dict[str, NDArray[Any]]
    edge_grads: dict[str, NDArray[Any]]
    bytes_sent: dict[int, dict[str, int]]
    shards: dict[int, Shard]


def cotangent(shape: Sequence[int]) -> NDArray[Any]:
    """Return the gradient of the outputs for backward."""
    return np.random.default_rng(99).standard_normal(shape)


def run_layer(
    make: Callable[[], Callable[[LayerView, Tensor], Tensor] | nn.Module],
    graph: Graph,
    workers: int = 1,
    method: str = "node-hash",
    *,
    x_NF: NDArray[Any] | None = None,
    edge_inputs: Sequence[str] = (),
    training: bool = True,
) -> LayerRun:
    """Run a layer forward and backward on all workers.

    Args:
        make: Makes the layer, the same on every rank.
        graph: Graph to partition and run on.
        workers: Number of threads.
        method: Partitioner.
        x_NF: Inputs by node_key; if None, the graph's features.
        edge_inputs: Edge columns whose gradients to return.
        training: Whether the layer is in training mode.
    """
    x_NF = graph.features if x_NF is None else x_NF
    shards: dict[int, Shard] = {}

    def together(rows: Tensor, keys: Tensor, length: int, comm: Communicator) -> NDArray[Any]:
        whole = rows.new_zeros((length, *rows.shape[1:]))
        whole[keys] = rows.detach()
        comm.all_reduce(whole.numpy(), stage="test")
        return whole.numpy()

    def work(comm: Communicator) -> LayerRun:
        shard = gt.open_shard(graph, comm, method=method)
        shards[comm.rank] = shard
        keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
        x = torch.from_numpy(x_NF[keys.numpy()].copy()).requires_grad_()
        layer = make()
        parameters = {}
        if isinstance(layer, nn.Module):
            layer.to(x.dtype).train(training)
            parameters = dict(layer.named_parameters())
        view = View(shard, seed=3, step=5)
        for name in edge_inputs:
            view[0].edge_columns[name] = shard.edge_columns[name].clone().requires_grad_()
        out = layer(view[0], x)
        cot = torch.from_numpy(cotangent((graph.num_nodes, *out.shape[1:])))[keys].to(out.dtype)
        ((out * cot).sum() + view.token).backward()
        grads = {}
        for name, parameter in parameters.items():
            grads[name] = gradient(parameter).numpy()
            comm.all_reduce(grads[name], stage="test")
        edge_grads = {}
        for name in edge_inputs:
            column = view[0].edge_columns[name]
            edge_keys = shard.topology.edge_key.clone()
            edge_grads[name] = together(gradient(column), edge_keys, graph.num_edges, comm)
        return LayerRun(
            together(out, keys, graph.num_nodes, comm),
            together(gradient(x), keys, graph.num_nodes, comm),
            grads,
            edge_grads,
            {},
            shards,
        )

    run = gt.run_local(work, workers=workers, timeout_s=30, check=True)
    for rank, shard in shards.items():
        run.bytes_sent[rank] = dict(shard.channel.stages.bytes_sent)
    return run


def assert_same_as(
    theirs: nn.Module,
    ours: Make,
    graph: Graph,
    setups: Sequence[tuple[int, str]],
    column: str = "",
) -> None:
    """Compare outputs and all gradients of a layer with those of another implementation.

    Args:
        theirs: Called as theirs(x, edge_index), or theirs(x, edge_index, column).
        ours: Makes our layer, whose parameters have the same names.
        graph: Graph in double precision.
        setups: Numbers of workers and partitioners.
        column: Edge column; its gradient is compared if it has one.
    """
    theirs.double()
    for parameter in theirs.parameters():  # initial biases and eps are zeros
        nn.init.normal_(parameter)
    weights = theirs.state_dict()
    x = torch.from_numpy(graph.features.copy()).requires_grad_()
    edge_index = torch.from_numpy(np.stack([graph.src, graph.dst]))
    extra = [torch.from_numpy(graph.column(column).copy())] if column else []
    floating = [t.requires_grad_() for t in extra if t.is_floating_point()]
    out = theirs(x, edge_index, *extra)
    out.backward(torch.from_numpy(cotangent(out.shape)))
    # All together: the gradient of a parameter that cancels in the softmax is only rounding.
    names, parameters = zip(*theirs.named_parameters(), strict=True)
    want = torch.cat([gradient(p).flatten() for p in parameters])
    assert want.any()

    def make() -> nn.Module:
        layer = ours().double()
        assert sorted(layer.state_dict()) == sorted(weights)
        layer.load_state_dict(weights)
        return layer

    for workers, method in setups:
        run = run_layer(make, graph, workers, method, edge_inputs=[column] if floating else [])
        assert_equal(run.out_NO, out.detach(), 1e-10)
        assert_equal(run.x_grad_NF, gradient(x), 1e-10)
        assert_equal(np.concatenate([run.parameter_grads[n].ravel() for n in names]), want, 1e-10)
        for leaf in floating:
            assert_equal(run.edge_grads[column], gradient(leaf), 1e-10)
