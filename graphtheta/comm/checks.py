"""What can travel between workers: C-contiguous NumPy arrays of plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError

__all__ = ["as_bytes", "check_buffer", "check_buffers", "check_reduce"]

_KINDS = "biuf"  # bool, int, uint, float: what every MPI library can reduce and NumPy agrees with
_WIDEST = 8  # bytes; longdouble differs between hosts


def check_buffer(buffer: NDArray[Any], *, stage: str, written: bool = False) -> None:
    """Refuse what cannot travel as it stands.

    Raises:
        ConfigError: If `buffer` is no array of plain numbers, has gaps, or must be `written`
            and is read-only.
    """
    if not isinstance(buffer, np.ndarray):
        raise ConfigError(f"{stage}: expected a NumPy array, got {type(buffer).__name__}.")
    dtype = buffer.dtype
    if dtype.kind not in _KINDS or dtype.itemsize > _WIDEST or not dtype.isnative:
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
    """Refuse anything but one buffer a rank that can travel.

    Raises:
        ConfigError: If there are not `size` buffers, or one of them cannot travel.
    """
    if len(buffers) != size:
        raise ConfigError(f"{stage}: expected {size} buffers, one a rank, got {len(buffers)}.")
    for buffer in buffers:
        check_buffer(buffer, stage=stage)


def check_reduce(buffer: NDArray[Any], op: str, *, stage: str) -> None:
    """Refuse a reduction whose meaning differs between NumPy and MPI.

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
