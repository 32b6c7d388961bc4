"""Input of models on typed graphs: one width for the nodes of all types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn.column_embedding import CategoryVectors
from graphtheta.nn.embedding import InputModule, ShardedParameter
from graphtheta.nn.init import seeded
from graphtheta.shard.shard import Shard
from graphtheta.tgar import View

__all__ = ["TypedInput"]


class TypedInput(InputModule):
    """Linear map of the features of each node type, learned vectors, or both, and an encoder.

    Each type has a linear map of its own to `channels` columns, of its features and the vectors of
    its embedded columns (see `ColumnEmbedding`). The nodes of a type without features have a
    learned vector each, as in `NodeEmbedding`; so have those of `embedding`, and it is added to the
    map of their features. Other nodes have no row. A model with learned vectors of nodes cannot be
    applied to another graph.

    Args:
        shard: Graph of the nodes.
        channels: Columns of the result.
        encoder: Called as encoder(view, x), where x has these columns. If None, x is returned.
        embedding: Names of types with features whose nodes have a learned vector as well.
        seed: Random seed for the initial values.
        storage: Folder for the vectors, if they are larger than memory, as for `NodeEmbedding`.

    Raises:
        ConfigError: If channels is below 1, or the graph has no such type.
    """

    def __init__(
        self,
        shard: Shard,
        channels: int,
        encoder: nn.Module | None = None,
        *,
        embedding: Sequence[str] = (),
        seed: int = 0,
        storage: Path | str | None = None,
    ) -> None:
        super().__init__(encoder)
        if channels < 1:
            raise ConfigError(f"TypedInput: expected channels >= 1, got {channels}.")
        if unknown := sorted(set(embedding) - set(shard.node_types)):
            raise ConfigError(
                f"TypedInput: expected node types among {', '.join(shard.node_types)}, got "
                f"{', '.join(unknown)}. Correct them."
            )
        self.channels = channels
        widths = [
            shard.features_of(name).shape[1] + shard.embedding_channels(name)
            for name in shard.node_types
        ]
        with seeded(seed, "input"):
            self.linears = nn.ModuleList(
                nn.Linear(width, channels) if width else nn.Identity() for width in widths
            )
        self.categories = nn.ModuleList(
            CategoryVectors(shard, name, seed=seed) for name in shard.node_types
        )
        self.learned = [
            name
            for name, width in zip(shard.node_types, widths, strict=True)
            if not width or name in embedding
        ]
        self.vectors = nn.ParameterList(
            ShardedParameter.drawn(shard, channels, seed=seed, storage=storage, node_type=name)
            for name in self.learned
        )

    def inputs(self, view: View, x: Tensor) -> Tensor:
        shard = view.shard  # `x` has no columns in a graph of several types
        node_type = view.of_inputs(shard.node_column("node_type"))
        position = view.of_inputs(shard.position_in_type)
        vectors = dict(zip(self.learned, self.vectors, strict=True))
        h = x.new_zeros((len(node_type), self.channels), dtype=self._dtype())
        inputs = zip(shard.node_types, self.linears, self.categories, strict=True)
        for number, (name, linear, categories) in enumerate(inputs):
            some = torch.nonzero(node_type == number).flatten()
            rows = position[some] if view.blocks else None  # those of the type; None for all
            if not isinstance(linear, nn.Identity):
                features = shard.features_of(name)
                features = features if rows is None else features.index_select(0, rows)
                columns: Any = features.to(h.dtype)
                if found := categories(shard, rows):
                    columns = torch.cat([columns, *found], dim=1)
                h = h.index_add(0, some, linear(columns).to(h.dtype))  # of autocast
            if name in vectors:
                h = h.index_add(0, some, vectors[name].read(rows))
        return h

    def _dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.parameters())
