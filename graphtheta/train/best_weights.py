"""Weights of the best epoch of a run."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphtheta.nn.embedding import ShardedParameter

__all__ = ["BestWeights"]


class BestWeights:
    """Copy of a model's weights in its best epoch, while training goes on.

    Args:
        model: Model in training.
        best: Weights of the best epoch of a run that is resumed.

    Attributes:
        best: Weights of the best epoch so far, or None if there is none.
    """

    def __init__(self, model: nn.Module, best: dict[str, Tensor] | None = None) -> None:
        self._model, self.best = model, best
        self._last: dict[str, Tensor] | None = None

    def keep(self) -> None:
        """Take the model's present weights as the best ones."""
        self.best = self._copy()

    def load(self) -> None:
        """Load the best weights into the model, if there are any, and keep its last weights."""
        if self.best is not None:
            self._last = self._copy()
            self._model.load_state_dict(self.best)

    def restore_last(self) -> None:
        """Load the last weights again, unless the model's weights were changed since `load`."""
        best, last = self.best, self._last
        self._last = None
        if best is None or last is None:
            return
        if all(torch.equal(best[name], t) for name, t in self._model.state_dict().items()):
            self._model.load_state_dict(last)

    def _copy(self) -> dict[str, Tensor]:
        return {
            name: tensor.copy() if isinstance(tensor, ShardedParameter) else tensor.detach().clone()
            for name, tensor in self._model.state_dict(keep_vars=True).items()
        }
