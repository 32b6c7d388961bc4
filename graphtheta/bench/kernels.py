"""Time of Gather and Sum on one worker, next to torch's sparse product and memory bandwidth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from graphtheta.bench.bandwidth import TRIAD_BYTES, triad_seconds
from graphtheta.bench.executors import executors, require_fused
from graphtheta.bench.record import Record, new_record
from graphtheta.bench.timing import Clock, Run, alternate
from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn import GATConv, GATEConv, GATv2Conv, seeded
from graphtheta.shard.shard import Shard
from graphtheta.tgar import TGARLayer, View

__all__ = ["KERNELS", "Aggregate", "Kernel", "kernel_records", "layer_run", "num_records"]

EDGE_FEATURES = 16
_ATTENTION = {"in_channels": 64, "out_channels": 16, "heads": 4}


class Aggregate(TGARLayer):
    """Layer of Gather and Sum only: aggregate neighbours' values, optionally weighted.

    Args:
        aggregator: "sum", "mean", "max" or "min".
        weighted: Whether to multiply messages by the edge column `weight`.

    Shape:
        h: (M, F). Returns (M, F).
    """

    def __init__(self, aggregator: str, *, weighted: bool = False) -> None:
        super().__init__()
        self.aggregator, self.weighted = aggregator, weighted

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        message: Tensor = src["h"]
        return message * edge["weight"].unsqueeze(-1) if self.weighted else message


@dataclass(frozen=True)
class Kernel:
    """Layer to measure.

    Attributes:
        layer: Returns the layer for a dropout probability.
        width: Number of input features. If None, any number.
        dropouts: Dropout probabilities of attention to measure.
        torch_csr: Values of the adjacency matrix with which torch's sparse product computes the
            same: the edge column "weight", or "ones". If None, it computes something else.
    """

    layer: Callable[[float], TGARLayer]
    width: int | None = None
    dropouts: tuple[float, ...] = (0.0,)
    torch_csr: str | None = None


def _attention(make: Callable[..., TGARLayer], **options: Any) -> Kernel:
    return Kernel(
        lambda dropout: make(**_ATTENTION, **options, dropout=dropout),
        width=_ATTENTION["in_channels"],
        dropouts=(0.0, 0.6),
    )


KERNELS: dict[str, Kernel] = {
    "sum": Kernel(lambda _: Aggregate("sum"), torch_csr="ones"),
    "weighted-sum": Kernel(lambda _: Aggregate("sum", weighted=True), torch_csr="weight"),
    "mean": Kernel(lambda _: Aggregate("mean")),
    "max": Kernel(lambda _: Aggregate("max")),
    "gat": _attention(GATConv),
    "gatv2": _attention(GATv2Conv),
    "gat-e": _attention(GATEConv, edge_dim=EDGE_FEATURES),
}


def num_records(kernels: Sequence[str], widths: Sequence[int]) -> int:
    """Return how many records `kernel_records` yields.

    Raises:
        ConfigError: If a kernel is unknown.
    """
    for name in kernels:
        need_name(name, KERNELS, "kernel")
    return 1 + sum(4 if KERNELS[name].torch_csr else 2 for name, *_ in _cases(kernels, widths))


def kernel_records(
    shard: Shard,
    graph: Mapping[str, Any],
    *,
    threads: int,
    kernels: Sequence[str] = tuple(KERNELS),
    widths: Sequence[int] = (16, 64, 128, 256),
    runs: int = 7,
    allow_chunked: bool = False,
) -> Iterator[Record]:
    """Measure memory bandwidth, then kernels, forward and backward, and yield their records.

    The edge columns `weight` and `attr` are replaced by random values. `gathered_bytes` of a sum
    is one row of features per edge, whether or not it comes from a cache. Ours and torch's
    product run in turns.

    Args:
        shard: Shard of the whole graph.
        graph: Fields of the case that describe the graph.
        threads: Number of threads.
        kernels: Keys of `KERNELS`.
        widths: Numbers of features of kernels that take any.
        runs: Number of timed runs.
        allow_chunked: Whether layers may run on the chunked executor.

    Raises:
        ConfigError: If there are several workers, or a layer ran on the chunked executor and
            `allow_chunked` is false.
    """
    if shard.comm.size > 1:
        raise ConfigError(
            f"bench kernels: expected one worker, got {shard.comm.size}. Run it without mpiexec."
        )
    machine = {"threads": threads, "workers": 1}
    yield new_record(
        "triad", {"kernel": "triad", **machine}, triad_seconds(runs), moved_bytes=TRIAD_BYTES
    )
    torch.manual_seed(0)
    shard.edge_columns["weight"] = torch.rand(shard.num_edges)
    shard.edge_columns["attr"] = torch.randn(shard.num_edges, EDGE_FEATURES)
    for name, width, dropout in _cases(kernels, widths):
        kernel = KERNELS[name]
        with seeded(0):
            layer = kernel.layer(dropout)
        x = torch.randn(shard.num_masters, width)
        functions = {"graphtheta": layer_run(layer, shard, x, allow_chunked=allow_chunked)}
        if kernel.torch_csr:
            functions["torch-csr"] = _torch_run(shard, x, kernel.torch_csr)
        gathered = None if kernel.width else 4 * width * shard.num_edges
        for library, stages in alternate(functions, runs=runs).items():
            ran = executors(layer) if library == "graphtheta" else ["mkl"]
            for direction, samples in stages.items():
                case = {"kernel": name, "width": width, "dropout": dropout, "direction": direction}
                case |= {"library": library, **graph, **machine}
                yield new_record("kernels", case, samples, executors=ran, gathered_bytes=gathered)


def _cases(kernels: Sequence[str], widths: Sequence[int]) -> Iterator[tuple[str, int, float]]:
    """Yield each kernel with its numbers of features and its dropout probabilities."""
    for name in kernels:
        kernel = KERNELS[name]
        for width in widths if kernel.width is None else [kernel.width]:
            for dropout in kernel.dropouts:
                yield name, width, dropout


def layer_run(layer: TGARLayer, shard: Shard, x: Tensor, *, allow_chunked: bool) -> Run:
    """Return a function that runs a layer forward and backward, to input and parameters.

    Args:
        layer: Layer in training mode.
        shard: Shard of the whole graph.
        x: Input, (M, F).
        allow_chunked: Whether the layer may run on the chunked executor.
    """
    x = x.detach().requires_grad_()
    grads: list[Tensor] = []
    step = 0

    def run() -> Mapping[str, float]:
        nonlocal step
        clock, step = Clock(), step + 1
        view = View(shard, step=step)
        with clock.measure("forward"):
            out = layer(view[0], x)
        if not allow_chunked:
            require_fused(layer)
        if not grads:
            grads.append(torch.randn_like(out))
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        with clock.measure("backward"):
            out.backward(grads[0])
        return clock.seconds

    return run


def _torch_run(shard: Shard, x: Tensor, values: str) -> Run:
    """Return a function that multiplies by the adjacency matrix, then by its transpose."""
    topology, size = shard.topology, shard.num_masters
    weight = torch.ones(shard.num_edges) if values == "ones" else shard.edge_columns[values]
    indptr = topology.indptr.astype(np.int32)
    whole = scipy.sparse.csr_matrix((weight.numpy(), topology.src.numpy(), indptr), (size, size))
    forward, backward = (_sparse(matrix) for matrix in (whole, whole.T.tocsr()))

    def run() -> Mapping[str, float]:
        clock = Clock()
        with clock.measure("forward"):
            out = forward @ x
        with clock.measure("backward"):
            backward @ out
        return clock.seconds

    return run


def _sparse(matrix: Any) -> Tensor:
    indptr, indices, data = map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "Sparse CSR tensor support is in beta state"
        return torch.sparse_csr_tensor(indptr, indices, data, matrix.shape)
