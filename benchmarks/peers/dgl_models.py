"""Layers, models and loaders of DGL 1.1.3, in the forms DGL recommends.

DGL 1.1.3 (2023) is the last version that does not require a particular version of torch. Ids are
int32, CSC and CSR are built when the graph is loaded, and self-loops are added once, with the mean
of the attributes of a node's in-edges. GraphConv normalises a directed graph by out-degrees and
in-degrees, whereas GCN, PyG and GraphTheta use in-degrees for both. The form `edge-weight` computes
the latter with precomputed weights; `plain` is GraphConv's own normalisation, at the same cost or
less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import dgl
import torch
from dgl import function as fn
from dgl.nn import EdgeGATConv, GATConv, GATv2Conv, GraphConv, SAGEConv
from torch import Tensor, nn
from torch.nn import functional as F

VERSION = dgl.__version__
FORMS = {
    "gather": ("plain",),
    "attention": ("plain",),
    "epoch": ("plain", "edge-weight"),
    "sample": ("plain",),
    "steps": ("0 workers", "1 worker", "1 worker, pinned"),
}

# DGL's parameter name for each of PyG's; matrices of GraphConv are transposed.
_NAMES = {
    GraphConv: {"lin.weight": "weight", "bias": "bias"},
    SAGEConv: {
        "lin_l.weight": "fc_neigh.weight",
        "lin_l.bias": "fc_self.bias",
        "lin_r.weight": "fc_self.weight",
    },
    GATConv: {
        "lin.weight": "fc.weight",
        "att_src": "attn_l",
        "att_dst": "attn_r",
        "bias": "bias",
    },
    GATv2Conv: {
        "lin_l.weight": "fc_src.weight",
        "lin_l.bias": "fc_src.bias",
        "lin_r.weight": "fc_dst.weight",
        "lin_r.bias": "fc_dst.bias",
        "att": "attn",
    },
    EdgeGATConv: {
        "lin.weight": "fc.weight",
        "lin_edge.weight": "fc_edge.weight",
        "att_src": "attn_l",
        "att_dst": "attn_r",
        "att_edge": "attn_edge",
        "bias": "bias",
    },
}


def gather_sum(arrays: Any, form: str, *, weighted: bool) -> Callable[[Tensor], Tensor]:
    """Return a function that sums over in-edges by `update_all` (u_mul_e or copy_u)."""
    graph = _graph(arrays.src, arrays.dst, arrays.num_nodes)
    graph.edata["weight"] = arrays.weight[:, None]
    message = fn.u_mul_e("h", "weight", "m") if weighted else fn.copy_u("h", "m")

    def run(x: Tensor) -> Tensor:
        with graph.local_scope():
            graph.ndata["h"] = x
            graph.update_all(message, fn.sum("m", "h"))
            return graph.ndata["h"]

    return run


def attention(
    arrays: Any, layer: str, form: str, *, dropout: float
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return EdgeGATConv (edge attributes in score and message), and a function that runs it."""
    src, dst, attr = arrays.with_loops()
    graph = _graph(src, dst, arrays.num_nodes)
    conv = EdgeGATConv(64, attr.shape[1], 16, num_heads=4, attn_drop=dropout, residual=False)
    return conv, lambda x: conv(graph, x, attr).flatten(1)


def model(arrays: Any, name: str, form: str, num_classes: int) -> nn.Module:
    """Return a model of two layers with 64 columns between them (attention: 4 heads of 16)."""
    if form != "plain" and name != "gcn":
        raise ValueError(f"{name} has no form {form}")
    size, width = arrays.num_nodes, arrays.x.shape[1]
    if name == "sage":
        convs = [SAGEConv(width, 64, "mean"), SAGEConv(64, num_classes, "mean")]
        return _Model(convs, F.relu, _graph(arrays.src, arrays.dst, size))
    src, dst, attr = arrays.with_loops()
    graph = _graph(src, dst, size)
    if name == "gcn" and form == "edge-weight":
        scale = graph.in_degrees().float().rsqrt()
        convs = [GraphConv(*sizes, norm="none") for sizes in ((width, 64), (64, num_classes))]
        return _Model(convs, F.relu, graph, edge_weight=scale[src] * scale[dst])
    if name == "gcn":
        return _Model([GraphConv(width, 64), GraphConv(64, num_classes)], F.relu, graph)
    if name == "gat-e":
        sizes = ((width, attr.shape[1], 16, 4), (64, attr.shape[1], num_classes, 1))
        return _Model([EdgeGATConv(*s, residual=False) for s in sizes], F.elu, graph, attr)
    conv = {"gat": GATConv, "gatv2": GATv2Conv}[name]
    return _Model([conv(width, 16, 4), conv(64, num_classes, 1)], F.elu, graph)


