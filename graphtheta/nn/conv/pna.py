"""PNA: several aggregators, scaled by functions of the degree (Corso et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn.linear import Linear
from graphtheta.shard.shard import Shard
from graphtheta.tgar import Several, TGARLayer

__all__ = ["SCALERS", "PNAConv", "degree_histogram"]

# From the degree of each node and the mean degree, or the means of their logarithms.
SCALERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "identity": lambda degree, mean, of_logs: torch.ones_like(degree),
    "amplification": lambda degree, mean, of_logs: torch.log(degree + 1) / of_logs,
    "attenuation": lambda degree, mean, of_logs: of_logs / torch.log(degree.clamp(min=1) + 1),
    "linear": lambda degree, mean, of_logs: degree / mean,
    "inverse_linear": lambda degree, mean, of_logs: mean / degree.clamp(min=1),
}


def degree_histogram(shard: Shard) -> Tensor:
    """Return the number of nodes of each in-degree, in the whole graph; collective.

    Shape:
        Returns (largest in-degree + 1,) int64, the same on all workers.
    """
    degree = shard.node_column("in_degree").cpu().numpy()
    comm = shard.comm
    largest = int(comm.all_gather_int(int(degree.max(initial=0)), stage="degrees").max())
    counts = np.bincount(degree, minlength=largest + 1)
    comm.all_reduce(counts, stage="degrees")
    return torch.from_numpy(counts)


class PNAConv(TGARLayer):
    """h_i = W of h_i and the scaled aggregates of W_m (h_i, h_j, V e_ij) over j in N(i).

    Every scaler, a function of the node's in-degree in the whole graph, is a factor of every
    aggregate. Each tower has matrices W_m and W of its own, and a last linear map mixes the towers.
    Parameter names and results equal PyG's `PNAConv` with one layer before and after the sum.

    Args:
        in_channels: Columns of h.
        out_channels: Columns of the result, a multiple of `towers`.
        aggregators: Names of aggregators: mean, min, max, sum or std.
        scalers: Keys of `SCALERS`.
        deg: (D,) number of nodes of each in-degree, such as `degree_histogram(shard)`.
        edge_dim: Columns of the edge column `attr`; if None, edge attributes are not read.
        towers: Number of towers.
        divide_input: Whether each tower reads its share of h instead of all columns.

    Raises:
        ConfigError: If a name is unknown, or the towers do not divide the columns.

    Shape:
        h: (M, in_channels). Returns (M, out_channels).
    """

    node_columns = ("in_degree",)
    tensor_arguments: ClassVar[tuple[str, ...]] = ("deg",)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        aggregators: Sequence[str],
        scalers: Sequence[str],
        deg: Tensor,
        *,
        edge_dim: int | None = None,
        towers: int = 1,
        divide_input: bool = False,
    ) -> None:
        super().__init__()
        for name in scalers:
            need_name(name, SCALERS, "PNAConv: scaler")
        shared = in_channels if divide_input else towers
        if towers < 1 or out_channels % towers or shared % towers:
            raise ConfigError(
                f"PNAConv: expected towers that divide the columns, got {towers} of {in_channels} "
                f"and {out_channels}. Change one of them."
            )
        self.aggregator, self.scalers = Several(*aggregators), tuple(scalers)
        self.towers, self.divide_input, self.edge_dim = towers, divide_input, edge_dim
        width = self.width = in_channels // towers if divide_input else in_channels
        read = (2 if edge_dim is None else 3) * width
        joined = (len(aggregators) * len(scalers) + 1) * width
        if edge_dim is not None:
            self.edge_encoder = nn.Linear(edge_dim, width)
        self.pre_nns = nn.ModuleList(nn.Sequential(nn.Linear(read, width)) for _ in range(towers))
        self.post_nns = nn.ModuleList(
            nn.Sequential(nn.Linear(joined, out_channels // towers)) for _ in range(towers)
        )
        self.lin = Linear(out_channels, out_channels)
        self.aggr_module = _mean_degrees(deg)

    def _by_tower(self, h: Tensor) -> Tensor:
        """Return the columns that each tower reads: (M, towers, width)."""
        if self.divide_input:
            return h.view(-1, self.towers, self.width)
        return h.unsqueeze(1).expand(-1, self.towers, -1)

    def _matrix(self, part: int) -> Tensor:
        """Return the matrices of one of (h_i, h_j, e_ij) of all towers: (towers, width, width)."""
        columns = slice(part * self.width, (part + 1) * self.width)
        return torch.stack([pre[0].weight[:, columns] for pre in self._layers(self.pre_nns)])

    @staticmethod
    def _layers(towers: nn.ModuleList) -> list[Any]:
        return list(towers)

    def transform(self, h: Tensor, node: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = self._by_tower(h)
        bias = torch.stack([pre[0].bias for pre in self._layers(self.pre_nns)])
        return {
            "x": x,
            "of_dst": torch.einsum("mti,toi->mto", x, self._matrix(0)) + bias,
            "of_src": torch.einsum("mti,toi->mto", x, self._matrix(1)),
            "degree": node["in_degree"].to(h.dtype),
        }

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        message: Tensor = dst["of_dst"] + src["of_src"]
        if self.edge_dim is None:
            return message
        weight = self._matrix(2).flatten(0, 1)
        of_edge = nn.functional.linear(self.edge_encoder(edge["attr"]), weight)
        return message + of_edge.view(-1, self.towers, self.width)

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        means: Any = self.aggr_module
        scales = [
            SCALERS[name](n["degree"], means.avg_deg_lin, means.avg_deg_log)
            for name in self.scalers
        ]
        rows = torch.cat([n["x"], *(m * scale.reshape(-1, 1, 1) for scale in scales)], -1)
        outs = [post(rows[:, tower]) for tower, post in enumerate(self.post_nns)]
        result: Tensor = self.lin(torch.cat(outs, 1))
        return result


def _mean_degrees(deg: Tensor) -> nn.Module:
    """Return a module with the means of degrees and of their logarithms, named as in PyG."""
    counts, degree = deg.double(), torch.arange(len(deg), dtype=torch.float64)
    number = counts.sum().clamp(min=1)
    module = nn.Module()
    dtype = torch.get_default_dtype()
    for name, value in (("lin", degree), ("log", (degree + 1).log())):
        mean = (counts * value).sum() / number
        module.register_buffer(f"avg_deg_{name}", mean.reshape(1).to(dtype))
    return module
