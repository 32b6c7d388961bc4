"""Metrics of link prediction by name: ranks, and those of a yes-or-no label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.task.metrics import MainMetric, Metrics, SplitMetrics, main_metric
from graphtheta.task.metrics.curve import area_under_curve, round_scores
from graphtheta.task.ranking import HITS

__all__ = ["LinkMetrics"]

_RANKS = r"mrr|hits@[1-9]\d*"
_DEFAULTS = ("auc", "mrr", *(f"hits@{number}" for number in HITS))


class LinkMetrics:
    """Loss and metrics of edges against one negative each.

    Args:
        spec: Binary label: whether the edge exists.
        given: Names `auc`, `mrr` and `hits@N`, and metrics of binary labels, as for
            `NodePrediction`. If None, `auc`, and with `ranking` the ranks.
        monitor: Metric of the validation split that chooses the best epoch, or "loss". If None,
            `mrr`, without ranks `auc`, or else `auroc`.
        ranking: Whether ranks may be computed.
        comm: The workers.

    Attributes:
        main: Metric that chooses the best epoch.
        ranks: Names of the ranks to compute.

    Raises:
        ConfigError: If a metric does not exist for links, or ranks are given without `ranking`.
    """

    def __init__(
        self,
        spec: LabelSpec,
        given: Metrics | None,
        monitor: str | None,
        comm: Communicator,
        *,
        ranking: bool,
    ) -> None:
        names, others = _parted(_DEFAULTS if given is None else given)
        if given is None and not ranking:
            names = ["auc"]
        monitor = None if monitor is None else monitor.removeprefix("val_")
        if monitor == "auc" or (monitor is not None and re.fullmatch(_RANKS, monitor)):
            names = [*dict.fromkeys([*names, monitor])]
        self.ranks = tuple(name for name in names if name != "auc")
        if self.ranks and not ranking:
            raise ConfigError(
                "metrics (--metrics, --monitor): expected no ranks without ranking "
                f"(--no-ranking), got {', '.join(self.ranks)}. Leave one of them out."
            )
        chosen = monitor or next((name for name in ("mrr", "auc") if name in names), None)
        self._has_auc, self._comm = "auc" in names, comm
        try:
            if chosen in names:
                self.main = MainMetric(str(chosen), why="as chosen" if monitor else "")
            else:
                self.main = main_metric(spec, None, monitor, others)
            main = None if self.main.name in names else self.main
            self._others = SplitMetrics(spec, comm, others, main)
        except ConfigError as error:
            raise ConfigError(f"{error} Links also have auc, mrr and hits@N.") from None

    def __call__(self, scores: Tensor, loss: tuple[Tensor, float]) -> dict[str, float]:
        """Return the loss and the metrics of scores; collective.

        Args:
            scores: Scores of this worker's edges, and of one negative for each.
            loss: Sum of the loss, and its weight.

        Shape:
            scores: (T, 2).
        """
        exists = torch.tensor([True, False], device=scores.device).expand(len(scores), 2)
        result = self._others(scores.flatten(), exists.flatten(), loss)
        if self._has_auc:
            edges, negatives = (round_scores(column) for column in scores.unbind(1))
            result["auc"] = area_under_curve(edges, negatives, self._comm).roc
        return result


def _parted(given: Any) -> tuple[list[str], Metrics]:
    """Return the names of ranks and of the area under the curve, and the other metrics."""
    if isinstance(given, Mapping):
        return [], given
    items = [name.strip() for name in given.split(",")] if isinstance(given, str) else [*given]
    own = [isinstance(item, str) and bool(re.fullmatch(f"auc|{_RANKS}", item)) for item in items]
    return (
        [*dict.fromkeys(compress(items, own))],
        [item for item, is_own in zip(items, own, strict=True) if not is_own],
    )
