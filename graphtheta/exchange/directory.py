"""Distributed directory that maps keys to their locations.

Each rank holds the entries of one range of keys, so that no rank holds all. Never imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator

__all__ = ["Directory", "location_code", "rank_and_row"]

_ROW_BITS = 32
_STAGE = "directory"


def location_code(rank: NDArray[Any] | int, row: NDArray[Any]) -> NDArray[np.int64]:
    """Pack a rank and a row into one integer; codes ascend by rank, then by row.

    Shape:
        row: (R,) int64, below 2^32. Returns (R,) int64.
    """
    return (np.asarray(rank, np.int64) << _ROW_BITS) | np.asarray(row, np.int64)


def rank_and_row(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rank and the row of each `location_code`."""
    return codes >> _ROW_BITS, codes & ((1 << _ROW_BITS) - 1)


class Directory:
    """Lookup table from a key to the rank and row that hold it, spread over the ranks.

    Args:
        keys: (R,) keys of this rank, in [0, bound); each key is on one rank, once.
        rows: (R,) row of each key on this rank, in [0, 2^32).
        bound: Upper bound of the keys, exclusive.
        comm: The ranks; the constructor is collective.

    Communication:
        One all-to-all of 16 bytes per key.
    """

    def __init__(
        self, keys: NDArray[np.int64], rows: NDArray[np.int64], bound: int, comm: Communicator
    ) -> None:
        self._width = -(-max(bound, 1) // comm.size)
        entries = np.stack([keys, location_code(comm.rank, rows)], axis=1)
        order = np.argsort(keys)
        to_ranks = self._split(keys[order], entries[order], comm.size)
        received = comm.all_to_all([part.reshape(-1) for part in to_ranks], stage=_STAGE)
        key, code = np.concatenate(received).reshape(-1, 2).T
        self._codes = np.full(self._width, -1, np.int64)
        self._codes[key - comm.rank * self._width] = code

    def find(self, keys: NDArray[np.int64], comm: Communicator) -> NDArray[np.int64]:
        """Return the `location_code` of each key, or -1 if no rank holds it; collective.

        Args:
            keys: Keys in [0, bound); duplicates are allowed.
            comm: The same ranks, possibly over another communicator.

        Shape:
            keys: (R,). Returns (R,) int64.

        Communication:
            Two all-to-alls of 8 bytes per distinct key.
        """
        distinct, index = np.unique(keys, return_inverse=True)
        to_ranks = self._split(distinct, distinct, comm.size)
        requests = comm.all_to_all(to_ranks, stage=f"{_STAGE}: keys")
        first = comm.rank * self._width
        answers = comm.all_to_all([self._codes[k - first] for k in requests], stage=_STAGE)
        return np.concatenate(answers)[index]

    def _split(
        self, sorted_keys: NDArray[np.int64], rows: NDArray[np.int64], size: int
    ) -> list[NDArray[np.int64]]:
        """Return the rows for each rank: those whose keys are in its range."""
        cuts = np.searchsorted(sorted_keys, self._width * np.arange(1, size))
        return [np.ascontiguousarray(part) for part in np.split(rows, cuts)]
