"""GIN: graph isomorphism network (Xu et al., ICLR 2019)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.conv.weights import (
    reads_weights,
    refuse_sampling_by_weight,
    times_weight,
)
from graphtheta.nn.linear import linear
from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.tgar import LayerView, TGARLayer, ViewModule

__all__ = ["GINConv"]


class GINConv(TGARLayer):
    """h_i = MLP((1 + eps) h_i + sum of h_j over j in N(i)).

    Parameter names equal PyG's `GINConv`. With weights the sum is of w_ij h_j. With edge attributes
    it is of relu(h_j + V e_ij), and names equal PyG's `GINEConv`.

    Args:
        mlp: Module on (M, F), such as a `torch.nn.Sequential`. This may hold modules of this
            package that are called with a view: `BatchNorm` and `Dropout`. May be given as `nn`,
            its name in PyG.
        eps: Initial value of eps.
        train_eps: Whether eps is learned.
        weighted: Whether to multiply messages by the edge column `weight`.
        edge_dim: Columns of the edge column `attr`; if None, edge attributes are not read. The
            module must begin with a linear map.

    Raises:
        ConfigError: If edge attributes are read, and the module does not begin with a linear map.

    Shape:
        h: (M, F). Returns (M, O), the output of `mlp`.

    Source:
        Hu et al., Strategies for pre-training graph neural networks, ICLR 2020 (edge attributes).
    """

    aliases: ClassVar[dict[str, str]] = {"nn": "mlp"}
    cast_edge_columns = ("weight",)
    eps: Tensor

    def __init__(
        self,
        mlp: nn.Module,
        *,
        eps: float = 0.0,
        train_eps: bool = False,
        weighted: bool = False,
        edge_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.nn, self.weighted, self.edge_dim = mlp, weighted, edge_dim
        if edge_dim is not None:
            first = _first_linear(mlp)
            if first is None:
                raise ConfigError(
                    "GINConv: expected an mlp that begins with a linear map, for edge_dim, got "
                    f"{type(mlp).__name__}. Begin with torch.nn.Linear."
                )
            self.lin = nn.Linear(edge_dim, first.in_features)
        self._is_multiplied = False
        self._view: LayerView | None = None
        if train_eps:
            self.eps = nn.Parameter(torch.full((1,), eps))
        else:
            self.register_buffer("eps", torch.full((1,), eps))

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        if reads_weights(view, self.weighted):
            refuse_sampling_by_weight(view)
        self._view = view
        out: Tensor = super().forward(view, h)
        self._view = None
        return out

    def transform(self, h: Tensor) -> dict[str, Tensor]:
        # The first linear map of sparse rows is computed before the sum, which would be dense.
        rearranged = is_sparse_rows(h) and self.edge_dim is None
        first = _first_linear(self.nn) if rearranged else None
        self._is_multiplied = first is not None
        return {"h": h if first is None else linear(h, first.weight)}

    def gather(self, src: Any, dst: Any, edge: Any) -> Tensor:
        message: Tensor = src["h"]
        if self.edge_dim is not None:
            message = (message + self.lin(edge["attr"])).relu()
        return times_weight(message, edge) if self.weighted else message

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:
        h: Tensor = (1 + self.eps) * n["h"] + m
        modules = [*self.nn] if isinstance(self.nn, nn.Sequential) else [self.nn]
        if self._is_multiplied:
            first: Any = modules.pop(0)
            h = h if first.bias is None else h + first.bias
        for module in modules:
            h = module(self._view, h) if isinstance(module, ViewModule) else module(h)
        return h


def _first_linear(mlp: nn.Module) -> nn.Linear | None:
    """Return the linear map that a module begins with, or None."""
    first = mlp[0] if isinstance(mlp, nn.Sequential) and len(mlp) else mlp
    return first if isinstance(first, nn.Linear) else None
