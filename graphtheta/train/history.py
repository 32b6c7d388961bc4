"""What a training run has reached so far."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["History"]


@dataclass
class History:
    """What a run has seen so far; all of it goes into a checkpoint.

    Attributes:
        loss: Mean loss of the targets in each epoch, as it was optimised.
        epoch_seconds: Time of each epoch's training, without evaluation, in seconds.
        best_epoch: Epoch of the best validation, counted from 0; -1 before the first.
        best: Metrics of that epoch, `val_accuracy` and the like.
    """

    loss: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best: dict[str, float] = field(default_factory=dict)
