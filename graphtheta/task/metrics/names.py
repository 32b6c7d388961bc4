"""Metrics of labels by name, and the one that chooses the best epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.nn.losses import LOSSES
from graphtheta.partition.store.manifest import LabelKind, LabelSpec
from graphtheta.task.class_weights import RARE
from graphtheta.task.metrics.report import report_of
from graphtheta.task.metrics.scored import ClassCounts, Scored, kind_of
from graphtheta.task.metrics.torch_metric import is_torch_metric, named_torch_metric, torch_metric

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = [
    "MAIN_METRIC",
    "METRICS",
    "MainMetric",
    "MetricSpec",
    "Metrics",
    "Split",
    "SplitMetrics",
    "chosen_threshold",
    "main_metric",
    "mean_loss",
    "metrics_for",
]

# Name, outputs, labels, and this worker's sum of the loss and its count or weight.
Split: TypeAlias = tuple[str, Tensor, Tensor, tuple[Tensor, float]]
Metrics: TypeAlias = "str | Sequence[str | Metric] | Mapping[str, Metric]"


@dataclass(frozen=True)
class MainMetric:
    """Metric for early stopping and for the choice of the best epoch.

    Attributes:
        name: Name of the metric.
        higher_is_better: Whether a higher value is better.
        why: Why it is this one, if it is not that of the label's kind.
    """

    name: str
    higher_is_better: bool = True
    why: str = ""


@dataclass(frozen=True)
class MetricSpec:
    """Metric of a name.

    Attributes:
        kinds: Kinds of labels that it exists for.
        compute: Function of the outputs and labels of a split; collective. NaN is left out.
        higher_is_better: Whether a higher value is better; None if neither is.
    """

    kinds: tuple[LabelKind, ...]
    compute: Callable[[Scored], float]
    higher_is_better: bool | None = True


MAIN_METRIC: dict[LabelKind, MainMetric] = {
    "multiclass": MainMetric("accuracy"),
    "binary": MainMetric("auroc"),
    "multilabel": MainMetric("f1"),
    "regression": MainMetric("rmse", higher_is_better=False),
}
_DEFAULTS: dict[LabelKind, tuple[str, ...]] = {
    "multiclass": ("accuracy", "f1"),
    "binary": ("auroc", "average_precision", "accuracy", "f1", "precision", "recall"),
    "multilabel": ("f1", "accuracy"),
    "regression": ("rmse", "mae"),
}


def mean_loss(loss: Tensor, count: float, comm: Communicator) -> float:
    """Return the mean loss over all workers from this worker's sum and count; collective.

    The count may be a summed weight. The mean is NaN if there is none.
    """
    sums = np.array([float(loss), count], np.float64)
    comm.all_reduce(sums, stage="evaluate loss")
    return float(sums[0] / sums[1]) if sums[1] else math.nan


# -- by counts of classes -------------------------------------------------------------------------


def _ratio(over: Any, under: Any) -> Any:
    """Return a ratio, or 0 where the denominator is 0."""
    return np.divide(over, under, out=np.zeros(np.shape(under)), where=np.asarray(under) > 0)


def _precision(counts: ClassCounts) -> Any:
    return _ratio(counts.hits, counts.predicted)


def _recall(counts: ClassCounts) -> Any:
    return _ratio(counts.hits, counts.labels)


def _f1(counts: ClassCounts) -> Any:
    return _ratio(2 * counts.hits, counts.predicted + counts.labels)


def _averaged(of_classes: Callable[[ClassCounts], Any], scored: Scored) -> float:
    """Return that of yes; the mean over classes that occur; or that of all entries of labels."""
    counts = scored.counts
    if scored.kind == "binary":
        return float(of_classes(counts)[1])
    if scored.kind == "multilabel":
        return float(of_classes(ClassCounts(*(np.asarray(part.sum()) for part in counts))))
    occurs = counts.predicted + counts.labels > 0
    return float(of_classes(counts)[occurs].mean()) if occurs.any() else math.nan


def _accuracy(scored: Scored) -> float:
    counts = scored.counts
    return float(_ratio(counts.right.sum(), counts.known.sum()))


def _balanced_accuracy(scored: Scored) -> float:
    counts = scored.counts
    occurs = counts.labels > 0
    return float(_recall(counts)[occurs].mean()) if occurs.any() else math.nan


def _macro_f1(scored: Scored) -> float:
    counts = scored.counts
    occurs = counts.predicted + counts.labels > 0
    return float(_f1(counts)[occurs].mean()) if occurs.any() else math.nan


def _specificity(scored: Scored) -> float:
    return float(_recall(scored.counts)[0])


def _mcc(scored: Scored) -> float:
    """Return the correlation of predicted and true classes (Matthews 1975, Gorodkin 2004)."""
    counts = scored.counts
    total = float(counts.known.sum())
    predicted, labels = counts.predicted.astype(float), counts.labels.astype(float)
    covariance = counts.right.sum() * total - (predicted * labels).sum()
    spread = (total**2 - (predicted**2).sum()) * (total**2 - (labels**2).sum())
    return float(covariance / math.sqrt(spread)) if spread > 0 else 0.0


def _top(number: int, scored: Scored) -> float:
    of_label = scored.outputs.gather(1, scored.targets[:, None])
    higher = (scored.outputs > of_label).sum(1)
    right, total = scored.sums((higher < number).sum(), len(higher))
    return right / total if total else math.nan


# -- by probabilities and numbers -----------------------------------------------------------------


def _brier(scored: Scored) -> float:
    """Return the mean squared error of the probabilities (Brier 1950)."""
    probabilities, targets = scored.probabilities, scored.targets
    if scored.kind == "multiclass":
        truth = torch.zeros_like(probabilities).scatter_(1, targets[:, None], 1)
        squares, count = (probabilities - truth) ** 2, len(targets)
    else:
        known = targets >= 0
        squares = ((probabilities - targets) ** 2)[known]
        count = int(known.sum())
    total, number = scored.sums(squares.sum(), count)
    return total / number if number else math.nan


def _ece(scored: Scored) -> float:
    """Return the expected calibration error over 15 bins of equal width (Naeini et al. 2015)."""
    counts, confidence, positives = scored.calibration
    return float(np.abs(confidence - positives).sum() / counts.sum()) if counts.any() else math.nan


def _errors(scored: Scored, power: int) -> float:
    difference = (scored.outputs.double() - scored.targets.double()).abs() ** power
    total, count = scored.sums(difference.sum(), difference.numel())
    return total / count if count else math.nan


def _r2(scored: Scored) -> float:
    """Return the explained share of the variance, the mean over outputs of several."""
    targets = scored.targets.double()
    targets = targets[:, None] if targets.dim() == 1 else targets
    errors = ((scored.outputs.double().reshape(targets.shape) - targets) ** 2).sum(0)
    found = np.append(targets.sum(0).cpu().numpy(), len(targets))
    scored.comm.all_reduce(found, stage="metrics")
    mean = torch.from_numpy(found[:-1] / max(found[-1], 1)).to(targets.device)
    rest = torch.stack([errors, ((targets - mean) ** 2).sum(0)]).cpu().numpy()
    scored.comm.all_reduce(rest, stage="metrics")
    return float((1 - rest[0] / rest[1]).mean()) if (rest[1] > 0).all() else math.nan


_CLASSES: tuple[LabelKind, ...] = ("binary", "multiclass", "multilabel")
_SINGLE: tuple[LabelKind, ...] = ("binary", "multiclass")
_SCORES: tuple[LabelKind, ...] = ("binary", "multilabel")
_NUMBERS: tuple[LabelKind, ...] = ("regression",)

METRICS: dict[str, MetricSpec] = {
    "auroc": MetricSpec(_SCORES, lambda scored: scored.areas[0]),
    "average_precision": MetricSpec(_SCORES, lambda scored: scored.areas[1]),
    "accuracy": MetricSpec(_CLASSES, _accuracy),
    "balanced_accuracy": MetricSpec(_SINGLE, _balanced_accuracy),
    "f1": MetricSpec(_CLASSES, partial(_averaged, _f1)),
    "macro_f1": MetricSpec(_CLASSES, _macro_f1),
    "precision": MetricSpec(_CLASSES, partial(_averaged, _precision)),
    "recall": MetricSpec(_CLASSES, partial(_averaged, _recall)),
    "specificity": MetricSpec(("binary",), _specificity),
    "mcc": MetricSpec(_SINGLE, _mcc),
    "brier": MetricSpec(_CLASSES, _brier, higher_is_better=False),
    "ece": MetricSpec(_CLASSES, _ece, higher_is_better=False),
    "rmse": MetricSpec(_NUMBERS, lambda s: math.sqrt(_errors(s, 2)), higher_is_better=False),
    "mse": MetricSpec(_NUMBERS, lambda scored: _errors(scored, 2), higher_is_better=False),
    "mae": MetricSpec(_NUMBERS, lambda scored: _errors(scored, 1), higher_is_better=False),
    "r2": MetricSpec(_NUMBERS, _r2),
}
_SHARE = r"(0?\.\d+|1|1\.0+)"
_PATTERNS: tuple[tuple[str, tuple[LabelKind, ...], Callable[[float, Scored], float]], ...] = (
    (rf"recall@{_SHARE}precision", _SCORES, lambda x, s: s.mean_of_curves("best_recall", x)),
    (rf"precision@{_SHARE}recall", _SCORES, lambda x, s: s.mean_of_curves("best_precision", x)),
    (r"top(\d+)_accuracy", ("multiclass",), lambda x, s: _top(int(x), s)),
)


def _spec_of(name: str, spec: LabelSpec) -> MetricSpec:
    """Return the metric of a name: one of ours, or else one of torchmetrics.

    Raises:
        ConfigError: If there is no such metric for the label.
    """
    kind = kind_of(spec)
    found = METRICS.get(name)
    for pattern, kinds, compute in _PATTERNS:
        if match := re.fullmatch(pattern, name):
            found = MetricSpec(kinds, partial(compute, float(match[1])))
    if found is not None and kind in found.kinds:
        return found
    if (metric := named_torch_metric(name, kind, spec.num_classes)) is not None:
        return _of_torch(metric)
    names = [name for name, metric in METRICS.items() if kind in metric.kinds]
    more = ", recall@0.9precision, precision@0.9recall" if kind in _SCORES else ""
    raise ConfigError(
        f"metrics (--metrics, --monitor): expected those of a {kind} label "
        f"({', '.join(names)}{more}, or of torchmetrics), got '{name:.100}'. Correct it."
    )


def _of_torch(metric: Metric) -> MetricSpec:
    compute = partial(torch_metric, metric)
    return MetricSpec((*_CLASSES, *_NUMBERS), compute, metric.higher_is_better)


def _chosen(given: Metrics | None, spec: LabelSpec) -> Iterator[tuple[str, MetricSpec]]:
    """Yield names and metrics that a task was given; None for those of the label's kind."""
    if given is None:
        given = _DEFAULTS[kind_of(spec)]
    if isinstance(given, str):
        given = [name.strip() for name in given.split(",")]
    items = given.items() if isinstance(given, Mapping) else ((None, item) for item in given)
    for key, item in items:
        if isinstance(item, str):
            yield key or item, _spec_of(item, spec)
        elif is_torch_metric(item):
            plain = re.sub(r"^(Binary|Multiclass|Multilabel)", "", type(item).__name__)
            name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()
            yield key or name, _of_torch(item)
        else:
            raise ConfigError(
                f"metrics: expected names and metrics of torchmetrics, got {type(item).__name__}. "
                "Correct them."
            )


