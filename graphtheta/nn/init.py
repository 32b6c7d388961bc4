"""Initial weights that are the same on every worker and in every thread."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["glorot", "seeded"]

# torch's default generator belongs to the process: workers that are threads take turns.
_turn = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Build modules inside with torch's generator at `seed`, and leave it as it was.

    Args:
        seed: The same on all workers; so are then the weights.
    """
    with _turn, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def glorot(parameter: Tensor) -> None:
    """Fill with U(-b, b), b = sqrt(6 / (fan_in + fan_out)) of the last two dimensions.

    Source:
        Glorot, Bengio, AISTATS 2010.
    """
    bound = math.sqrt(6 / (parameter.size(-2) + parameter.size(-1)))
    nn.init.uniform_(parameter, -bound, bound)
