"""Metrics of torchmetrics, whose counters are summed over all workers."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.partition.store.manifest import LabelKind
from graphtheta.task.metrics.scored import Scored

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["is_torch_metric", "named_torch_metric", "torch_metric"]

_OF_CLASSES = ("binary", "multiclass", "multilabel")
_NUMBER = {"multiclass": "num_classes", "multilabel": "num_labels"}
_MASKED: dict[str, Any] = {"ignore_index": -1}
_LARGEST = 1 << 22  # numbers in the counters of a metric


def is_torch_metric(item: object) -> bool:
    """Return whether an object is a metric of torchmetrics."""
    return any(kind.__module__.startswith("torchmetrics.") for kind in type(item).__mro__)


def named_torch_metric(name: str, kind: LabelKind, classes: int) -> Metric | None:
    """Return the metric of torchmetrics with a name such as `cohen_kappa`, or None.

    Args:
        name: Name of the class with underscores, without Binary, Multiclass or Multilabel.
        kind: Kind of the label.
        classes: Number of classes or labels.
    """
    # Imported only when it is used: torchmetrics takes as long to load as torch, since it also
    # loads scipy and matplotlib if they are installed.
    import torchmetrics
    import torchmetrics.classification as of_classes

    module, options = (torchmetrics, {}) if kind == "regression" else (of_classes, {**_MASKED})
    if kind in _NUMBER:
        options[_NUMBER[kind]] = classes
    wanted = f"{kind if kind in _OF_CLASSES else ''}{name.replace('_', '')}"
    if kind == "multiclass" and name in ("auroc", "average_precision"):
        options["thresholds"] = 200  # otherwise they keep all rows
    names = [n for n in module.__all__ if n.lower() == wanted and n[0].isupper()]
    if not names or (kind == "regression" and names[0] in of_classes.__all__):
        return None
    try:
        made = getattr(module, names[0])(**options)
    except (TypeError, ValueError):
        return None  # it needs other arguments
    return made if isinstance(made, torchmetrics.Metric) else None


def torch_metric(metric: Metric, scored: Scored) -> float:
    """Return a metric of torchmetrics over all workers; NaN if it has no rows; collective.

    It gets probabilities and integer labels, of which -1 is unknown, or numbers.

    Raises:
        ConfigError: If its counters grow with the rows or are too large, or it returns no number.
    """
    comm, what = scored.comm, type(metric).__name__
    states = metric.metric_state.values()
    if any(isinstance(state, list) or state.numel() > _LARGEST for state in states):
        raise ConfigError(
            f"metrics: expected a metric of torchmetrics with bounded counters, got {what}, which "
            "keeps all rows or pairs of classes. Use its option thresholds=200, or another metric."
        )

    def gather(state: Tensor, group: Any = None) -> list[Tensor]:
        rows = state.detach().cpu().reshape(-1, *state.shape[1:]).contiguous()
        blocks = comm.all_gather(rows.numpy(), stage="metrics")
        tensors = [torch.from_numpy(block).to(state.device) for block in blocks]
        return tensors if state.dim() else [tensor[0] for tensor in tensors]

    outputs = scored.outputs if scored.kind == "regression" else scored.probabilities.float()
    count, labels = len(outputs), scored.targets
    if not scored.sums(count)[0]:
        return math.nan
    mine = metric.clone().to(outputs.device)  # workers may be threads
    mine.reset()
    if comm.size > 1:
        mine.dist_sync_fn, mine.distributed_available_fn = gather, lambda: True
    if count:
        mine.update(outputs, labels)
    else:
        warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
    found = torch.as_tensor(mine.compute())
    if found.numel() != 1:
        raise ConfigError(
            f"metrics: expected a metric that returns a number, got {what}, which returns "
            f"{list(found.shape)}. Use its option average, or another metric."
        )
    return float(found)
