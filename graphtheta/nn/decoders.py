"""Decoders: what scores a pair of nodes by their embeddings, and a model of both.

Single-worker mathematics on rows that were brought together. A new decoder is a class here and a
line in `DECODERS`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.errors import ConfigError
from graphtheta.nn.init import glorot, seeded
from graphtheta.tgar import View, count_layers

__all__ = [
    "DECODERS",
    "MLP",
    "Bilinear",
    "Decoder",
    "DistMult",
    "Dot",
    "EdgeModel",
    "decoder_for",
]

_ROWS = 1 << 15  # pairs that are scored at a time where nothing faster is known


class Decoder(nn.Module):
    """Scores pairs of nodes.

    Args:
        channels: Columns of an embedding.
        hidden_channels: Columns of a hidden layer, in decoders that have one.
        outputs: Numbers a pair.
        num_relations: Relations that a pair can be of; 0: there is only one, which has no name.
        seed: Of the initial weights.

    Attributes:
        needs_relations: Whether it refuses pairs without a relation.
        reads_relations: Whether a relation changes the score.
        many_outputs: Whether it can give more than one number a pair.

    Raises:
        ConfigError: If it cannot do what is asked.
    """

    needs_relations: ClassVar[bool] = False
    reads_relations: ClassVar[bool] = False
    many_outputs: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        *,
        hidden_channels: int = 64,
        outputs: int = 1,
        num_relations: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if min(channels, hidden_channels, outputs) < 1:
            raise ConfigError(
                f"{name}: expected channels, hidden_channels and outputs >= 1, got {channels}, "
                f"{hidden_channels} and {outputs}."
            )
        if outputs > 1 and not self.many_outputs:
            several = ", ".join(n for n, kind in DECODERS.items() if kind.many_outputs)
            raise ConfigError(
                f"{name}: expected one output a pair, got {outputs}. Use a decoder among {several}."
            )
        if self.needs_relations and num_relations < 1:
            raise ConfigError(
                f"{name}: expected edges with a relation, got none. Name the edge column of it by "
                "--relation-column, or use another decoder."
            )
        if num_relations and not self.reads_relations:
            named = ", ".join(n for n, kind in DECODERS.items() if kind.reads_relations)
            raise ConfigError(
                f"{name}: a relation does not change its score. Use a decoder among {named}, or "
                "name no relation."
            )
        self.channels, self.outputs, self.num_relations = channels, outputs, num_relations
        with seeded(seed):
            self.make(channels, hidden_channels, outputs, num_relations)

    def make(self, channels: int, hidden: int, outputs: int, num_relations: int) -> None:
        """Make the parameters."""

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        """Return the scores (logits) of pairs.

        Shape:
            src, dst: (..., channels). relation: (...) int64, or None. Dimensions before the last
            broadcast. Returns (..., outputs).
        """
        raise NotImplementedError

    def table(
        self,
        query: Tensor,
        candidate: Tensor,
        relation: Tensor | None,
        *,
        candidate_is: Literal["src", "dst"],
    ) -> Tensor:
        """Return the scores of every query with every candidate; of decoders with one output.

        Args:
            query: The known end of each pair.
            candidate: What may be at the other end.
            relation: Of each query.
            candidate_is: Which end that is.

        Shape:
            query: (Q, channels). candidate: (C, channels). relation: (Q,). Returns (Q, C).
        """
        size = max(1, _ROWS // max(1, len(candidate)))
        rows = []
        for first in range(0, len(query), size):
            some = query[first : first + size]
            known = some.repeat_interleave(len(candidate), 0)
            other = candidate.repeat(len(some), 1)
            of = None
            if relation is not None:
                of = relation[first : first + size].repeat_interleave(len(candidate))
            ends = (other, known) if candidate_is == "src" else (known, other)
            rows.append(self(*ends, of).reshape(len(some), len(candidate)))
        return torch.cat(rows) if rows else query.new_zeros((0, len(candidate)))


class Dot(Decoder):
    """The inner product of both ends (Kipf, Welling, "Variational graph auto-encoders", 2016)."""

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        """See `Decoder.forward`."""
        return (src * dst).sum(-1, keepdim=True)

    def table(
        self,
        query: Tensor,
        candidate: Tensor,
        relation: Tensor | None,
        *,
        candidate_is: Literal["src", "dst"],
    ) -> Tensor:
        """See `Decoder.table`."""
        return query @ candidate.T


class DistMult(Decoder):
    """The inner product of both ends and a vector a relation.

    Source: Yang, Yih, He, Gao, Deng, "Embedding entities and relations for learning and inference
    in knowledge bases", ICLR 2015.
    """

    needs_relations = True
    reads_relations = True

    def make(self, channels: int, hidden: int, outputs: int, num_relations: int) -> None:
        """See `Decoder.make`."""
        self.relation = nn.Parameter(torch.empty(num_relations, channels))
        nn.init.normal_(self.relation)

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        """See `Decoder.forward`."""
        assert relation is not None
        # Not by indexing, whose backward is slow.
        return (src * F.embedding(relation, self.relation) * dst).sum(-1, keepdim=True)

    def table(
        self,
        query: Tensor,
        candidate: Tensor,
        relation: Tensor | None,
        *,
        candidate_is: Literal["src", "dst"],
    ) -> Tensor:
        """See `Decoder.table`."""
        assert relation is not None
        return (query * F.embedding(relation, self.relation)) @ candidate.T


class MLP(Decoder):
    """Two linear maps of both ends side by side, and of a vector a relation where there are any."""

    reads_relations = True
    many_outputs = True

    def make(self, channels: int, hidden: int, outputs: int, num_relations: int) -> None:
        """See `Decoder.make`."""
        self.lin_src = nn.Linear(channels, hidden)
        self.lin_dst = nn.Linear(channels, hidden, bias=False)
        self.lin_out = nn.Linear(hidden, outputs)
        self.relation: nn.Parameter | None = None
        if num_relations:
            self.relation = nn.Parameter(torch.empty(num_relations, hidden))
            glorot(self.relation)

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        """See `Decoder.forward`."""
        hidden = self.lin_src(src) + self.lin_dst(dst)
        if self.relation is not None:
            assert relation is not None
            hidden = hidden + F.embedding(relation, self.relation)
        scores: Tensor = self.lin_out(hidden.relu())
        return scores


class Bilinear(Decoder):
    """A bilinear form of both ends for each output; unlike `Dot`, an edge differs from its reverse.

    Source: Nickel, Tresp, Kriegel, "A three-way model for collective learning on multi-relational
    data", ICML 2011.
    """

    many_outputs = True

    def make(self, channels: int, hidden: int, outputs: int, num_relations: int) -> None:
        """See `Decoder.make`."""
        self.weight = nn.Parameter(torch.empty(outputs, channels, channels))
        self.bias = nn.Parameter(torch.zeros(outputs))
        glorot(self.weight)

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        """See `Decoder.forward`."""
        mapped = torch.einsum("...f,ofg->...og", src, self.weight)
        return torch.einsum("...og,...g->...o", mapped, dst) + self.bias

    def table(
        self,
        query: Tensor,
        candidate: Tensor,
        relation: Tensor | None,
        *,
        candidate_is: Literal["src", "dst"],
    ) -> Tensor:
        """See `Decoder.table`."""
        weight = self.weight[0].T if candidate_is == "src" else self.weight[0]
        return query @ weight @ candidate.T + self.bias


DECODERS: dict[str, type[Decoder]] = {
    "dot": Dot,
    "mlp": MLP,
    "distmult": DistMult,
    "bilinear": Bilinear,
}


def decoder_for(
    name: str,
    channels: int,
    *,
    hidden_channels: int = 64,
    outputs: int = 1,
    num_relations: int = 0,
    seed: int = 0,
) -> Decoder:
    """Build a decoder by name; arguments of `Decoder`.

    Raises:
        ConfigError: If there is no such decoder, or it cannot do what is asked.
    """
    if name not in DECODERS:
        raise ConfigError(f"decoder: unknown '{name}'; choose one of {sorted(DECODERS)}.")
    return DECODERS[name](
        channels,
        hidden_channels=hidden_channels,
        outputs=outputs,
        num_relations=num_relations,
        seed=seed,
    )


class EdgeModel(nn.Module):
    """What gives nodes their embeddings, and what scores two of them.

    Args:
        encoder: Called as encoder(view, x).
        decoder: Scores pairs of what it returns.
    """

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    @property
    def num_layers(self) -> int:
        """Graph layers of the encoder."""
        return count_layers(self.encoder)

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the embedding of each node.

        Shape:
            x: (M, in_channels). Returns (M, channels).
        """
        embedded: Tensor = self.encoder(view, x)
        return embedded
