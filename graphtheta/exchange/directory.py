"""Directory: where in the job a key lives. Each rank knows one range of the keys, none knows all.

Never imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator

__all__ = ["Directory", "location_code", "rank_and_row"]

_PLACE_BITS = 32
_STAGE = "directory"


def location_code(rank: NDArray[Any] | int, place: NDArray[Any]) -> NDArray[np.int64]:
    """Return one number for a rank and a place there; numbers ascend by rank, then by place.

    Shape:
        place: (R,) int64, below 2^32. Returns (R,) int64.
    """
    return (np.asarray(rank, np.int64) << _PLACE_BITS) | np.asarray(place, np.int64)


def rank_and_row(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what `location_code` was given."""
    return codes >> _PLACE_BITS, codes & ((1 << _PLACE_BITS) - 1)


class Directory:
    """Finds keys that are spread over the ranks.

    Args:
        keys: (R,) those of this rank, in [0, bound), each at one rank once.
        places: (R,) where each is here, in [0, 2^32).
        bound: Above every key.
        comm: The ranks; making one is collective.

    Communication:
        An all-to-all of 16 bytes a key.
    """

    def __init__(
        self, keys: NDArray[np.int64], places: NDArray[np.int64], bound: int, comm: Communicator
    ) -> None:
        self._width = -(-max(bound, 1) // comm.size)
        rows = np.stack([keys, location_code(comm.rank, places)], axis=1)
        order = np.argsort(keys)
        blocks = self._split(keys[order], rows[order], comm.size)
        told = comm.all_to_all([block.reshape(-1) for block in blocks], stage=_STAGE)
        key, code = np.concatenate(told).reshape(-1, 2).T
        self._codes = np.full(self._width, -1, np.int64)
        self._codes[key - comm.rank * self._width] = code

    def find(self, keys: NDArray[np.int64], comm: Communicator) -> NDArray[np.int64]:
        """Return the `location_code` of each key, -1 where no rank has it; collective.

        Args:
            keys: In [0, bound), any number of times each.
            comm: The same ranks, perhaps in a conversation of their own.

        Shape:
            keys: (R,). Returns (R,) int64.

        Communication:
            Two all-to-alls of 8 bytes a distinct key.
        """
        distinct, at = np.unique(keys, return_inverse=True)
        asked = comm.all_to_all(self._split(distinct, distinct, comm.size), stage=f"{_STAGE}: keys")
        first = comm.rank * self._width
        answers = comm.all_to_all([self._codes[k - first] for k in asked], stage=_STAGE)
        return np.concatenate(answers)[at]

    def _split(
        self, sorted_keys: NDArray[np.int64], rows: NDArray[np.int64], size: int
    ) -> list[NDArray[np.int64]]:
        cuts = np.searchsorted(sorted_keys, self._width * np.arange(1, size))
        return [np.ascontiguousarray(block) for block in np.split(rows, cuts)]
