"""Keyed permutations of [0, n) that are computed for any number instead of stored.

A permutation is four rounds of x -> (x * odd + add) mod 2^b, then x ^= x >> b/2, where b is the
number of bits of n - 1. A result outside [0, n) is permuted again until it is inside (cycle
walking: Black, Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002), at most twice on
average. Both steps are invertible, and so is the permutation. It is not a secure cipher.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from graphtheta.rng.philox import Purpose, philox4x32, step_key, stream_id

__all__ = ["Permutation", "permuted", "unpermuted"]

_ROUNDS = 4
_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


@_jit
def permuted(x: np.uint64, spec: NDArray[np.uint64]) -> np.uint64:
    """Return the image of x under the permutation with `Permutation.spec`, in a compiled loop."""
    size, mask, shift = spec[0], spec[1], spec[2]
    while True:
        for i in range(3, 3 + 3 * _ROUNDS, 3):
            x = (x * spec[i] + spec[i + 2]) & mask
            x ^= x >> shift
        if x < size:
            return x


@_jit
def unpermuted(x: np.uint64, spec: NDArray[np.uint64]) -> np.uint64:
    """Return the number whose image under `permuted` is x, in a compiled loop."""
    size, mask, shift = spec[0], spec[1], spec[2]
    while True:
        for i in range(3 * _ROUNDS, 0, -3):
            x ^= x >> shift  # its own inverse, because the shift is at least half the bits
            x = ((x - spec[i + 2]) * spec[i + 1]) & mask
        if x < size:
            return x


@_jit
def _permute(x: NDArray[np.int64], spec: NDArray[np.uint64], inverse: bool) -> NDArray[np.int64]:
    out = np.empty_like(x)
    for i in range(x.shape[0]):
        value = np.uint64(x[i])
        out[i] = np.int64(unpermuted(value, spec) if inverse else permuted(value, spec))
    return out


class Permutation:
    """Keyed permutation of [0, size).

    Args:
        size: Number of elements, from 1 to 2^63.
        seed: Random seed; seed, purpose and step determine the permutation.
        purpose: Purpose of the permutation.
        step: Number that distinguishes several permutations of the same purpose.

    Attributes:
        spec: Parameters for `permuted` and `unpermuted`: size, mask and shift, then a factor, its
            inverse and a summand for each round.

    Shape:
        spec: (15,) uint64.
    """

    def __init__(self, size: int, seed: int, purpose: Purpose, *, step: int = 0) -> None:
        assert 1 <= size <= 1 << 63, f"a permutation of {size} numbers"
        bits = max(1, (size - 1).bit_length())
        counters = np.zeros((_ROUNDS, 4), np.uint32)
        counters[:, 0] = np.arange(_ROUNDS)
        counters[:, 3] = stream_id(purpose, layer=0xFFFF)
        draws = philox4x32(counters, step_key(seed, step)).view(np.uint64)
        modulus = 1 << bits
        spec = [size, modulus - 1, (bits + 1) // 2]
        for factor, term in draws.tolist():
            odd = (factor | 1) % modulus
            spec += [odd, pow(odd, -1, modulus), term % modulus]
        self.spec: NDArray[np.uint64] = np.array(spec, np.uint64)

    def forward(self, x_R: NDArray[Any]) -> NDArray[np.int64]:
        """Return the images of numbers in [0, size).

        Shape:
            x_R: (R,) integers. Returns (R,) int64.
        """
        images: NDArray[np.int64] = _permute(np.ascontiguousarray(x_R, np.int64), self.spec, False)
        return images

    def inverse(self, x_R: NDArray[Any]) -> NDArray[np.int64]:
        """Return the numbers whose images under `forward` are the given ones.

        Shape:
            x_R: (R,) integers. Returns (R,) int64.
        """
        images: NDArray[np.int64] = _permute(np.ascontiguousarray(x_R, np.int64), self.spec, True)
        return images
