"""A batch: what a strategy yields for each step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from graphtheta.tgar import View

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """One step's view and targets.

    Attributes:
        view: What the layers compute on.
        targets: (T,) int64 rows of the model's output that count in the loss; may be none here.
    """

    view: View
    targets: Tensor
