"""Models of many propagation steps: APPNP, GCNII, SGC and SIGN.

Initial weights depend only on `seed`, so that every worker starts from the same ones.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.conv import GCN2Conv, PropagateConv
from graphtheta.nn.dropout import Dropout
from graphtheta.nn.init import seeded
from graphtheta.nn.linear import Linear, linear, relu
from graphtheta.nn.stack import Model
from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.tgar import View

__all__ = ["APPNP", "GCNII", "SGC", "SIGN"]


class _DeepModel(Model):
    """Graph layers of one width, with linear maps and dropout around them.

    Args:
        make_layer: Called with the number of each layer, from 1.
        in_channels: Columns of the input features.
        hidden_channels: Hidden columns.
        out_channels: Columns of the output.
        num_layers: Number of graph layers.
        dropout: Probability of dropping a column of the input of a linear map or layer.
        seed: Random seed for the initial weights.
    """

    def __init__(
        self,
        make_layer: Callable[[int], PropagateConv],
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int,
        dropout: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.require_sizes(
            in_channels=in_channels,
            hidden_channels=hidden_channels,
            out_channels=out_channels,
            num_layers=num_layers,
        )
        self.dropout = Dropout(dropout)
        with seeded(seed):
            self.convs = nn.ModuleList(make_layer(k + 1) for k in range(num_layers))
            self.lins = nn.ModuleList(self.linear_maps(in_channels, hidden_channels, out_channels))

    def linear_maps(
        self, in_channels: int, hidden_channels: int, out_channels: int
    ) -> list[nn.Module]:
        """Return the linear maps of the model: into the hidden columns, and out of them."""
        return [Linear(in_channels, hidden_channels), Linear(hidden_channels, out_channels)]

    @property
    def num_layers(self) -> int:
        return len(self.convs)


class APPNP(_DeepModel):
    """Two linear maps, then propagation by personalised PageRank (Klicpera et al., ICLR 2019).

    h_k = (1 - alpha) P h_(k-1) + alpha h_0, where P is that of `PropagateConv`.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns between the linear maps.
        out_channels: Columns of the output.
        num_layers: Number of propagation steps.
        alpha: Probability of a teleport, in [0, 1].
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.
        dropout: Probability of dropping a column of the input of a linear map.
        seed: Random seed for the initial weights.

    Raises:
        ConfigError: If a size is below 1, or alpha is out of range.
    """

    options: ClassVar[tuple[str, ...]] = ("alpha", "weighted")

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 10,
        alpha: float = 0.1,
        weighted: bool | None = None,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            lambda _: PropagateConv(weighted=weighted),
            *(in_channels, hidden_channels, out_channels),
            num_layers=num_layers,
            dropout=dropout,
            seed=seed,
        )
        _require_share(self, alpha)
        self.alpha = alpha

    def _hidden(self, view: View, x: Tensor) -> Tensor:
        return relu(self.lins[0](self.dropout(view[0], x)))

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the hidden columns of each node, before propagation: (O, hidden_channels)."""
        return view[len(self.convs) - 1].carry(self._hidden(view, x))

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the outputs (logits) of each node: (O, out_channels)."""
        h: Tensor = self.lins[1](self.dropout(view[0], self._hidden(view, x)))
        teleport = self.alpha * h
        for k, conv in enumerate(self.convs):
            h = (1 - self.alpha) * conv(view[k], h) + view[k].carry(teleport)
        return h


class GCNII(_DeepModel):
    """Deep GCN with initial residual and identity mapping (Chen et al., ICML 2020).

    A linear map, `num_layers` of `GCN2Conv`, each with dropout before and ReLU after, and a linear
    map.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of all graph layers.
        out_channels: Columns of the output.
        num_layers: Number of graph layers.
        alpha: Share of the first layer's input in the input of each layer, in [0, 1].
        theta: Strength of the matrix of a layer; it falls with the number of the layer.
        shared_weights: As for `GCN2Conv`.
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.
        dropout: Probability of dropping a column of the input of a linear map or layer.
        seed: Random seed for the initial weights.

    Raises:
        ConfigError: If a size is below 1, or alpha or theta is out of range.
    """

    options: ClassVar[tuple[str, ...]] = ("alpha", "theta", "weighted")

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 16,
        alpha: float = 0.1,
        theta: float = 0.5,
        shared_weights: bool = True,
        weighted: bool | None = None,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        make_layer = partial(
            GCN2Conv,
            hidden_channels,
            alpha,
            theta,
            shared_weights=shared_weights,
            weighted=weighted,
        )
        sizes = in_channels, hidden_channels, out_channels
        super().__init__(make_layer, *sizes, num_layers=num_layers, dropout=dropout, seed=seed)
        _require_share(self, alpha)

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the output of the last graph layer: (O, hidden_channels)."""
        h = first = relu(self.lins[0](self.dropout(view[0], x)))
        for k, conv in enumerate(self.convs):
            h = relu(conv(view[k], self.dropout(view[k], h), first))
        return h

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the outputs (logits) of each node: (O, out_channels)."""
        h = self.embed(view, x)
        result: Tensor = self.lins[1](self.dropout(view[len(self.convs) - 1], h))
        return result


class SGC(_DeepModel):
    """Simple graph convolution: P^K x W + b (Wu et al., ICML 2019); P is that of `PropagateConv`.

    W is applied first if there are fewer outputs than inputs, which gives the same result.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Not used; models are made with the same arguments.
        out_channels: Columns of the output.
        num_layers: Number of propagation steps (K).
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.
        dropout: Probability of dropping a column of the input.
        seed: Random seed for the initial weights.

    Raises:
        ConfigError: If a size is below 1.
    """

    options: ClassVar[tuple[str, ...]] = ("weighted",)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 2,
        weighted: bool | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            lambda _: PropagateConv(weighted=weighted),
            *(in_channels, hidden_channels, out_channels),
            num_layers=num_layers,
            dropout=dropout,
            seed=seed,
        )

    def linear_maps(
        self, in_channels: int, hidden_channels: int, out_channels: int
    ) -> list[nn.Module]:
        return [Linear(in_channels, out_channels)]

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the propagated features: (O, in_channels)."""
        for k, conv in enumerate(self.convs):
            x = conv(view[k], x)
        return x

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the outputs (logits) of each node: (O, out_channels)."""
        (lin,) = self.lins
        assert isinstance(lin, Linear)
        x = self.dropout(view[0], x)
        if lin.out_features < lin.in_features:
            return self.embed(view, nn.functional.linear(x, lin.weight)) + lin.bias
        result: Tensor = lin(self.embed(view, x))
        return result


class SIGN(_DeepModel):
    """Linear maps of x, P x, ..., P^K x side by side, and one of all (Frasca et al., 2020).

    P is that of `PropagateConv`. Propagation has no parameters, and no backward pass.

    Args:
        in_channels: Columns of the input features.
        hidden_channels: Columns of the linear map of each power.
        out_channels: Columns of the output.
        num_layers: Number of propagation steps (K).
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.
        dropout: Probability of dropping a hidden column.
        seed: Random seed for the initial weights.

    Raises:
        ConfigError: If a size is below 1.
    """

    options: ClassVar[tuple[str, ...]] = ("weighted",)

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        num_layers: int = 2,
        weighted: bool | None = None,
        dropout: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            lambda _: PropagateConv(weighted=weighted),
            *(in_channels, hidden_channels, out_channels),
            num_layers=num_layers,
            dropout=dropout,
            seed=seed,
        )

    def linear_maps(
        self, in_channels: int, hidden_channels: int, out_channels: int
    ) -> list[nn.Module]:
        powers = [Linear(in_channels, hidden_channels) for _ in range(len(self.convs) + 1)]
        return [*powers, Linear(len(powers) * hidden_channels, out_channels)]

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the hidden columns of each node: (O, (K + 1) hidden_channels)."""
        last = view[len(self.convs) - 1]
        if is_sparse_rows(x):
            return self._embed_sparse(view, x)
        hidden = [relu(self.lins[0](last.carry(x)))]
        for k, conv in enumerate(self.convs):
            x = conv(view[k], x)
            hidden.append(relu(self.lins[k + 1](last.carry(x))))
        return torch.cat(hidden, 1)

    def _embed_sparse(self, view: View, x: Tensor) -> Tensor:
        """Return the hidden columns; P^k (x W) = (P^k x) W, whose rows of x would be dense."""
        last, powers = view[len(self.convs) - 1], [*self.lins[:-1]]
        width = len(powers[0].weight)
        rest = linear(x, torch.cat([lin.weight for lin in powers]))
        hidden = []
        for k, lin in enumerate(powers):
            rest = self.convs[k - 1](view[k - 1], rest) if k else rest
            hidden.append(relu(last.carry(rest[:, :width]) + lin.bias))
            rest = rest[:, width:].contiguous()
        return torch.cat(hidden, 1)

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the outputs (logits) of each node: (O, out_channels)."""
        h = self.dropout(view[len(self.convs) - 1], self.embed(view, x))
        result: Tensor = self.lins[-1](h)
        return result


def _require_share(model: Model, alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ConfigError(
            f"{type(model).__name__}: expected alpha in [0, 1], got {alpha}. Correct it."
        )
