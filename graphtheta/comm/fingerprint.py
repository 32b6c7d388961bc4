"""Fingerprints of operations, compared over all ranks.

Mismatched collectives can succeed silently with wrong numbers. Comparing 16 bytes over all ranks
turns such a mismatch into an error that names the ranks and their operations.
"""

from __future__ import annotations

import zlib

import numpy as np

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import CollectiveMismatch

__all__ = ["compare_fingerprints"]


def compare_fingerprints(comm: Communicator, operation: str) -> None:
    """Check that all ranks are about to run the same operation.

    Args:
        comm: All ranks that should be in the same operation.
        operation: Description of the operation: stage, direction, trailing shapes, types and
            whether gradients are needed.

    Raises:
        CollectiveMismatch: On every rank, if the descriptions differ.

    Communication:
        One MAX all-reduce of 16 bytes.
    """
    crc = zlib.crc32(operation.encode())
    extremes = np.array([crc, -crc], np.int64)
    comm.all_reduce(extremes, "max", stage=operation)
    if extremes[0] == -extremes[1]:
        return
    texts = [
        bytes(row).decode()
        for row in comm.all_gather(
            np.frombuffer(operation.encode(), np.uint8), stage="fingerprint report"
        )
    ]
    odd = next(r for r in range(comm.size) if texts[r] != texts[0])
    raise CollectiveMismatch(
        f"exchange: rank {odd} is in '{texts[odd]}' while rank 0 is in '{texts[0]}'. "
        "Every rank must run the same layers in the same order, even if it has no nodes."
    )
