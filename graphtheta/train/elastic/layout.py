"""Parameters and gradients of a model as arrays, in the same order on both sides of a service."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graphtheta.nn.embedding import ShardedParameter
from graphtheta.train.gradients import assign_gradients, flatten_gradients

__all__ = ["ModelLayout"]

Array = NDArray[Any]


class ModelLayout:
    """Order in which the parameters and buffers of a model are one array of bytes.

    Args:
        model: The model. All its parameters have one dtype.

    Attributes:
        sharded: Parameters with learned rows, by name, which are not part of the array.
        num_bytes: Length of the array.
        num_gradients: Numbers in the gradients of all other trained parameters.
        dtype: Their type.
        numpy_dtype: The same in NumPy.
    """

    def __init__(self, model: nn.Module) -> None:
        named = dict(model.named_parameters())
        self.sharded = {n: p for n, p in named.items() if isinstance(p, ShardedParameter)}
        self._tensors: dict[str, Tensor] = {
            **{name: tensor for name, tensor in named.items() if name not in self.sharded},
            **dict(model.named_buffers()),
        }
        self._trained = [
            p for name, p in named.items() if p.requires_grad and name not in self.sharded
        ]
        self.num_bytes = sum(t.numel() * t.element_size() for t in self._tensors.values())
        self.num_gradients = sum(p.numel() for p in self._trained)
        self.dtype = next(iter(named.values())).dtype
        self.numpy_dtype = torch.empty(0, dtype=self.dtype).numpy().dtype

    def describe(self) -> str:
        """Return the names, shapes and types of all tensors, but for the number of rows."""
        whole = (f"{n} {tuple(t.shape)} {t.dtype}" for n, t in self._tensors.items())
        rows = (f"{n} (rows, {p.shape[1]}) {p.dtype}" for n, p in self.sharded.items())
        return ", ".join((*whole, *rows)).replace("torch.", "")

    def state(self) -> Array:
        """Return a copy of the parameters and buffers.

        Shape:
            Returns (num_bytes,) uint8.
        """
        pieces = [
            tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            for tensor in self._tensors.values()
        ]
        empty = torch.empty(0, dtype=torch.uint8)
        state: Array = torch.cat([empty, *pieces]).numpy()
        return state

    def load(self, state: Array) -> None:
        """Set the parameters and buffers to those of `state()`."""
        start = 0
        with torch.no_grad():
            for tensor in self._tensors.values():
                stop = start + tensor.numel() * tensor.element_size()
                values = torch.from_numpy(state[start:stop].copy()).view(tensor.dtype)
                tensor.copy_(values.reshape(tensor.shape))
                start = stop

    def gradients(self) -> Array:
        """Return the gradients of the trained parameters without rows, zeros for missing ones.

        Shape:
            Returns (num_gradients,).
        """
        if not self._trained:
            return np.empty(0, self.numpy_dtype)
        gradients: Array = flatten_gradients(self._trained).numpy()
        return gradients

    def assign(self, gradients: Array) -> None:
        """Set the gradients of the trained parameters without rows."""
        if self._trained:
            assign_gradients(torch.from_numpy(gradients), self._trained)
