"""Clipping of gradients by their global norm, the same on every worker."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from graphtheta.comm.communicator import Communicator
from graphtheta.nn.embedding import is_sharded

__all__ = ["clip_gradients"]


def clip_gradients(
    parameters: Iterable[nn.Parameter], max_norm: float, comm: Communicator
) -> float:
    """Scale gradients so that the norm of all of them is at most `max_norm`; collective.

    Gradients must be summed over the workers already. Those of learned rows are divided among
    workers, and count once. The norm is summed in float64, so that it is the same on any number of
    workers to its rounding, and equal on all of them.

    Args:
        parameters: Parameters whose gradients are scaled in place.
        max_norm: Largest norm, greater than 0.
        comm: The workers; of the group, if there are several.

    Returns:
        The norm before clipping.

    Communication:
        8 bytes from each worker to all others, if there are learned rows.
    """
    whole = rows = 0.0
    gradients: list[Tensor] = []
    has_rows = False
    for parameter in parameters:
        has_rows |= is_sharded(parameter)
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:
            parameter.grad = gradient = gradient.coalesce()
            gradient = gradient.values()
        gradients.append(gradient)
        square = float(torch.linalg.vector_norm(gradient, dtype=torch.float64)) ** 2
        if is_sharded(parameter):
            rows += square
        else:
            whole += square
    if has_rows and comm.size > 1:
        found = comm.all_gather(np.array([rows]), stage="norm of gradients of rows")
        rows = sum(float(one[0]) for one in found)
    norm = math.sqrt(whole + rows)
    scale = max_norm / (norm + 1e-6)  # as torch.nn.utils.clip_grad_norm_
    if scale < 1:
        for gradient in gradients:
            gradient.mul_(scale)
    return norm