def main_metric(
    spec: LabelSpec,
    counts: Any = None,
    monitor: str | None = None,
    given: Metrics | None = None,
    positive: int = 1,
) -> MainMetric:
    """Return the main metric of a label; that of two classes is the metric of binary labels.

    It is average precision if less than a tenth of the training targets are positive: the area
    under the ROC curve hardly changes with the few targets of the highest scores.

    Args:
        spec: Label.
        counts: Result of `class_counts` for the training targets. If None, not known.
        monitor: Name of the metric, such as `average_precision` or `loss`, if one was chosen.
        given: Metrics of the task, in which the name is looked up first.
        positive: Class of two that is yes.

    Raises:
        ConfigError: If there is no such metric, or neither high nor low values of it are better.
    """
    kind = kind_of(spec)
    if monitor is None:
        if kind == "binary" and counts is not None and counts[positive] < RARE * counts.sum():
            share = counts[positive] / counts.sum()
            name = spec.classes[positive] if spec.classes else "positive"
            why = f"{share:.2%} of the training targets are {name}"
            return MainMetric("average_precision", why=why)
        return MAIN_METRIC[kind]
    monitor = monitor.removeprefix("val_")
    if monitor == "loss":
        return MainMetric("loss", higher_is_better=False, why="as chosen")
    known = dict(_chosen(given, spec))
    better = (known.get(monitor) or _spec_of(monitor, spec)).higher_is_better
    if better is None:
        raise ConfigError(
            f"monitor (--monitor): expected a metric of which high or low values are better, got "
            f"'{monitor}'. Choose another."
        )
    return MainMetric(monitor, better, why="as chosen")


