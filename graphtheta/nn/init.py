"""Initial weights that are the same on all workers and in all threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["glorot", "seeded"]

# Workers that are threads share torch's default generator, so that only one may use it at a time.
_generator_lock = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch's default generator starts from `seed`; its state is restored after.

    Args:
        seed: Random seed. Weights are the same on all workers if the seed is.
    """
    with _generator_lock, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def glorot(parameter: Tensor) -> None:
    """Fill in place with U(-b, b), b = sqrt(6 / (fan_in + fan_out)) of the last two dimensions.

    Source:
        Glorot, Bengio, AISTATS 2010.
    """
    bound = math.sqrt(6 / (parameter.size(-2) + parameter.size(-1)))
    nn.init.uniform_(parameter, -bound, bound)
