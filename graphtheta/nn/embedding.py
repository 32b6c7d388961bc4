"""Learned node embeddings, as input in addition to features or instead of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.errors import ConfigError
from graphtheta.rng.philox import Purpose, philox4x32, step_key, stream_id
from graphtheta.runtime.mapped import zero_rows
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View, ViewModule, count_layers

__all__ = ["InputModule", "NodeEmbedding", "ShardedParameter", "is_sharded", "row_keys"]

_DRAWN = 1 << 20  # initial values that are drawn at a time
_FEW = 0.5  # share of the rows below which their gradient is sparse


class ShardedParameter(nn.Parameter):
    """Parameter with one row per master, or per master of a type, held by the worker that owns it.

    It is a class, rather than an attribute, so that copies of a model keep the distinction.

    Attributes:
        node_type: Node type that has rows, in the order of `Shard.masters_of`. If None, all nodes.
        folder: Folder of the file that the rows are mapped from. If None, they are in memory.
        before_read: Called with the rows that are about to be read, or None for all, by an
            optimiser that updates rows when they are read. If None, all rows are up to date.
    """

    node_type: str | None = None
    folder: Path | None = None
    before_read: Callable[[Tensor | None], None] | None = None

    @classmethod
    def drawn(
        cls,
        shard: Shard,
        channels: int,
        *,
        seed: int,
        storage: Path | str | None,
        node_type: str | None = None,
    ) -> ShardedParameter:
        """Return a parameter with initial values, as described for `NodeEmbedding`."""
        folder = None if storage is None else Path(storage)
        parameter = cls(_initial(row_keys(shard, node_type), channels, seed, folder))
        parameter.node_type, parameter.folder = node_type, folder
        return parameter

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedParameter:
        result = type(self)(self.detach().clone(), self.requires_grad)
        result.node_type = self.node_type
        memo[id(self)] = result
        return result

    def read(self, rows: Tensor | None) -> Tensor:
        """Return some rows, up to date and differentiable.

        The gradient is sparse if an optimiser updates rows when they are read, and this reads few.

        Args:
            rows: (R,) int64 distinct rows. If None, all rows.
        """
        if rows is not None and self.is_sparse_for(len(rows)):
            assert self.before_read is not None
            self.before_read(rows)
            return F.embedding(rows, self, sparse=True)
        if self.before_read is not None:
            self.before_read(None)
        return self if rows is None else self.index_select(0, rows)

    def is_sparse_for(self, num_rows: int) -> bool:
        """Return whether the gradient of a step that reads so many rows is sparse."""
        return self.before_read is not None and num_rows < _FEW * len(self)

    def zeros(self) -> Tensor:
        """Return zeros of the same shape, in a file if the rows are."""
        return zero_rows(self.shape, self.dtype, self.folder, self.device)

    def copy(self) -> Tensor:
        """Return a copy without gradient, in a file if the rows are."""
        return zero_rows(self.shape, self.dtype, self.folder, self.device).copy_(self.detach())


def is_sharded(parameter: Tensor) -> bool:
    """Return whether a parameter is sharded: its rows are this worker's masters."""
    return isinstance(parameter, ShardedParameter)


class InputModule(ViewModule):
    """Base of modules that make the input of an encoder, and call it.

    Subclasses define `inputs`.

    Attributes:
        encoder: Called as encoder(view, x). If None, x is the output.
    """

    takes = View

    def __init__(self, encoder: nn.Module | None) -> None:
        super().__init__()
        self.encoder = encoder

    @property
    def num_layers(self) -> int:
        """Number of graph layers of the encoder."""
        return 0 if self.encoder is None else count_layers(self.encoder)

    def inputs(self, view: View, x: Tensor) -> Tensor:
        """Return the input of the encoder.

        Shape:
            x: (I, F) features of the view's input nodes. Returns (I, channels).
        """
        raise NotImplementedError

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the encoder's outputs, or its input if there is none.

        Shape:
            x: (I, F) features of the view's input nodes. Returns (O, out_channels).
        """
        z = self.inputs(view, x)
        outputs: Tensor = z if self.encoder is None else self.encoder(view, z)
        return outputs

    def embed(self, view: View, x: Tensor) -> Tensor:
        """Return the embedding of each node, as the encoder's method `embed` does.

        Raises:
            ConfigError: If the encoder has no such method.
        """
        if not hasattr(self.encoder, "embed"):
            raise ConfigError(
                f"predict: expected an encoder with embed(view, x), got "
                f"{type(self.encoder).__name__}. Add a method that returns the embeddings."
            )
        embedded: Tensor = self.encoder.embed(view, self.inputs(view, x))  # type: ignore[union-attr, operator]
        return embedded


class NodeEmbedding(InputModule):
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
        storage: Folder for the vectors and their optimiser state, if they are larger than memory:
            they are mapped from files there. The files have no name, and vanish with the process;
            checkpoints hold the values. If None, they are in memory.

    Raises:
        ConfigError: If channels is below 1, or the folder cannot be written.
    """

    def __init__(
        self,
        shard: Shard,
        channels: int,
        encoder: nn.Module | None = None,
        *,
        seed: int = 0,
        storage: Path | str | None = None,
    ) -> None:
        super().__init__(encoder)
        if channels < 1:
            raise ConfigError(f"NodeEmbedding: expected channels >= 1, got {channels}.")
        self.weight = ShardedParameter.drawn(shard, channels, seed=seed, storage=storage)

    def inputs(self, view: View, x: Tensor) -> Tensor:
        z: Tensor = self.weight.read(view.blocks[0].row_index if view.blocks else None)
        return torch.cat([x, z], dim=1) if x.shape[1] else z


def row_keys(shard: Shard, node_type: str | None) -> NDArray[np.int64]:
    """Return the node keys of the rows of a `ShardedParameter` of a type, or of all nodes."""
    some = slice(shard.num_masters) if node_type is None else shard.masters_of(node_type)
    return shard.node_key_L[some]


def _initial(keys: NDArray[np.int64], channels: int, seed: int, folder: Path | None) -> Tensor:
    """Return the initial vectors of some nodes: (R, channels) float32."""
    weight = zero_rows((len(keys), channels), torch.float32, folder)
    size = max(1, _DRAWN // channels)
    for start in range(0, len(keys), size):
        drawn = _uniform(keys[start : start + size], channels, seed)
        weight[start : start + size] = drawn / math.sqrt(3 * channels)
    return weight


def _uniform(node_key: NDArray[np.int64], channels: int, seed: int) -> Tensor:
    """Return numbers in [-1, 1) by node_key: (R, channels) float32."""
    keys = torch.from_numpy(node_key.copy())
    blocks = -(-channels // 4)
    counters = torch.empty((len(keys), blocks, 4), dtype=torch.int64)
    counters[..., 0] = torch.arange(blocks)
    counters[..., 1] = (keys & 0xFFFFFFFF)[:, None]
    counters[..., 2] = (keys >> 32)[:, None]
    counters[..., 3] = int(stream_id(Purpose.WEIGHT))
    bits = philox4x32(counters.reshape(-1, 4).numpy().astype("uint32"), step_key(seed, 0))
    drawn = torch.from_numpy(bits.reshape(len(keys), 4 * blocks)[:, :channels].astype("float64"))
    return (drawn / 2**31 - 1).float()
