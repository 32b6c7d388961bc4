"""Dense ids for keys that are spread over the workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator

__all__ = ["dense_ids"]

_STAGE = "dense ids"


def dense_ids(
    keys: NDArray[np.int64],
    bound: int,
    comm: Communicator,
    counted: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Number the distinct keys of all workers from 0 in ascending order; collective.

    Worker r numbers the keys of the r-th of `comm.size` equal ranges, so that no worker holds all
    of them.

    Args:
        keys: (T,) in [0, bound), with repeats.
        bound: Exclusive upper bound of the keys.
        comm: The workers.
        counted: (T,) which keys to number; if None, all. A key is numbered if any worker counts
            any of its repeats; other keys have the id -1.

    Shape:
        Returns (T,) int64, and the number of distinct keys that were counted.

    Communication:
        Two all-to-alls of 8 bytes a distinct key, and one number a worker.
    """
    distinct, inverse = np.unique(keys, return_inverse=True)
    is_counted = np.ones(len(distinct), np.bool_)
    if counted is not None:
        is_counted = np.bincount(inverse, weights=counted, minlength=len(distinct)) > 0
    width = -(-max(bound, 1) // comm.size)
    cuts = np.searchsorted(distinct, width * np.arange(1, comm.size))
    # The lowest bit of a message tells whether its key is counted.
    received = comm.all_to_all(np.split(2 * distinct + is_counted, cuts), stage=_STAGE)
    messages = np.concatenate(received)
    merged, inverse_merged = np.unique(messages >> 1, return_inverse=True)
    is_counted = np.bincount(inverse_merged, weights=messages & 1, minlength=len(merged)) > 0
    totals = comm.all_gather_int(int(is_counted.sum()), stage=f"{_STAGE}: counts")
    first = totals[: comm.rank].sum()
    ids = np.where(is_counted, np.cumsum(is_counted) - 1 + first, -1)[inverse_merged]
    answers = np.split(ids, np.cumsum([len(block) for block in received])[:-1])
    answer = np.concatenate(comm.all_to_all(answers, stage=f"{_STAGE}: answers"))
    return answer[inverse], int(totals.sum())
