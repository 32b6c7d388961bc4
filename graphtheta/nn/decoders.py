"""Decoders, which score pairs of nodes by their embeddings, and models with a decoder.

A decoder computes on rows of one worker and never communicates. To add one, write a class here and
add it to `DECODERS`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn.init import glorot, seeded
from graphtheta.tgar import View, ViewModule, count_layers
from graphtheta.wording import counted

__all__ = ["DECODERS", "MLP", "Bilinear", "Decoder", "DistMult", "Dot", "EdgeModel", "decoder_for"]

Endpoint = Literal["src", "dst"]

_PAIRS = 1 << 15  # pairs that `Decoder.table` scores at a time


class Decoder(nn.Module):
    """Base class of decoders.

    Args:
        channels: Columns of the embeddings.
        hidden_channels: Columns of a hidden layer, in decoders that have one.
        outputs: Number of scores for each pair.
        num_relations: Number of relations, or 0 if pairs have no relation.
        seed: Random seed for the initial weights.

    Attributes:
        needs_relations: Whether pairs must have a relation.
        reads_relations: Whether the score depends on the relation.
        many_outputs: Whether a pair can have more than one score.

    Raises:
        ConfigError: If a number is out of range, or the decoder does not support it.
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
                f"{name}: expected one output a pair, got {outputs}. Use one of the decoders "
                f"{several}."
            )
        if self.needs_relations and num_relations < 1:
            raise ConfigError(
                f"{name}: expected edges with a relation, got none. Name its edge column with "
                "--relation-column, or use another decoder."
            )
        if num_relations and not self.reads_relations:
            readers = ", ".join(n for n, kind in DECODERS.items() if kind.reads_relations)
            raise ConfigError(
                f"{name}: expected edges without a relation, got "
                f"{counted(num_relations, 'relation')}. Use "
                f"one of the decoders {readers}, or name no relation."
            )
        self.channels, self.outputs, self.num_relations = channels, outputs, num_relations
        with seeded(seed, "decoder"):
            self.make(channels, hidden_channels, outputs, num_relations)

    def make(self, channels: int, hidden: int, outputs: int, num_relations: int) -> None:
        """Create the parameters."""

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        """Return the scores (logits) of pairs.

        Shape:
            src, dst: (..., channels). relation: (...) int64, or None. Leading dimensions broadcast.
            Returns (..., outputs).
        """
        raise NotImplementedError

    def table(
        self, query: Tensor, candidate: Tensor, relation: Tensor | None, candidate_is: Endpoint
    ) -> Tensor:
        """Return the score of every query with every candidate, for decoders with one output.

        Args:
            query: Embeddings of the known endpoint of each edge.
            candidate: Embeddings of the nodes that may be the other endpoint.
            relation: Relation of each query, or None.
            candidate_is: Which endpoint the candidates are.

        Shape:
            query: (Q, channels). candidate: (C, channels). relation: (Q,). Returns (Q, C).
        """
        size = max(1, _PAIRS // max(1, len(candidate)))
        rows = []
        for first in range(0, len(query), size):
            some = query[first : first + size]
            known = some.repeat_interleave(len(candidate), 0)
            other = candidate.repeat(len(some), 1)
            relations = None
            if relation is not None:
                relations = relation[first : first + size].repeat_interleave(len(candidate))
            pairs = (other, known) if candidate_is == "src" else (known, other)
            rows.append(self(*pairs, relations).reshape(len(some), len(candidate)))
        return torch.cat(rows) if rows else query.new_zeros((0, len(candidate)))


class Dot(Decoder):
    """Inner product of both embeddings (Kipf, Welling, "Variational graph auto-encoders", 2016)."""

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        return (src * dst).sum(-1, keepdim=True)

    def table(
        self, query: Tensor, candidate: Tensor, relation: Tensor | None, candidate_is: Endpoint
    ) -> Tensor:
        return query @ candidate.T


class DistMult(Decoder):
    """Trilinear product of both embeddings and a vector for the relation.

    Source: Yang, Yih, He, Gao, Deng, "Embedding entities and relations for learning and inference
    in knowledge bases", ICLR 2015.
    """

    needs_relations = True
    reads_relations = True

    def make(self, channels: int, hidden: int, outputs: int, num_relations: int) -> None:
        self.relation = nn.Parameter(torch.empty(num_relations, channels))
        nn.init.normal_(self.relation)

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        assert relation is not None
        # F.embedding, since the backward of indexing is slow.
        return (src * F.embedding(relation, self.relation) * dst).sum(-1, keepdim=True)

    def table(
        self, query: Tensor, candidate: Tensor, relation: Tensor | None, candidate_is: Endpoint
    ) -> Tensor:
        assert relation is not None
        return (query * F.embedding(relation, self.relation)) @ candidate.T


class MLP(Decoder):
    """Perceptron with one hidden layer over both embeddings and the relation, if there is one."""

    reads_relations = True
    many_outputs = True

    def make(self, channels: int, hidden: int, outputs: int, num_relations: int) -> None:
        self.lin_src = nn.Linear(channels, hidden)
        self.lin_dst = nn.Linear(channels, hidden, bias=False)
        self.lin_out = nn.Linear(hidden, outputs)
        self.relation: nn.Parameter | None = None
        if num_relations:
            self.relation = nn.Parameter(torch.empty(num_relations, hidden))
            glorot(self.relation)

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        hidden = self.lin_src(src) + self.lin_dst(dst)
        if self.relation is not None:
            assert relation is not None
            hidden = hidden + F.embedding(relation, self.relation)
        scores: Tensor = self.lin_out(hidden.relu())
        return scores


class Bilinear(Decoder):
    """Bilinear form of both embeddings for each output; unlike `Dot`, it is not symmetric.

    Source: Nickel, Tresp, Kriegel, "A three-way model for collective learning on multi-relational
    data", ICML 2011.
    """

    many_outputs = True

    def make(self, channels: int, hidden: int, outputs: int, num_relations: int) -> None:
        self.weight = nn.Parameter(torch.empty(outputs, channels, channels))
        self.bias = nn.Parameter(torch.zeros(outputs))
        glorot(self.weight)

    def forward(self, src: Tensor, dst: Tensor, relation: Tensor | None = None) -> Tensor:
        mapped = torch.einsum("...f,ofg->...og", src, self.weight)
        return torch.einsum("...og,...g->...o", mapped, dst) + self.bias

    def table(
        self, query: Tensor, candidate: Tensor, relation: Tensor | None, candidate_is: Endpoint
    ) -> Tensor:
        weight = self.weight[0].T if candidate_is == "src" else self.weight[0]
        return query @ weight @ candidate.T + self.bias


DECODERS: dict[str, type[Decoder]] = {
    "dot": Dot,
    "mlp": MLP,
    "distmult": DistMult,
    "bilinear": Bilinear,
}


def decoder_for(name: str, channels: int, **options: int) -> Decoder:
    """Return a decoder by name.

    Args:
        name: A key of `DECODERS`.
        channels: Columns of the embeddings.
        options: hidden_channels, outputs, num_relations and seed, as for `Decoder`.

    Raises:
        ConfigError: If the decoder is unknown, or does not support the options.
    """
    need_name(name, DECODERS, "decoder (--decoder)")
    return DECODERS[name](channels, **options)


class EdgeModel(ViewModule):
    """Model of an encoder, which embeds nodes, and a decoder, which scores pairs of embeddings.

    Args:
        encoder: Model called as encoder(view, x).
        decoder: Decoder of pairs.
    """

    takes = View

    def __init__(self, encoder: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    @property
    def num_layers(self) -> int:
        """Number of graph layers of the encoder."""
        return count_layers(self.encoder)

    def forward(self, view: View, x: Tensor) -> Tensor:
        """Return the embedding of each node.

        Shape:
            x: (M, in_channels). Returns (M, channels).
        """
        embedded: Tensor = self.encoder(view, x)
        return embedded
