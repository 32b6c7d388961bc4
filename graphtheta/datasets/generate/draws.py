"""Random draws of generators: popularity, noise and splits.

All functions are pure functions of the seed and of an edge number or node key, so that a row does
not depend on the rank or chunk in which it is made. They use only exact arithmetic, without
logarithms or cosines, so that the bits are the same on any machine.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.rng.philox import Purpose, philox, step_key, stream_id

__all__ = [
    "Draw",
    "bell",
    "draw_key",
    "jit",
    "node_splits",
    "popular_rank",
    "random_bits",
    "stream",
    "unit",
]

jit = numba.njit(cache=True, nogil=True, boundscheck=False)


class Draw(IntEnum):
    """Purpose of a draw; draws of different purposes are independent."""

    ENDS = 1
    PLACE = 2
    GROUP = 3
    CENTROID = 4
    NODE = 5
    EDGE = 6
    LABEL = 7
    SPLIT = 8


def draw_key(seed: int) -> NDArray[np.uint32]:
    """Return the Philox key of a generator.

    Shape:
        Returns (2,) uint32.
    """
    return step_key(seed, 0)


def stream(draw: Draw) -> np.uint32:
    """Return the stream of a purpose, which is part of the Philox counter."""
    return stream_id(Purpose.GENERATE, layer=draw)


@jit
def random_bits(number: Any, stream_id: np.uint32, key: NDArray[np.uint32]) -> Any:
    """Return four times 32 random bits for an edge number or node key."""
    k = np.uint64(number)
    low, high = np.uint32(k), np.uint32(k >> np.uint64(32))
    return philox(np.uint32(0), low, high, stream_id, key[0], key[1])


@jit
def unit(a: np.uint32, b: np.uint32) -> np.float64:
    """Return a number in [0, 1) from 53 random bits."""
    bits = (np.uint64(a) << np.uint64(21)) | (np.uint64(b) >> np.uint64(11))
    return np.float64(bits) * 2.0**-53


@jit
def popular_rank(u: np.float64, count: Any, power_law: bool) -> Any:
    """Return one of `count` items, drawn by u in [0, 1); item 0 is the most popular.

    With the power law, the probability of item r is proportional to sqrt(r + 1) - sqrt(r), which is
    about r^-1/2. The tail of degrees has exponent 3, and E / sqrt(count) of E draws are item 0.
    """
    value = np.float64(count) * (u * u if power_law else u)
    return min(np.int64(value), count - 1)


@jit
def bell(bits: np.uint32) -> np.float32:
    """Return a nearly normal number of mean 0 and variance 1, from the sum of the four bytes."""
    total = (
        (bits & np.uint32(255))
        + ((bits >> np.uint32(8)) & np.uint32(255))
        + ((bits >> np.uint32(16)) & np.uint32(255))
        + (bits >> np.uint32(24))
    )
    return np.float32(np.int32(total) - np.int32(510)) * np.float32(1.0 / 147.80054)


@jit
def _splits(
    first: int, train: np.uint32, val: np.uint32, stream_id: np.uint32, key: Any, out: Any
) -> None:
    for i in range(out.shape[0]):
        draw, _b, _c, _d = random_bits(first + i, stream_id, key)
        out[i] = 1 if draw < train else 2 if draw < val else 3


def node_splits(start: int, stop: int, seed: int) -> NDArray[np.int8]:
    """Draw the splits of nodes [start, stop): 60 % training, 20 % validation, 20 % test.

    Shape:
        Returns (stop - start,) int8, with the values of `graphtheta.data.schema`.
    """
    out = np.empty(stop - start, np.int8)
    train, val = np.uint32(0.6 * 2**32), np.uint32(0.8 * 2**32)
    _splits(start, train, val, stream(Draw.SPLIT), draw_key(seed), out)
    return out
