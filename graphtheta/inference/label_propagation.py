"""Predictions from the labels of training nodes, without parameters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from graphtheta.errors import ConfigError
from graphtheta.nn.conv import PropagateConv
from graphtheta.shard.shard import Shard
from graphtheta.shard.target_columns import target_column
from graphtheta.tgar import View

__all__ = ["correct_and_smooth", "label_propagation"]

_TRAINING = 1


def label_propagation(
    shard: Shard,
    label: str | None = None,
    split: str | None = None,
    *,
    num_layers: int = 50,
    alpha: float = 0.9,
    weighted: bool | None = None,
) -> Tensor:
    """Return scores of classes that spread from the labels of training nodes; collective.

    Y_k = alpha P Y_(k-1) + (1 - alpha) Y_0, limited to [0, 1], where Y_0 has a one for the class of
    each training node, and P is that of `PropagateConv` without self-loops. Results equal PyG's
    `LabelPropagation`.

    Args:
        shard: Graph to compute on.
        label: Name of the label, which must be of classes. If None, "y" or the only one.
        split: Name of the split. If None, "split" or the only one.
        num_layers: Number of propagation steps.
        alpha: Share of the neighbours in each step.
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.

    Shape:
        Returns (M, classes), rows of this worker's masters.

    Raises:
        ConfigError: If there is no such label or split, or the label has another kind.

    Source:
        Zhu, Ghahramani, CMU-CALD-02-107, 2002.
    """
    truth, _ = _known(shard, label, split)
    return _propagated(shard, truth, num_layers, alpha, weighted, lambda y: y.clamp_(0, 1))


def correct_and_smooth(
    shard: Shard,
    probabilities: Tensor,
    label: str | None = None,
    split: str | None = None,
    *,
    correction_layers: int = 50,
    correction_alpha: float = 0.9,
    smoothing_layers: int = 50,
    smoothing_alpha: float = 0.8,
    autoscale: bool = True,
    scale: float = 1.0,
    weighted: bool | None = None,
) -> Tensor:
    """Return predictions corrected by those of training nodes, and smoothed; collective.

    The errors of training nodes spread to their neighbours and correct predictions there; then
    predictions, and the labels of training nodes, spread. Results equal PyG's `CorrectAndSmooth`.

    Args:
        shard: Graph to compute on.
        probabilities: Probabilities of classes that a model predicts.
        label: Name of the label, which must be of classes. If None, "y" or the only one.
        split: Name of the split. If None, "split" or the only one.
        correction_layers: Number of propagation steps of errors.
        correction_alpha: Share of the neighbours in each of them.
        smoothing_layers: Number of propagation steps of predictions.
        smoothing_alpha: Share of the neighbours in each of them.
        autoscale: Whether a correction has the size of the mean error of training nodes. If False,
            it is `scale` times the spread error, and errors of training nodes are kept.
        scale: See `autoscale`.
        weighted: Whether to read the edge column `weight`. If None, if the graph has it.

    Shape:
        probabilities: (M, classes), rows of this worker's masters. Returns the same.

    Raises:
        ConfigError: If there is no such label or split, or the label has another kind.

    Source:
        Huang, He, Singh, Lim, Benson, ICLR 2021.
    """
    truth, known = _known(shard, label, split, probabilities.dtype)
    if probabilities.shape != truth.shape:
        raise ConfigError(
            f"correct_and_smooth: expected probabilities of shape {tuple(truth.shape)}, got "
            f"{tuple(probabilities.shape)}. Give those of all masters and classes."
        )
    mask = known.unsqueeze(1)
    error = torch.where(mask, truth - probabilities, 0)
    if autoscale:
        spread = _propagated(
            shard, error, correction_layers, correction_alpha, weighted, lambda e: e.clamp_(-1, 1)
        )
        sums = np.array([float(error.abs().sum()), float(known.sum())])
        shard.comm.all_reduce(sums, stage="mean error")
        factor = float(sums[0] / max(sums[1], 1)) / spread.abs().sum(1, keepdim=True)
        factor = torch.where(factor.isinf() | (factor > 1000), 1.0, factor)
    else:
        spread = _propagated(
            shard,
            error,
            correction_layers,
            correction_alpha,
            weighted,
            lambda e: torch.where(mask, error, e),
        )
        factor = torch.full_like(spread[:, :1], scale)
    corrected = torch.where(mask, truth, probabilities + factor * spread)
    return _propagated(
        shard, corrected, smoothing_layers, smoothing_alpha, weighted, lambda y: y.clamp_(0, 1)
    )


def _known(
    shard: Shard, label: str | None, split: str | None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Return a one for the class of each training node, (M, classes), and a mask of these nodes."""
    target = target_column(shard.manifest, "nodes", "label", label)
    spec = shard.label_spec(target.name)
    if spec.task != "multiclass":
        raise ConfigError(
            f"label propagation: expected a label of classes, got '{target.name}', which is "
            f"{spec.task}. Choose another label."
        )
    y, known = shard.label(target.name)
    name = target_column(shard.manifest, "nodes", "split", split, target.owner).name
    known = known & (shard.split(name) == _TRAINING)
    truth = F.one_hot(torch.where(known, y, 0).long(), spec.num_classes).to(dtype)
    return truth * known.unsqueeze(1), known


def _propagated(
    shard: Shard,
    first: Tensor,
    num_layers: int,
    alpha: float,
    weighted: bool | None,
    after: Callable[[Tensor], Tensor],
) -> Tensor:
    if num_layers < 1 or not 0 <= alpha <= 1:
        raise ConfigError(
            "label propagation: expected at least 1 step (--steps) and alpha (--alpha) in [0, 1], "
            f"got {num_layers} and {alpha}. Correct them."
        )
    conv, view = PropagateConv(weighted=weighted, add_self_loops=False).eval(), View(shard)
    rows = first
    with torch.no_grad():
        for k in range(num_layers):
            rows = after(alpha * conv(view[k], rows) + (1 - alpha) * first)
    return rows
