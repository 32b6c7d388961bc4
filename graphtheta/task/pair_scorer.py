"""The decoder of an edge model, checked against what it is asked to score."""

from __future__ import annotations

from torch import Tensor, nn

from graphtheta.errors import ConfigError
from graphtheta.nn import EdgeModel

__all__ = ["PairScorer"]


class PairScorer:
    """Scores pairs with the decoder of a model.

    Args:
        model: An `EdgeModel`.
        num_relations: That its pairs are of; 0: of none.

    Attributes:
        decoder: The model's.

    Raises:
        ConfigError: If the model has no decoder, or one of fewer relations.
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
                f"task: expected a decoder of {num_relations} relations, got one of {known}. Make "
                "it with that num_relations, and name the task's relation."
            )

    def __call__(self, src: Tensor, dst: Tensor, relation: Tensor | None) -> Tensor:
        """Return the scores (logits) of pairs: (R, outputs)."""
        scores: Tensor = self.decoder(src, dst, relation)
        return scores

    def check(self, outputs: Tensor) -> None:
        """Raise a ConfigError if embeddings do not fit the decoder; (M, F)."""
        wanted = self.decoder.channels
        if outputs.dim() != 2 or outputs.shape[1] != wanted:
            raise ConfigError(
                f"trainer: the decoder scores embeddings of {wanted} columns, the encoder gives "
                f"{tuple(outputs.shape[1:])}."
            )
