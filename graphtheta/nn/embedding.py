"""Learned node embeddings, as input in addition to features or instead of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.rng.philox import Purpose, philox4x32, step_key, stream_id
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View, ViewModule, count_layers

__all__ = ["NodeEmbedding", "ShardedParameter", "is_sharded"]


class ShardedParameter(nn.Parameter):
    """Parameter with one row per master, of which each worker holds its own.

    It is a class, rather than an attribute, so that copies of a model keep the distinction.
    """


def is_sharded(parameter: Tensor) -> bool:
    """Return whether a parameter is sharded: its rows are this worker's masters."""
    return isinstance(parameter, ShardedParameter)


class NodeEmbedding(ViewModule):
    """Learned vector for each node, and an encoder that reads it.

    Each worker holds the vectors of its masters and their optimiser state. Initial values are drawn
    by node_key, so that they do not depend on the number of workers. A model with node embeddings
    cannot be applied to another graph.

    Args:
        shard: Graph of the nodes.
        channels: Columns of a vector.
        encoder: Called as encoder(view, x), where x holds the features of the graph, if it has
            any, followed by the vectors. If None, x is returned.
        seed: Random seed for the initial values: uniform in [-b, b), b = 1 / sqrt(3 channels), so
            that a vector has length 1/3. Larger ones hide what messages and few labels teach, as
            `benchmarks/embeddings.py` measured.

    Raises:
        ConfigError: If channels is below 1.
    """

    takes = View

    def __init__(
        self, shard: Shard, channels: int, encoder: nn.Module | None = None, *, seed: int = 0
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ConfigError(f"NodeEmbedding: expected channels >= 1, got {channels}.")
        self.weight = ShardedParameter(_uniform(shard, channels, seed) / math.sqrt(3 * channels))
        self.encoder = encoder

    @property
    def num_layers(self) -> int:
        """Number of graph layers of the encoder."""
        return 0 if self.encoder is None else count_layers(self.encoder)

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the encoder's outputs.

        Shape:
            x: (I, F) features of the view's input nodes. Returns (O, out_channels).
        """
        z = view.of_inputs(self.weight)
        if x.shape[1]:
            z = torch.cat([x, z], dim=1)
        if self.encoder is None:
            return z
        encoded: Tensor = self.encoder(view, z)
        return encoded


def _uniform(shard: Shard, channels: int, seed: int) -> Tensor:
    """Return numbers in [-1, 1) by node_key: (M, channels) float32."""
    keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
    blocks = -(-channels // 4)
    counters = torch.empty((len(keys), blocks, 4), dtype=torch.int64)
    counters[..., 0] = torch.arange(blocks)
    counters[..., 1] = (keys & 0xFFFFFFFF)[:, None]
    counters[..., 2] = (keys >> 32)[:, None]
    counters[..., 3] = int(stream_id(Purpose.WEIGHT))
    bits = philox4x32(counters.reshape(-1, 4).numpy().astype("uint32"), step_key(seed, 0))
    drawn = torch.from_numpy(bits.reshape(len(keys), 4 * blocks)[:, :channels].astype("float64"))
    return (drawn / 2**31 - 1).float()
