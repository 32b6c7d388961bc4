"""Checks of what workers exchange, and that they run the same operations.

Buffers are C-contiguous NumPy arrays of plain numbers. Mismatched collectives can succeed silently
with wrong numbers. Comparing 16 bytes over all ranks turns such a mismatch into an error that names
the ranks and their operations.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import CollectiveMismatch, ConfigError

__all__ = ["as_bytes", "check_buffer", "check_buffers", "check_reduce", "compare_fingerprints"]

_KINDS = "biuf"  # bool, int, uint, float: every MPI library reduces them as NumPy does
_MAX_ITEMSIZE = 8  # bytes; longdouble differs between hosts


def check_buffer(buffer: NDArray[Any], *, stage: str, written: bool = False) -> None:
    """Check that a buffer can be sent, or received into, without a conversion.

    Args:
        buffer: Array to check.
        stage: Stage of the operation, for the message.
        written: Whether the operation writes to the buffer.

    Raises:
        ConfigError: If the buffer is not an array of plain numbers, is not C-contiguous, or is
            read-only although `written`.
    """
    if not isinstance(buffer, np.ndarray):
        raise ConfigError(f"{stage}: expected a NumPy array, got {type(buffer).__name__}.")
    dtype = buffer.dtype
    if dtype.kind not in _KINDS or dtype.itemsize > _MAX_ITEMSIZE or not dtype.isnative:
        raise ConfigError(
            f"{stage}: expected numbers of at most 8 bytes, got {dtype}. Convert them first."
        )
    if not buffer.flags.c_contiguous:
        raise ConfigError(
            f"{stage}: expected a C-contiguous buffer, got shape {buffer.shape} with strides "
            f"{buffer.strides}. Pass numpy.ascontiguousarray(buffer)."
        )
    if written and not buffer.flags.writeable:
        raise ConfigError(f"{stage}: expected a writeable buffer, got a read-only one. Copy it.")


def check_buffers(buffers: Sequence[NDArray[Any]], size: int, *, stage: str) -> None:
    """Check that there is one buffer for each of `size` ranks, and that each can be sent.

    Raises:
        ConfigError: If the number of buffers is wrong, or one of them cannot be sent.
    """
    if len(buffers) != size:
        raise ConfigError(f"{stage}: expected {size} buffers, one per rank, got {len(buffers)}.")
    for buffer in buffers:
        check_buffer(buffer, stage=stage)


def check_reduce(buffer: NDArray[Any], op: str, *, stage: str) -> None:
    """Check that a reduction is known and has the same result in NumPy and MPI.

    Raises:
        ConfigError: If `op` is unknown, or is a sum of booleans or of float16.
    """
    check_buffer(buffer, stage=stage, written=True)
    if op not in ("sum", "max", "min"):
        raise ConfigError(f"{stage}: expected op 'sum', 'max' or 'min', got {op!r}.")
    if buffer.dtype == np.float16 or (op == "sum" and buffer.dtype == np.bool_):
        raise ConfigError(
            f"{stage}: {op} of {buffer.dtype} is not defined. Convert to a wider type first."
        )


def as_bytes(buffer: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the memory of a C-contiguous `buffer` as (nbytes,) uint8, without a copy."""
    return buffer.reshape(-1).view(np.uint8)


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