def sampler(arrays: Any, fanouts: list[int]) -> Callable[[Tensor], int]:
    """Return a function that draws the blocks of a batch of seeds and returns their edge count."""
    graph = _graph(arrays.src, arrays.dst, arrays.num_nodes)
    # The fused sampler of 1.1.3 is wrong: it keeps its node table, and batches lose edges.
    draws = dgl.dataloading.NeighborSampler(fanouts, fused=False)

    def draw(seeds: Tensor) -> int:
        blocks = draws.sample_blocks(graph, seeds.to(torch.int32))[2]
        return sum(block.num_edges() for block in blocks)

    return draw


def steps(
    arrays: Any, name: str, fanouts: list[int], form: str, num_classes: int
) -> tuple[nn.Module, Callable[[], Iterator[tuple[Tensor, Tensor]]]]:
    """Return a model, and a function that yields the logits and seeds of each step of an epoch."""
    graph = _graph(arrays.src, arrays.dst, arrays.num_nodes)
    widths = [arrays.x.shape[1], *[64] * (len(fanouts) - 1)]
    if name == "sage":
        outs = [*[64] * (len(fanouts) - 1), num_classes]
        convs = [SAGEConv(*sizes, "mean") for sizes in zip(widths, outs, strict=True)]
    else:
        outs = [*[16] * (len(fanouts) - 1), num_classes]
        heads = [*[4] * (len(fanouts) - 1), 1]
        sizes = zip(widths, outs, heads, strict=True)
        convs = [GATConv(*s, allow_zero_in_degree=True) for s in sizes]
    module = nn.ModuleList(convs)
    loader = dgl.dataloading.DataLoader(
        graph,
        torch.nonzero(arrays.train).flatten().to(torch.int32),
        dgl.dataloading.NeighborSampler(fanouts, fused=False),  # see `sampler`
        batch_size=1024,
        shuffle=True,
        num_workers=int(form.split()[0]),
    )

    def epoch() -> Iterator[tuple[Tensor, Tensor]]:
        with loader.enable_cpu_affinity() if "pinned" in form else nullcontext():
            for inputs, seeds, blocks in loader:
                x = arrays.x[inputs.long()]
                for conv, block in zip(module[:-1], blocks, strict=False):
                    x = (F.relu if name == "sage" else F.elu)(conv(block, x).flatten(1))
                out = module[-1](blocks[-1], x)
                yield out.mean(1) if out.dim() == 3 else out, seeds.long()

    return module, epoch


def take_weights(module: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Load weights by PyG's parameter names."""
    with torch.no_grad():
        for name, parameter, is_transposed in _parameters(module):
            weight = given[name].T if is_transposed else given[name]
            parameter.copy_(weight.reshape(parameter.shape))


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return the gradients by PyG's parameter names."""
    return {n: p.grad.T if is_transposed else p.grad for n, p, is_transposed in _parameters(module)}


def _parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Yield PyG's name of each parameter, the parameter, and whether it is transposed."""
    for path, conv in module.named_modules():
        for pyg, own in _NAMES.get(type(conv), {}).items():
            name = f"{path}.{pyg}" if path else pyg
            yield name, conv.get_parameter(own), isinstance(conv, GraphConv) and pyg != "bias"


def _graph(src: Tensor, dst: Tensor, size: int) -> Any:
    graph = dgl.graph((src, dst), num_nodes=size, idtype=torch.int32)
    graph.create_formats_()
    return graph


class _Model(nn.Module):
    """Layers on one graph. Heads are concatenated, and averaged in the last layer."""

    def __init__(
        self,
        convs: list[nn.Module],
        activation: Callable[[Tensor], Tensor],
        graph: Any,
        *more: Tensor,
        **options: Tensor,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self._activation, self._graph = activation, graph
        self._more, self._options = more, options

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of every node."""
        for conv in self.convs[:-1]:
            x = self._activation(conv(self._graph, x, *self._more, **self._options).flatten(1))
        out = self.convs[-1](self._graph, x, *self._more, **self._options)
        return out.mean(1) if out.dim() == 3 else out
