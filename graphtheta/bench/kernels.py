"""How fast Gather and Sum run on one worker, beside torch's sparse product and a memory stream."""

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
from graphtheta.bench.executors import executors, refuse_chunked
from graphtheta.bench.record import Record, new_record
from graphtheta.bench.timing import Clock, Run, alternate
from graphtheta.errors import ConfigError
from graphtheta.nn import GATConv, GATEConv, GATv2Conv, seeded
from graphtheta.shard.shard import Shard
from graphtheta.tgar import TGARLayer, View

__all__ = ["KERNELS", "Aggregate", "Kernel", "kernel_records", "layer_run", "num_records"]

EDGE_FEATURES = 16
_ATTENTION = {"in_channels": 64, "out_channels": 16, "heads": 4}


class Aggregate(TGARLayer):
    """Nothing but Gather and Sum: neighbours' values, times the edge column `weight` if asked.

    Args:
        aggregator: "sum", "mean", "max" or "min".
        weighted: Whether messages are scaled.

    Shape:
        h: (M, F). Returns (M, F).
    """

    def __init__(self, aggregator: str, *, weighted: bool = False) -> None:
        super().__init__()
        self.aggregator, self.weighted = aggregator, weighted

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        """Send the node's value."""
        message: Tensor = src["h"]
        return message * edge["weight"].unsqueeze(-1) if self.weighted else message


@dataclass(frozen=True)
class Kernel:
    """Something to measure.

    Attributes:
        layer: Makes it, given a dropout.
        width: Columns of its input; None: all that are asked for.
        dropouts: Of attention.
        torch_csr: Whether torch's sparse product computes the same: the weights, or ones.
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
        ConfigError: If there is no such kernel.
    """
    if unknown := [name for name in kernels if name not in KERNELS]:
        raise ConfigError(
            f"bench kernels: unknown kernel '{unknown[0]}'. Choose among {', '.join(KERNELS)}."
        )
    chosen = [KERNELS[name] for name in kernels]
    return 1 + sum(
        (1 if k.width else len(widths)) * len(k.dropouts) * (4 if k.torch_csr else 2)
        for k in chosen
    )


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
    """Measure the memory's speed, then kernels, forward and backward; yield a record each.

    Edge columns are random, whatever the graph has. `gathered_bytes` of a plain sum is what a run
    reads of neighbours' rows, each edge's counted, caches or not. torch's product and ours take
    turns.

    Args:
        shard: The whole graph: one worker's.
        graph: What the case says of it.
        threads: What they run on.
        kernels: Keys of `KERNELS`.
        widths: Columns of kernels that take any number.
        runs: Samples of each.
        allow_chunked: Whether kernels may run by the chunked executor.

    Raises:
        ConfigError: If there are several workers, or a kernel did not run fused.
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
    for name in kernels:
        kernel = KERNELS[name]
        for width in widths if kernel.width is None else [kernel.width]:
            for dropout in kernel.dropouts:
                with seeded(0):
                    layer = kernel.layer(dropout)
                x = torch.randn(shard.num_masters, width)
                contenders = {"graphtheta": layer_run(layer, shard, x, allow_chunked=allow_chunked)}
                if kernel.torch_csr:
                    contenders["torch-csr"] = _torch_run(shard, x, kernel.torch_csr)
                for library, parts in alternate(contenders, runs=runs).items():
                    ran = executors(layer) if library == "graphtheta" else ["mkl"]
                    for direction, samples in parts.items():
                        case = {
                            "kernel": name,
                            "width": width,
                            "dropout": dropout,
                            "direction": direction,
                            "library": library,
                            **graph,
                            **machine,
                        }
                        yield new_record(
                            "kernels",
                            case,
                            samples,
                            executors=ran,
                            gathered_bytes=None if kernel.width else 4 * width * shard.num_edges,
                        )


def layer_run(layer: TGARLayer, shard: Shard, x: Tensor, *, allow_chunked: bool) -> Run:
    """Return what runs a layer forward and backward, with gradients of input and parameters.

    Args:
        layer: In training.
        shard: One worker's.
        x: (M, F).
        allow_chunked: Whether it may run by the chunked executor.
    """
    x = x.detach().requires_grad_()
    grads: list[Tensor] = []
    step = 0

    def run() -> Mapping[str, float]:
        nonlocal step
        clock, step = Clock(), step + 1
        view = View(shard, step=step)
        with clock.part("forward"):
            out = layer(view[0], x)
        if not allow_chunked:
            refuse_chunked(layer)
        if not grads:
            grads.append(torch.randn_like(out))
        for tensor in (x, *layer.parameters()):
            tensor.grad = None
        with clock.part("backward"):
            out.backward(grads[0])
        return clock.seconds

    return run


def _torch_run(shard: Shard, x: Tensor, values: str) -> Run:
    """Return what multiplies by the adjacency matrix, and for backward by its transpose."""
    topology, size = shard.topology, shard.num_masters
    weight = torch.ones(shard.num_edges) if values == "ones" else shard.edge_columns[values]
    indptr = topology.indptr.astype(np.int32)
    whole = scipy.sparse.csr_matrix((weight.numpy(), topology.src.numpy(), indptr), (size, size))
    forward, backward = (_sparse(matrix) for matrix in (whole, whole.T.tocsr()))

    def run() -> Mapping[str, float]:
        clock = Clock()
        with clock.part("forward"):
            out = forward @ x
        with clock.part("backward"):
            backward @ out
        return clock.seconds

    return run


def _sparse(matrix: Any) -> Tensor:
    indptr, indices, data = map(torch.from_numpy, (matrix.indptr, matrix.indices, matrix.data))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that sparse tensors are new
        return torch.sparse_csr_tensor(indptr, indices, data, matrix.shape)
