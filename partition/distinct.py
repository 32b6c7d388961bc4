"""Distinct integers by sorting, several times faster than NumPy's hashing `unique`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["distinct"]


def distinct(*keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the different values of some arrays, ascending.

    Shape:
        keys: 1-D, of any lengths. Returns 1-D.
    """
    values = np.concatenate(keys)
    values.sort()
    is_first = np.ones(values.shape[0], np.bool_)
    np.not_equal(values[1:], values[:-1], out=is_first[1:])
    return values[is_first]
