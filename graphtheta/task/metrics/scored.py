"""Outputs and labels of a split, and the counts over all workers that metrics are made from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.partition.store.manifest import LabelKind, LabelSpec
from graphtheta.task.metrics.curve import ScoreCurve, round_scores

__all__ = ["ClassCounts", "Scored", "kind_of"]

T = TypeVar("T")

_STAGE = "metrics"
_BINS = 15  # of probabilities


class ClassCounts(NamedTuple):
    """Number of targets of each class, over all workers.

    Attributes:
        hits: Targets of the class that are predicted as it.
        predicted: Targets that are predicted as the class.
        labels: Targets of the class.
        right: Targets that are predicted correctly. In a multi-label, of each label; else of all.
        known: Targets whose label is known, as `right`.

    Shape:
        hits, predicted, labels: (C,) int64; of a binary label no and yes; of a multi-label the
        positive entries of each label. right, known: (1,) or (K,) int64.
    """

    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    labels: NDArray[np.int64]
    right: NDArray[np.int64]
    known: NDArray[np.int64]


def kind_of(spec: LabelSpec) -> LabelKind:
    """Return the kind of a label as metrics see it: two classes are a binary label."""
    is_two = spec.task == "multiclass" and spec.num_classes == 2
    return "binary" if is_two else spec.task


class Scored:
    """Outputs and labels of this worker's rows of a split; all properties are collective.

    Args:
        spec: Label that is predicted.
        outputs: Outputs of the model.
        targets: Labels.
        comm: The workers.
        positive: Class of two that is yes.

    Attributes:
        kind: Kind of the label, see `kind_of`.
        outputs: Outputs: logits of yes, (T,), for binary labels.
        targets: Labels, as integers unless they are numbers; -1 is unknown.

    Shape:
        outputs: (T, C) logits, (T, 1) for binary labels. targets: (T,) or (T, K).
    """

    def __init__(
        self,
        spec: LabelSpec,
        outputs: Tensor,
        targets: Tensor,
        comm: Communicator,
        positive: int = 1,
    ) -> None:
        self.kind, self.comm = kind_of(spec), comm
        self._found: dict[str, Any] = {}
        outputs = outputs.detach()
        if self.kind == "binary" and spec.task == "multiclass":
            outputs = outputs[:, 1] - outputs[:, 0]
        if self.kind in ("binary", "regression"):
            outputs = outputs.reshape(targets.shape)
        self.outputs = outputs
        self.targets = targets if self.kind == "regression" else targets.long()
        if self.kind == "binary" and positive == 0:
            self.outputs, self.targets = -self.outputs, 1 - self.targets

    def _once(self, name: str, compute: Callable[[], T]) -> T:
        # Not a cached_property: see `ShardColumns`.
        if name not in self._found:
            self._found[name] = compute()
        found: T = self._found[name]
        return found

    def at_threshold(self, threshold: float) -> dict[str, float]:
        """Return F1 score, precision and recall if yes is predicted from this probability."""
        yes, predicted = self.targets > 0, self.probabilities >= threshold
        hits, of_predicted, of_yes = self.sums((yes & predicted).sum(), predicted.sum(), yes.sum())
        return {
            "f1_at_threshold": 2 * hits / max(of_predicted + of_yes, 1),
            "precision_at_threshold": hits / max(of_predicted, 1),
            "recall_at_threshold": hits / max(of_yes, 1),
        }

    def confusion(self, threshold: float = 0.5) -> NDArray[np.int64]:
        """Return the number of targets by true class (row) and predicted class (column).

        Args:
            threshold: Probability from which yes is predicted.

        Shape:
            Returns (C, C), of a binary label (2, 2).
        """
        if self.kind == "binary":
            predicted, classes = (self.probabilities >= threshold).long(), 2
        else:
            predicted, classes = self.outputs.argmax(1), self.outputs.shape[1]
        pairs = self.targets.reshape(-1) * classes + predicted.reshape(-1)
        table: NDArray[np.int64] = torch.bincount(pairs, minlength=classes**2).cpu().numpy()
        self.comm.all_reduce(table, stage=_STAGE)
        return table.reshape(classes, classes)

    def sums(self, *values: Any) -> list[float]:
        """Return sums over all workers in float64."""
        array = np.array([float(value) for value in values], np.float64)
        self.comm.all_reduce(array, stage=_STAGE)
        return list(map(float, array))

    @property
    def probabilities(self) -> Tensor:
        """Probability of yes, of each class or of each label, in float64."""
        return self._once("probabilities", self._find_probabilities)

    def _find_probabilities(self) -> Tensor:
        logits = self.outputs.double()
        return logits.softmax(1) if self.kind == "multiclass" else logits.sigmoid()

    @property
    def counts(self) -> ClassCounts:
        """Predictions and labels by class; of yes and no, yes is predicted from 0.5."""
        return self._once("counts", self._find_counts)

    def _find_counts(self) -> ClassCounts:
        labels = self.targets
        if self.kind == "multilabel":
            predicted, known = self.outputs > 0, labels >= 0
            of_yes = ((predicted & (labels > 0)), (predicted & known), labels > 0)
            right = (predicted == (labels > 0)) & known
            table = torch.stack([mask.sum(0) for mask in (*of_yes, right, known)]).cpu().numpy()
            self.comm.all_reduce(table, stage=_STAGE)
            return ClassCounts(*table)
        is_binary = self.kind == "binary"
        predicted = (self.outputs > 0).long() if is_binary else self.outputs.argmax(1)
        classes = 2 if is_binary else self.outputs.shape[1]
        hits = labels[predicted == labels]
        kinds = (hits, predicted.reshape(-1), labels.reshape(-1))
        table = torch.stack([torch.bincount(k, minlength=classes) for k in kinds]).cpu().numpy()
        self.comm.all_reduce(table, stage=_STAGE)
        right, known = table[0].sum(keepdims=True), table[2].sum(keepdims=True)
        return ClassCounts(table[0], table[1], table[2], right, known)

    @property
    def curves(self) -> list[ScoreCurve]:
        """Curve of the scores of a binary label, or of each label."""
        return self._once("curves", self._find_curves)

    def _find_curves(self) -> list[ScoreCurve]:
        pairs = [(self.outputs, self.targets)]
        if self.kind == "multilabel":
            pairs = list(zip(self.outputs.T, self.targets.T, strict=True))
        return [
            ScoreCurve(round_scores(o[t > 0]), round_scores(o[t == 0]), self.comm) for o, t in pairs
        ]

    def mean_of_curves(self, name: str, *arguments: float) -> float:
        """Return the mean of a result of those curves that have it; NaN if none has."""
        found = [getattr(curve, name)(*arguments) for curve in self.curves]
        found = [value for value in found if not math.isnan(value)]
        return float(np.mean(found)) if found else math.nan

    @property
    def areas(self) -> tuple[float, float]:
        """Mean areas under the ROC curves, and under those of precision and recall."""
        return self._once("areas", self._find_areas)

    def _find_areas(self) -> tuple[float, float]:
        found = [areas for curve in self.curves if not math.isnan((areas := curve.areas()).roc)]
        roc, precision = np.mean(found, axis=0).tolist() if found else (math.nan, math.nan)
        return roc, precision

    @property
    def calibration(self) -> NDArray[np.float64]:
        """Number, summed probability and positives of the targets in each bin of probability.

        Of several classes, the probability is that of the predicted class, and a positive is a
        right prediction.

        Shape:
            (3, 15) float64.
        """
        return self._once("calibration", self._find_calibration)

    def _find_calibration(self) -> NDArray[np.float64]:
        probability, positive = self.probabilities, self.targets > 0
        if self.kind == "multiclass":
            probability, predicted = probability.max(1)
            positive = predicted == self.targets
        known = (self.targets >= 0).reshape(probability.shape)
        values = probability[known].cpu().numpy()
        flags = positive.reshape(probability.shape)[known].cpu().numpy()
        bins = np.minimum((values * _BINS).astype(np.int64), _BINS - 1)
        columns = (np.ones_like(values), values, flags)
        table = np.stack([np.bincount(bins, of, _BINS).astype(np.float64) for of in columns])
        self.comm.all_reduce(table, stage=_STAGE)
        return table
