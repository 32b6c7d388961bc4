"""Tensors that are mapped from files, for what is larger than memory."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.runtime.atomic import disk_errors

__all__ = ["zero_rows"]


def zero_rows(
    shape: Sequence[int],
    dtype: torch.dtype,
    folder: Path | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return zeros, in memory or mapped from a file.

    In memory of the CPU, rows take no space until they are written. The file has no name, so that
    it vanishes with the tensor, and its space is reserved.

    Args:
        shape: Shape of the tensor.
        dtype: Type of the values.
        folder: Folder of the file, created if it is missing. If None, the tensor is in memory.
        device: Device of a tensor in memory.

    Raises:
        ConfigError: If the folder cannot be written, or has too little space.
    """
    size = math.prod(shape)
    if folder is None or size == 0:
        if torch.device(device).type != "cpu":
            return torch.zeros(*shape, dtype=dtype, device=device)
        return torch.from_numpy(np.zeros(shape, torch.empty(0, dtype=dtype).numpy().dtype))
    with disk_errors(folder, "learned rows", ConfigError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".graphtheta-") as file:
            os.posix_fallocate(file.fileno(), 0, size * dtype.itemsize)
            return torch.from_file(file.name, shared=True, size=size, dtype=dtype).reshape(*shape)