class SplitMetrics:
    """Loss and metrics of a split over all workers.

    Args:
        spec: Label.
        comm: The workers.
        given: Names and metrics. If None, those of the label's kind.
        main: Metric for the best epoch, which is computed too.
        positive: Class of two that is yes.

    Raises:
        ConfigError: If a name or metric does not fit the label.
    """

    def __init__(
        self,
        spec: LabelSpec,
        comm: Communicator,
        given: Metrics | None = None,
        main: MainMetric | None = None,
        positive: int = 1,
    ) -> None:
        self._spec, self._comm, self._positive = spec, comm, positive
        self._chosen = dict(_chosen(given, spec))
        if main is not None and main.name not in {"loss", *self._chosen}:
            self._chosen[main.name] = _spec_of(main.name, spec)

    def of_splits(self, splits: Iterable[Split]) -> dict[str, float]:
        """Return the loss and metrics of splits, in names such as `val_loss`; collective.

        Of a yes-or-no label, `threshold` is the probability with the highest F1 score on the
        validation split, and `test_f1_at_threshold` that score if yes is predicted from it.

        Args:
            splits: The splits, of which the one after the validation split is the test split.
        """
        result: dict[str, float] = {}
        threshold = None
        for name, outputs, targets, loss in splits:
            scored = self._scored(outputs, targets)
            found = self._of(scored, mean_loss(*loss, self._comm))
            if name == "val" and (threshold := chosen_threshold(scored)) is not None:
                result["threshold"] = threshold
            if threshold is not None:
                found |= scored.at_threshold(threshold)
            result |= {f"{name}_{metric}": value for metric, value in found.items()}
        return result

    def report(self, splits: Iterable[Split]) -> dict[str, Any]:
        """Return the report of the validation and test splits; collective."""
        if self._spec.task == "regression":
            return {}
        kind = kind_of(self._spec)
        result: dict[str, Any] = {"kind": kind, "classes": self._spec.classes}
        if kind == "binary":
            result["positive"] = self._positive
        threshold, result["splits"] = None, {}
        for name, outputs, targets, _ in splits:
            if name != "train":
                scored = self._scored(outputs, targets)
                if name == "val":
                    result["threshold"] = threshold = chosen_threshold(scored)
                result["splits"][name] = report_of(scored, threshold)
        return result

    def __call__(
        self, outputs: Tensor, targets: Tensor, loss: tuple[Tensor, float] | None = None
    ) -> dict[str, float]:
        """Return loss and metrics; collective.

        Every worker calls it, also with no rows. What is not defined is left out, such as AUROC
        if a class has no rows. Labels of two classes have the metrics of binary labels, of the
        difference of their two logits.

        Args:
            outputs: Outputs of this worker's rows.
            targets: Their labels.
            loss: Sum of this worker's loss, and its count or weight. If None, of the loss of the
                label's kind.

        Shape:
            outputs: (T, C) logits, (T, 1) for binary labels. targets: (T,) or (T, K).

        Communication:
            That of `ScoreCurve` for AUROC and average precision, and a few counters per class for
            other metrics.
        """
        total, count = LOSSES[self._spec.task](outputs, targets) if loss is None else loss
        scored = self._scored(outputs, targets)
        return self._of(scored, mean_loss(total, count, self._comm))

    def _scored(self, outputs: Tensor, targets: Tensor) -> Scored:
        return Scored(self._spec, outputs, targets, self._comm, self._positive)

    def _of(self, scored: Scored, loss: float) -> dict[str, float]:
        result = {"loss": loss}
        result |= {name: metric.compute(scored) for name, metric in self._chosen.items()}
        return {name: value for name, value in result.items() if not math.isnan(value)}


def chosen_threshold(scored: Scored) -> float | None:
    """Return the probability with the highest F1 score; None if there is no such; collective."""
    if scored.kind != "binary":
        return None
    logit = scored.curves[0].best_threshold()
    return None if math.isnan(logit) else float(torch.tensor(logit, dtype=torch.float64).sigmoid())


def metrics_for(spec: LabelSpec, comm: Communicator) -> SplitMetrics:
    """Return the loss and metrics of a label's kind."""
    return SplitMetrics(spec, comm)
