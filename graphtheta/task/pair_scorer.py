"""Decoder of an edge model, with checks that it fits the task."""

from __future__ import annotations

from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn import EdgeModel
from graphtheta.wording import counted

__all__ = ["PairScorer"]


class PairScorer:
    """Scores pairs of nodes with the decoder of a model.

    Args:
        model: An `EdgeModel`.
        num_relations: Number of relations of the pairs; 0 if they have none.

    Attributes:
        decoder: The model's decoder.

    Raises:
        ConfigError: If the model has no decoder, or one for fewer relations.
    """

    def __init__(self, model: nn.Module, num_relations: int) -> None:
        if not isinstance(model, EdgeModel):
            raise ConfigError(
                f"task: expected a model with a decoder, got {type(model).__name__}. Give "
                "nn.EdgeModel(encoder, decoder)."
            )
        self.decoder = model.decoder
        known = self.decoder.num_relations
        if num_relations > known or (known and not num_relations):
            raise ConfigError(
                f"task: expected a decoder of {counted(num_relations, 'relation')}, got "
                f"one of {known}. Give "
                "the decoder that num_relations, and the task its relation."
            )

    def __call__(self, src: Tensor, dst: Tensor, relation: Tensor | None) -> Tensor:
        """Return the scores (logits) of pairs: (R, outputs)."""
        scores: Tensor = self.decoder(src, dst, relation)
        return scores

    def check(self, outputs: Tensor) -> None:
        """Raise a ConfigError if embeddings, (M, F), do not fit the decoder."""
        wanted = self.decoder.channels
        if outputs.dim() != 2 or outputs.shape[1] != wanted:
            raise ConfigError(
                f"trainer: expected embeddings of {counted(wanted, 'column')}, as the "
                "decoder reads, got "
                f"{tuple(outputs.shape[1:])} from the encoder. Make their channels equal."
            )
