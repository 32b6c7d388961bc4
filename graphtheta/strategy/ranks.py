"""Dense ranks of keys that are spread over the workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator

__all__ = ["dense_ranks"]


def dense_ranks(
    keys: NDArray[np.int64],
    bound: int,
    comm: Communicator,
    counted: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Return how many distinct keys of all workers are smaller than each here, and their number.

    Worker r counts those of the r-th of equal ranges, so that nobody holds them all.

    Args:
        keys: (T,) in [0, bound), any number of times each.
        bound: Above every key.
        comm: The workers.
        counted: (T,) which of them count: a key does if it does anywhere, and any other has rank
            -1. None: all do.

    Shape:
        Returns (T,) int64.

    Communication:
        Two all-to-alls of 8 bytes a distinct key, and one number a worker.
    """
    mine, at = np.unique(keys, return_inverse=True)
    counts = np.ones(len(mine), np.bool_)
    if counted is not None:
        counts = np.bincount(at, weights=counted, minlength=len(mine)) > 0
    width = -(-max(bound, 1) // comm.size)
    cuts = np.searchsorted(mine, width * np.arange(1, comm.size))
    heard = comm.all_to_all(np.split(2 * mine + counts, cuts), stage="rank keys")
    theirs = np.concatenate(heard)
    found, which = np.unique(theirs >> 1, return_inverse=True)
    ranked = np.bincount(which, weights=theirs & 1, minlength=len(found)) > 0
    totals = comm.all_gather_int(int(ranked.sum()), stage="rank keys: counts")
    ranks = np.where(ranked, np.cumsum(ranked) - 1 + totals[: comm.rank].sum(), -1)[which]
    answers = np.split(ranks, np.cumsum([len(part) for part in heard])[:-1])
    answer = np.concatenate(comm.all_to_all(answers, stage="rank keys: answers"))
    return answer[at], int(totals.sum())
