"""Kernel that applies steps of Adam to some rows of a matrix, each from the step it has reached."""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["AdamNumbers", "advance_rows"]

Array = NDArray[Any]


class AdamNumbers(NamedTuple):
    """Numbers of Adam, of the dtype of the rows.

    Attributes:
        lead: 1 - beta1.
        beta2: Decay of the second moment.
        lead2: 1 - beta2.
        eps: Term added to the denominator.
        decay: Weight decay that is added to gradients (Adam).
        tiny: Smallest first moment that is not set to 0.
    """

    lead: Any
    beta2: Any
    lead2: Any
    eps: Any
    decay: Any
    tiny: Any


@numba.njit(cache=True, nogil=True, boundscheck=False, error_model="numpy")
def advance_rows(
    rows: NDArray[np.int64],
    gradient: Array,
    weight: Array,
    moments: tuple[Array, Array],
    last: NDArray[np.int64],
    step: int,
    terms: int,
    by_step: tuple[Array, Array, Array],
    powers: tuple[Array, Array, Array],
    numbers: AdamNumbers,
) -> None:
    """Apply to each row the steps that it has missed, with gradient 0, and then the last one.

    Args:
        rows: Distinct rows.
        gradient: Gradient of each of them in the last step; without rows, that is 0 as well.
        weight: Rows that are updated, with both `moments`.
        moments: First and second moments.
        last: Last step that each row has; set to `step`.
        step: The step to reach.
        terms: Number of missed steps after which a row without gradient and decay stays the same.
        by_step: Step sizes, square roots of the bias corrections of the second moment, and factors
            of the weights (AdamW); their last value is that of `step`.
        powers: Factors of the weight and of both moments over the last n missed steps, for n from
            0.
        numbers: Numbers of Adam.

    Shape:
        rows (R,), gradient (R, C) or (0, C), weight and moments (M, C), last (M,) int64.
    """
    lead, beta2, lead2, eps, decay, tiny = numbers
    sizes, roots, shrinks = by_step
    channels = weight.shape[1]
    has_gradient = gradient.shape[0] > 0
    before = step - 1 if has_gradient else step
    newest = sizes.shape[0] - 1
    for i in range(rows.shape[0]):
        row = rows[i]
        w, m, v = weight[row], moments[0][row], moments[1][row]
        end = min(before, last[row] + terms)
        if decay == 0:
            moves = False
            for j in range(channels):
                moves |= m[j] != 0
            if not moves:
                end = last[row]
        for missed in range(last[row] + 1, end + 1):
            at = newest - (step - missed)
            size, root, shrink = sizes[at], roots[at], shrinks[at]
            for j in range(channels):
                g = decay * w[j]
                first = m[j] + lead * (g - m[j])
                second = v[j] * beta2 + (lead2 * g) * g
                m[j], v[j] = first, second
                w[j] = w[j] * shrink - size * first / (np.sqrt(second) / root + eps)
        rest = before - end
        if rest > 0:
            for j in range(channels):
                w[j] *= powers[0][rest]
                v[j] *= powers[2][rest]
                first = m[j] * powers[1][rest]
                m[j] = first if abs(first) > tiny else first * 0
        if has_gradient:
            size, root, shrink = sizes[newest], roots[newest], shrinks[newest]
            for j in range(channels):
                g = gradient[i, j] + decay * w[j]
                first = m[j] + lead * (g - m[j])
                second = v[j] * beta2 + (lead2 * g) * g
                m[j], v[j] = first, second
                w[j] = w[j] * shrink - size * first / (np.sqrt(second) / root + eps)
        last[row] = step
