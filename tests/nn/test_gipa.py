"""GIPA equals its equations, written with plain torch over a list of edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn import GIPAConv
from tests.graphs import random_graph, to_graph
from tests.nn.steps import assert_same_as

FEATURES, ATTRIBUTES, OUT, CHANNELS, HEADS, ENCODED = 3, 2, 7, 5, 2, 6


class Equations(nn.Module):
    """GIPA by the equations of its paper, with tensors of all edges."""

    def __init__(self, bitwise: bool, softmax: bool, norm: bool) -> None:
        super().__init__()
        self.softmax, self.norm = softmax, norm
        self.columns = CHANNELS if bitwise else 1  # of a head's coefficients
        width, scores = HEADS * CHANNELS, HEADS * self.columns
        self.lin_src = nn.Linear(FEATURES, width, bias=False)
        self.att_src = nn.Linear(FEATURES, scores, bias=False)
        self.att_dst = nn.Linear(FEATURES, scores, bias=False)
        self.lin_edge = nn.Linear(ATTRIBUTES, ENCODED)
        self.att_edge = nn.Linear(ENCODED, scores, bias=False)
        if norm:
            self.scale = nn.Parameter(torch.ones(HEADS, CHANNELS))
            self.shift = nn.Parameter(torch.ones(HEADS, CHANNELS))
        self.lin_agg = nn.Linear(width, OUT)
        self.lin_dst = nn.Linear(FEATURES, OUT, bias=False)

    def forward(self, x: Tensor, edge_index: Tensor, attr: Tensor) -> Tensor:
        src, dst = edge_index
        weight = self.att_src(x[src]) + self.att_dst(x[dst])
        weight = weight + self.att_edge(torch.relu(self.lin_edge(attr)))
        weight = torch.where(weight > 0, weight, 0.2 * weight).view(-1, HEADS, self.columns)
        if self.softmax:
            weight = weight.exp()
            weight = weight / self.sum_at(dst, weight, len(x))[dst]
        message = weight * self.lin_src(x[src]).view(-1, HEADS, CHANNELS)
        total = self.sum_at(dst, message, len(x))
        if self.norm:
            centred = total - total.mean(-1, keepdim=True)
            spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
            total = centred / spread * self.scale + self.shift
        return self.lin_agg(total.flatten(1)) + self.lin_dst(x)  # type: ignore[no-any-return]

    @staticmethod
    def sum_at(dst: Tensor, rows: Tensor, num_nodes: int) -> Tensor:
        return rows.new_zeros((num_nodes, *rows.shape[1:])).index_add(0, dst, rows)


@pytest.mark.parametrize(
    "options",
    [
        {"bitwise": True, "softmax": True, "norm": True},
        {"bitwise": True, "softmax": False, "norm": True},
        {"bitwise": True, "softmax": True, "norm": False},
        {"bitwise": False, "softmax": True, "norm": True},
        {"bitwise": False, "softmax": False, "norm": False},
    ],
    ids=lambda options: "-".join(name for name, on in options.items() if on) or "plain",
)
def test_layer_same_as_its_equations(options: dict[str, Any]) -> None:
    torch.manual_seed(0)

    def make() -> GIPAConv:
        return GIPAConv(
            FEATURES,
            OUT,
            edge_dim=ATTRIBUTES,
            channels=CHANNELS,
            heads=HEADS,
            edge_channels=ENCODED,
            **options,
        )

    graph = to_graph(random_graph(40, 240), dtype=np.float64)
    setups = [(1, "node-hash"), (2, "node-hash"), (3, "dbh"), (7, "dbh")]
    assert_same_as(Equations(**options), make, graph, setups, "attr")


def test_normalising_one_channel_raises_config_error() -> None:
    with pytest.raises(
        ConfigError, match=r"channels >= 2 .*, got 1. Use more channels, or norm=False"
    ):
        GIPAConv(3, 4, edge_dim=2, channels=1)
    GIPAConv(3, 4, edge_dim=2, channels=1, norm=False)
