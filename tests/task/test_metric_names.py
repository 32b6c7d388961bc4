"""Metrics by name: equal to torchmetrics on the whole, and the same on any number of workers."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.partition.store.manifest import LabelKind, LabelSpec
from graphtheta.run.prediction_writer import PredictedLabel, outputs_as_columns
from graphtheta.task.class_weights import positive_class
from graphtheta.task.metrics import METRICS, SplitMetrics, main_metric

ROWS = 40
SHARES = [slice(0, 0), slice(0, 13), slice(13, ROWS)]
MORE = {
    "binary": ["recall@0.7precision", "precision@0.5recall", "cohen_kappa"],
    "multiclass": ["top2_accuracy", "auroc"],
    "multilabel": ["recall@0.7precision", "hamming_distance"],
    "regression": ["pearson_corr_coef", "mean_absolute_percentage_error"],
}


def case(kind: LabelKind) -> tuple[LabelSpec, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    width = {"multiclass": 4, "binary": 1, "multilabel": 3, "regression": 1}[kind]
    outputs = torch.randn(ROWS, width, generator=generator)
    targets = {
        "multiclass": torch.randint(4, (ROWS,), generator=generator),
        "binary": torch.rand(ROWS, generator=generator) > 0.6,
        "multilabel": torch.randint(-1, 2, (ROWS, 3), generator=generator).to(torch.int8),
        "regression": outputs[:, 0] / 2 + torch.randn(ROWS, generator=generator),
    }[kind]
    return LabelSpec(task=kind, num_classes=2 if kind == "binary" else width), outputs, targets


def of_torchmetrics(kind: LabelKind, outputs: torch.Tensor, target: torch.Tensor) -> dict[str, Any]:
    """Return the metrics that torchmetrics computes on the whole."""
    import torchmetrics.functional as numbers
    from torchmetrics.functional import classification as f

    if kind == "regression":
        flat = outputs[:, 0]
        return {
            "rmse": numbers.mean_squared_error(flat, target, squared=False),
            "mse": numbers.mean_squared_error(flat, target),
            "mae": numbers.mean_absolute_error(flat, target),
            "r2": numbers.r2_score(flat, target),
            "pearson_corr_coef": numbers.pearson_corrcoef(flat, target),
        }
    if kind == "binary":
        p, y = outputs[:, 0].sigmoid(), target.long()
        return {
            "auroc": f.binary_auroc(p, y),
            "average_precision": f.binary_average_precision(p, y),
            "accuracy": f.binary_accuracy(p, y),
            "balanced_accuracy": (f.binary_recall(p, y) + f.binary_specificity(p, y)) / 2,
            "f1": f.binary_f1_score(p, y),
            "precision": f.binary_precision(p, y),
            "recall": f.binary_recall(p, y),
            "specificity": f.binary_specificity(p, y),
            "mcc": f.binary_matthews_corrcoef(p, y),
            "ece": f.binary_calibration_error(p, y, n_bins=15),
            "brier": ((p - y) ** 2).mean(),
            "recall@0.7precision": f.binary_recall_at_fixed_precision(p, y, 0.7)[0],
            "precision@0.5recall": f.binary_precision_at_fixed_recall(p, y, 0.5)[0],
            "cohen_kappa": f.binary_cohen_kappa(p, y),
        }
    y = target.long()
    if kind == "multiclass":
        p = outputs.softmax(1)
        return {
            "accuracy": f.multiclass_accuracy(p, y, 4, average="micro"),
            "balanced_accuracy": f.multiclass_accuracy(p, y, 4),
            "f1": f.multiclass_f1_score(p, y, 4),
            "macro_f1": f.multiclass_f1_score(p, y, 4),
            "precision": f.multiclass_precision(p, y, 4),
            "recall": f.multiclass_recall(p, y, 4),
            "mcc": f.multiclass_matthews_corrcoef(p, y, 4),
            "ece": f.multiclass_calibration_error(p, y, 4, n_bins=15),
            "top2_accuracy": f.multiclass_accuracy(p, y, 4, top_k=2, average="micro"),
        }
    p, of_each = outputs.sigmoid(), {"num_labels": 3, "ignore_index": -1}
    return {
        "auroc": f.multilabel_auroc(p, y, **of_each),
        "average_precision": f.multilabel_average_precision(p, y, **of_each),
        "accuracy": f.multilabel_accuracy(p, y, average="micro", **of_each),
        "f1": f.multilabel_f1_score(p, y, average="micro", **of_each),
        "macro_f1": f.multilabel_f1_score(p, y, **of_each),
        "precision": f.multilabel_precision(p, y, average="micro", **of_each),
        "recall": f.multilabel_recall(p, y, average="micro", **of_each),
    }


@pytest.mark.parametrize("kind", list(MORE))
def test_metrics_equal_torchmetrics_and_are_the_same_on_any_workers(kind: LabelKind) -> None:
    spec, outputs, targets = case(kind)
    chosen = [name for name, metric in METRICS.items() if kind in metric.kinds] + MORE[kind]
    whole = SplitMetrics(spec, SingleCommunicator(), chosen)(outputs, targets)
    assert {"loss", *chosen} == whole.keys()
    expected = of_torchmetrics(kind, outputs, targets)
    assert {name: whole[name] for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, abs=2e-6
    )

    def work(comm: Communicator) -> dict[str, float]:
        mine = SHARES[comm.rank]
        return SplitMetrics(spec, comm, ",".join(chosen))(outputs[mine], targets[mine])

    assert gt.run_local(work, workers=3, timeout_s=20) == pytest.approx(whole, abs=1e-6)


def test_objects_of_torchmetrics_are_metrics() -> None:
    from torchmetrics.classification import BinaryFBetaScore, BinaryHammingDistance

    spec, outputs, targets = case("binary")
    given = {"f2": BinaryFBetaScore(2.0), "error": BinaryHammingDistance()}
    metrics = SplitMetrics(spec, SingleCommunicator(), given)
    assert metrics(outputs, targets).keys() == {"loss", "f2", "error"}
    assert main_metric(spec, None, "f2", given).higher_is_better
    assert not main_metric(spec, None, "error", given).higher_is_better
    listed = SplitMetrics(spec, SingleCommunicator(), ["f1", BinaryFBetaScore(2.0)])
    found = listed(outputs, targets)["fbeta_score"]
    assert found == pytest.approx(metrics(outputs, targets)["f2"])


def test_monitor_of_rare_positives_is_average_precision() -> None:
    spec = LabelSpec(task="binary", num_classes=2)
    rare, even = (main_metric(spec, np.array(c)) for c in ([91, 9], [90, 10]))
    assert (rare.name, rare.why) == (
        "average_precision",
        "9.00% of the training targets are positive",
    )
    assert even.name == "auroc"
    assert main_metric(spec, np.array([91, 9]), "val_auroc").name == "auroc"
    assert not main_metric(spec, None, "loss").higher_is_better
    assert not main_metric(spec, None, "brier").higher_is_better


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("binary", "auroc,f3", "those of a binary label .auroc, .*got 'f3'"),
        ("binary", "recall@1.5precision", "got 'recall@1.5precision'"),
        ("multilabel", "precision@90recall", "got 'precision@90recall'"),
        ("multiclass", "aurocs", "those of a multiclass label .accuracy, .*got 'aurocs'"),
        ("regression", "f1", "those of a regression label .rmse, .*got 'f1'"),
        ("binary", [3], "names and metrics of torchmetrics, got int"),
        ("binary", "roc", "bounded counters, got BinaryROC, which keeps all rows"),
        ("multiclass", "confusion_matrix", "a number, got MulticlassConfusionMatrix"),
    ],
)
def test_wrong_metrics_are_refused_in_one_line(kind: LabelKind, given: Any, message: str) -> None:
    spec, outputs, targets = case(kind)
    with pytest.raises(ConfigError, match=message) as error:
        SplitMetrics(spec, SingleCommunicator(), given)(outputs, targets)
    assert "\n" not in str(error.value)


def on_workers(method: str, kind: LabelKind, workers: int) -> dict[str, Any]:
    """Return what `SplitMetrics` finds of two splits, of which the second has other outputs."""
    spec, outputs, targets = case(kind)
    shares = SHARES if workers == 3 else [slice(0, ROWS)]

    def work(comm: Communicator) -> dict[str, Any]:
        loss = (torch.zeros(()), 1.0)
        mine = shares[comm.rank]
        splits = [(name, o[mine], targets[mine], loss) for name, o in
                  (("train", outputs), ("val", outputs - 1), ("test", outputs / 2))]  # fmt: skip
        found: dict[str, Any] = getattr(SplitMetrics(spec, comm, "accuracy"), method)(splits)
        return found

    return gt.run_local(work, workers=workers, timeout_s=20)


def test_threshold_has_the_best_f1_score_of_validation_and_is_used_for_the_test_split() -> None:
    from torchmetrics.functional.classification import binary_f1_score

    _, outputs, targets = case("binary")
    scores, y = (outputs[:, 0] - 1).sigmoid(), targets.long()
    best = max(float(binary_f1_score(scores, y, threshold=float(s) - 1e-6)) for s in scores)
    found = on_workers("of_splits", "binary", 1)
    assert found == pytest.approx(on_workers("of_splits", "binary", 3))
    assert found["val_f1_at_threshold"] == pytest.approx(best)
    threshold = found["threshold"]
    test = (outputs[:, 0] / 2).sigmoid()
    expected = float(binary_f1_score(test, y, threshold=threshold))
    assert found["test_f1_at_threshold"] == pytest.approx(expected)
    assert "train_f1_at_threshold" not in found
    assert not threshold == pytest.approx(0.5, abs=0.01)


def test_the_first_of_two_classes_may_be_the_positive_one() -> None:
    spec = LabelSpec(task="multiclass", num_classes=2, classes=("fraud", "ok"))
    _, logit, targets = case("binary")
    logits = torch.cat([logit, torch.zeros_like(logit)], dim=1)  # of fraud, and of ok
    found = SplitMetrics(spec, SingleCommunicator(), positive=0)(logits, (~targets).long())
    binary = LabelSpec(task="binary", num_classes=2)
    expected = SplitMetrics(binary, SingleCommunicator())(logit, targets)
    assert found == pytest.approx(expected)
    rare = np.array([9, 91])
    assert positive_class(spec, rare, None) == 0
    assert main_metric(spec, rare, positive=0).why == "9.00% of the training targets are fraud"
    assert positive_class(spec, np.array([10, 90]), None) == 1
    assert positive_class(spec, rare, "ok") == 1
    with pytest.raises(ConfigError, match=r"positive class .--positive.: expected classes of the"):
        positive_class(spec, rare, "fine")
    with pytest.raises(ConfigError, match="expected a label of two classes, got a regression"):
        positive_class(LabelSpec(task="regression", num_classes=1), None, 1)
    label = PredictedLabel(**spec.model_dump(), threshold=0.8, positive=0)
    probabilities = torch.tensor([[0.81, 0.19], [0.79, 0.21]])
    columns = outputs_as_columns(probabilities.log(), label)
    assert columns["prediction"].to_pylist() == ["fraud", "ok"]


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_report_has_the_confusion_matrix_and_the_calibration(kind: LabelKind) -> None:
    from torchmetrics.functional import classification as f

    _, outputs, targets = case(kind)
    report, y = on_workers("report", kind, 1), targets.long()
    several = on_workers("report", kind, 3)
    test = report["splits"]["test"]
    for name in ("confusion", "confusion_at_threshold", "rows"):
        assert several["splits"]["test"].get(name) == test.get(name)
    for bins in zip(test["calibration"], several["splits"]["test"]["calibration"], strict=True):
        assert bins[0] == pytest.approx(bins[1])
    assert report["splits"].keys() == {"val", "test"}
    expected = {
        "binary": lambda: f.binary_confusion_matrix(outputs[:, 0].sigmoid(), y),
        "multiclass": lambda: f.multiclass_confusion_matrix(outputs, y, 4),
        "multilabel": lambda: f.multilabel_confusion_matrix(outputs.sigmoid(), y, 3,
                                                            ignore_index=-1),
    }[kind]()  # fmt: skip
    assert test["confusion"] == expected.tolist()
    assert sum(of_bin["count"] for of_bin in test["calibration"]) == int((targets >= 0).sum())
    assert json.loads(json.dumps(report)) == {**report, "classes": None}


def test_what_is_not_defined_is_left_out() -> None:
    spec, outputs, _ = case("binary")
    found = SplitMetrics(spec, SingleCommunicator(), "auroc,recall@0.9precision,f1")(
        outputs, torch.zeros(ROWS, dtype=torch.bool)
    )
    assert found.keys() == {"loss", "f1"}
    assert not any(map(math.isnan, found.values()))
