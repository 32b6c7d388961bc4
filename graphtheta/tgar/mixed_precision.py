"""Mixed precision: products in bfloat16 under torch.autocast on the CPU, and all else in float32.

Weights, exchanges, kernels, sums and statistics stay float32. What a product in bfloat16 returns is
converted where it enters a layer or leaves it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from graphtheta.errors import ConfigError

__all__ = ["float_rows", "is_autocast", "refuse_mixed_precision", "without_autocast"]

_DTYPES = (torch.float32, torch.float64)


def is_autocast(device: str) -> bool:
    """Return whether autocast is on for a type of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast."""
    return torch.autocast(device, enabled=False) if is_autocast(device) else nullcontext()


def float_rows(x: Any) -> Any:
    """Return a tensor of bfloat16 as float32, and anything else as it is."""
    return x.float() if isinstance(x, Tensor) and x.dtype == torch.bfloat16 else x


def refuse_mixed_precision(where: str, dtype: torch.dtype, device: str) -> None:
    """Raise a ConfigError if a model computes in another dtype than float32 or float64.

    Autocast to bfloat16 on the CPU is allowed.

    Args:
        where: What computes, for the message.
        dtype: Dtype of its parameters or inputs; integers are not judged.
        device: Type of the device.
    """
    is_on = is_autocast(device)
    to = torch.get_autocast_dtype(device) if is_on else None
    if is_on and (device != "cpu" or to != torch.bfloat16):
        raise ConfigError(
            f"{where}: expected no autocast, or one to bfloat16 on the CPU, got "
            f"torch.autocast({device!r}, {to}), under which sums would lose digits. Leave it out; "
            "TGARLayer.storage = torch.bfloat16 halves what is sent and gathered."
        )
    if dtype not in _DTYPES and dtype != to and (dtype.is_floating_point or dtype.is_complex):
        name = str(dtype).removeprefix("torch.")
        raise ConfigError(
            f"{where}: expected float32 or float64, got {name}. Use model.float() or "
            "model.double(), with gt.Trainer(precision='bf16') for products in bfloat16; "
            "TGARLayer.storage = torch.bfloat16 halves what is sent and gathered."
        )
