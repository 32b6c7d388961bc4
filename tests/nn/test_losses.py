from __future__ import annotations

import torch
from torch.nn import functional as F

from graphtheta.nn import LOSSES


def test_losses_are_sums_and_counts() -> None:
    logits = torch.randn(6, 3, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 2, 1, 0])
    flags = torch.rand(6, 3) > 0.5
    values = torch.randn(6, 3)
    for task, target, mean in (
        ("multiclass", classes, F.cross_entropy(logits, classes)),
        ("multilabel", flags, F.binary_cross_entropy_with_logits(logits, flags.double())),
        ("binary", flags, F.binary_cross_entropy_with_logits(logits, flags.double())),
        ("regression", values, F.mse_loss(logits, values.double())),
    ):
        total, count = LOSSES[task](logits, target)  # type: ignore[index]
        torch.testing.assert_close(total / count, mean)
        # Sums over the workers add up to the whole.
        halves = [LOSSES[task](logits[r], target[r]) for r in (slice(2), slice(2, None))]  # type: ignore[index]
        torch.testing.assert_close(halves[0][0] + halves[1][0], total)
        assert halves[0][1] + halves[1][1] == count
        nothing, none = LOSSES[task](logits[:0], target[:0])  # type: ignore[index]
        assert nothing == none == 0


def test_losses_of_one_output_take_flat_targets() -> None:
    logits = torch.randn(6, 1)
    for task, target in (("binary", torch.rand(6) > 0.5), ("regression", torch.randn(6))):
        flat, count = LOSSES[task](logits, target)  # type: ignore[index]
        square, _ = LOSSES[task](logits, target[:, None])  # type: ignore[index]
        assert flat == square
        assert count == 6
