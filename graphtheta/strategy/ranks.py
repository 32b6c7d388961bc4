"""Dense ranks of keys that are spread over the workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator

__all__ = ["dense_ranks"]


def dense_ranks(
    keys: NDArray[np.int64], bound: int, comm: Communicator
) -> tuple[NDArray[np.int64], int]:
    """Return how many keys of all workers are smaller than each of this worker's, and their number.

    Worker r counts those of the r-th of equal ranges, so that nobody holds them all.

    Args:
        keys: (T,) distinct over all workers, in [0, bound).
        bound: Above every key.
        comm: The workers.

    Communication:
        Two all-to-alls of 8 bytes a key, and one number a worker.
    """
    width = -(-max(bound, 1) // comm.size)
    order = np.argsort(keys, kind="stable")
    cuts = np.searchsorted(keys[order], width * np.arange(1, comm.size))
    parts = np.split(keys[order], cuts)
    heard = comm.all_to_all(parts, stage="rank keys")
    theirs = np.concatenate(heard)
    counts = comm.all_gather_int(len(theirs), stage="rank keys: counts")
    ranks = np.empty(len(theirs), np.int64)
    ranks[np.argsort(theirs, kind="stable")] = np.arange(len(theirs)) + counts[: comm.rank].sum()
    answers = np.split(ranks, np.cumsum([len(part) for part in heard])[:-1])
    result = np.empty(len(keys), np.int64)
    result[order] = np.concatenate(comm.all_to_all(answers, stage="rank keys: answers"))
    return result, int(counts.sum())
