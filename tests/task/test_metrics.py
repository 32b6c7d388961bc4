"""Metrics over all workers equal those of one worker, also if a worker has no rows."""

from __future__ import annotations

import pytest
import torch

from graphtheta import run_local
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.partition.store.manifest import LabelKind, LabelSpec
from graphtheta.task.metrics import MAIN_METRIC, main_metric, metrics_for

ROWS = 40


def case(task: LabelKind) -> tuple[LabelSpec, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    width = {"multiclass": 5, "binary": 1, "multilabel": 4, "regression": 1}[task]
    outputs = torch.randn(ROWS, width, generator=generator)
    targets = {
        "multiclass": torch.randint(5, (ROWS,), generator=generator),
        "binary": torch.rand(ROWS, generator=generator) > 0.5,
        "multilabel": torch.rand(ROWS, 4, generator=generator) > 0.5,
        "regression": torch.randn(ROWS, generator=generator),
    }[task]
    return LabelSpec(task=task, num_classes=2 if task == "binary" else width), outputs, targets


@pytest.mark.parametrize("task", list(MAIN_METRIC))
def test_metrics_distributed_same_as_single(task: LabelKind) -> None:
    spec, outputs, targets = case(task)
    expected = metrics_for(spec, SingleCommunicator())(outputs, targets)
    shares = [slice(0, 0), slice(0, 13), slice(13, ROWS)]

    def work(comm: Communicator) -> dict[str, float]:
        mine = shares[comm.rank]
        return metrics_for(spec, comm)(outputs[mine], targets[mine])

    assert run_local(work, workers=3, timeout_s=20) == pytest.approx(expected)


def test_accuracy_is_the_share_of_right_classes() -> None:
    spec, outputs, targets = case("multiclass")
    metrics = metrics_for(spec, SingleCommunicator())(outputs, targets)
    right = (outputs.argmax(1) == targets).double().mean()
    assert metrics["accuracy"] == pytest.approx(float(right))


def test_f1_equals_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_f1_score

    _, outputs, targets = case("multiclass")
    wide = torch.nn.functional.pad(outputs, (0, 3), value=-9.0)  # classes that do not occur
    spec = LabelSpec(task="multiclass", num_classes=8)
    metrics = metrics_for(spec, SingleCommunicator())(wide, targets)
    assert metrics["f1"] == pytest.approx(float(multiclass_f1_score(wide, targets, 8)), abs=1e-6)


def test_memory_is_linear_in_the_number_of_classes() -> None:
    classes = 200_000  # 300 GB, if there were a counter for each pair of classes
    outputs = torch.zeros(2, classes)
    spec = LabelSpec(task="multiclass", num_classes=classes)
    metrics = metrics_for(spec, SingleCommunicator())(outputs, torch.tensor([0, 5]))
    assert metrics["accuracy"] == 0.5
    assert metrics["f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_auroc_is_the_share_of_pairs_in_order() -> None:
    spec, outputs, targets = case("binary")
    metrics = metrics_for(spec, SingleCommunicator())(outputs, targets)
    score = outputs.flatten()
    pairs = (score[targets].unsqueeze(1) > score[~targets].unsqueeze(0)).double().mean()
    assert metrics["auroc"] == pytest.approx(float(pairs), abs=1e-6)


def test_average_precision_equals_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import binary_average_precision

    spec, outputs, targets = case("binary")
    outputs = outputs.round(decimals=1)  # ties
    metrics = metrics_for(spec, SingleCommunicator())(outputs, targets)
    expected = binary_average_precision(outputs.flatten().sigmoid(), targets.long())
    assert metrics["average_precision"] == pytest.approx(float(expected), abs=1e-6)


def test_two_classes_have_the_metrics_of_a_binary_label() -> None:
    spec, outputs, targets = case("binary")
    logits = torch.cat([outputs / 3, outputs / 3 + outputs], dim=1)
    two = LabelSpec(task="multiclass", num_classes=2)
    found = metrics_for(two, SingleCommunicator())(logits, targets.long())
    expected = metrics_for(spec, SingleCommunicator())(outputs, targets)
    loss = torch.nn.functional.cross_entropy(logits, targets.long())
    assert found == pytest.approx({**expected, "loss": float(loss)}, rel=1e-5)
    assert {"auroc", "average_precision", "f1", "precision", "recall"} < found.keys()


def test_unknown_entries_of_a_multi_label_count_nowhere() -> None:
    spec, outputs, targets = case("multilabel")
    unknown = torch.arange(targets.numel()).reshape(targets.shape) % 3 == 0
    marked = torch.where(unknown, -1, targets.to(torch.int8))
    found = metrics_for(spec, SingleCommunicator())(outputs, marked)
    scores, right = outputs[~unknown], targets[~unknown]
    loss = torch.nn.functional.binary_cross_entropy_with_logits(scores, right.float())
    assert found["loss"] == pytest.approx(float(loss), rel=1e-6)
    assert found["accuracy"] == pytest.approx(float(((scores > 0) == right).float().mean()))


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_logits_in_0_to_1_are_not_taken_for_probabilities(task: LabelKind) -> None:
    spec, outputs, targets = case(task)
    outputs[:13] = outputs[:13].abs() / outputs.abs().max()  # on one worker all are in [0, 1]
    predicted = outputs.reshape(targets.shape) > 0
    right = float((predicted == targets).double().mean())
    f1 = float(2 * (predicted & targets).sum() / (predicted.sum() + targets.sum()))
    for shares in ([slice(0, ROWS)], [slice(0, 13), slice(13, ROWS)]):

        def work(comm: Communicator, shares: list[slice] = shares) -> dict[str, float]:
            mine = shares[comm.rank]
            return metrics_for(spec, comm)(outputs[mine], targets[mine])

        metrics = run_local(work, workers=len(shares), timeout_s=20)
        assert metrics["accuracy"] == pytest.approx(right)
        if task == "multilabel":
            assert metrics["f1"] == pytest.approx(f1)


def test_auroc_of_large_logits_has_no_ties() -> None:
    outputs = torch.tensor([[20.0], [30.0], [21.0], [31.0]])
    targets = torch.tensor([False, True, False, True])
    spec = LabelSpec(task="binary", num_classes=2)
    assert metrics_for(spec, SingleCommunicator())(outputs, targets)["auroc"] == 1.0


def test_auroc_of_one_class_is_left_out() -> None:
    spec, outputs, targets = case("binary")
    metrics = metrics_for(spec, SingleCommunicator())(outputs, torch.ones_like(targets))
    assert metrics.keys() == {"loss", "accuracy", "f1", "precision", "recall"}


def test_two_classes_stop_by_the_metric_of_binary_labels() -> None:
    names = [main_metric(LabelSpec(task="multiclass", num_classes=n)).name for n in (2, 3)]
    assert names == [main_metric(LabelSpec(task="binary", num_classes=2)).name, "accuracy"]
