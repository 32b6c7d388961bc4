"""Losses by name and function, weighed by classes and rows: equal to torch, on any workers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.data.schema import matrix_column
from graphtheta.errors import ConfigError
from graphtheta.nn.losses import CrossEntropy, Focal, Huber
from graphtheta.partition.store.manifest import LabelSpec
from graphtheta.run.class_weight import parse_class_weight
from graphtheta.task.class_weights import class_counts
from graphtheta.task.loss import TaskLoss

N = 60
RNG = np.random.default_rng(1)
IMPORTANCE = RNG.random(N).astype(np.float32)
GRAPH = gt.Graph(
    pa.table(
        {
            "id": pa.array(range(N)),
            "features": matrix_column(RNG.standard_normal((N, 5)).astype(np.float32)),
            "split:split": pa.array((np.arange(N) % 3 + 1).astype(np.int8)),
            "label:y": pa.array(RNG.choice(3, N, p=[0.7, 0.2, 0.1])),
            "importance": pa.array(IMPORTANCE),
            "label:cost": pa.array(IMPORTANCE),
            "label:half": pa.array(IMPORTANCE, mask=np.arange(N) % 2 == 0),
            "signed": pa.array(RNG.standard_normal(N)),
        }
    ),
    pa.table({"src": RNG.integers(0, N, 300), "dst": RNG.integers(0, N, 300)}),
)
MULTICLASS = LabelSpec(task="multiclass", num_classes=3, classes=("a", "b", "c"))
BINARY = LabelSpec(task="binary", num_classes=2)
MULTILABEL = LabelSpec(task="multilabel", num_classes=4)
ROWS = torch.arange(20)


def mean(spec: LabelSpec, outputs: torch.Tensor, target: torch.Tensor, **options: Any) -> float:
    counts = class_counts(target, spec, SingleCommunicator())
    loss = TaskLoss(spec, options.pop("loss", None), options.pop("class_weight", None), counts,
                    **options)  # fmt: skip
    total, weight = loss(outputs, target, ROWS)
    return float(total) / weight


def case(width: int) -> torch.Tensor:
    return torch.randn(20, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def test_class_weights_of_classes_equal_those_of_torch() -> None:
    outputs, target = case(3), torch.arange(20) % 5 % 3
    weights = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)
    expected = float(F.cross_entropy(outputs, target, weight=weights))
    for given in ({"b": 5, "c": 0.5}, {1: 5, "2": 0.5}, [1, 5, 0.5], weights):
        assert mean(MULTICLASS, outputs, target, class_weight=given) == pytest.approx(expected)
    balanced = 20 / (3 * torch.bincount(target).double())
    expected = float(F.cross_entropy(outputs, target, weight=balanced))
    found = mean(MULTICLASS, outputs, target, class_weight="balanced")
    assert found == pytest.approx(expected)


def test_class_weights_of_yes_or_no_and_of_several_labels_with_unknown_entries() -> None:
    outputs, target = case(1), torch.arange(20) % 10 == 0
    entries = F.binary_cross_entropy_with_logits(outputs[:, 0], target.double(), reduction="none")
    weights = torch.where(target, 10 / 2, 10 / 18)
    found = mean(BINARY, outputs, target, class_weight="balanced")
    assert found == pytest.approx(float((entries * weights).sum() / weights.sum()))
    found = mean(BINARY, outputs, target, class_weight={"true": 5, "False": 5 / 9})
    assert found == pytest.approx(float((entries * weights).sum() / weights.sum()))

    outputs, marks = case(4), (torch.arange(80).reshape(20, 4) % 7 % 3 - 1).to(torch.int8)
    known, yes = marks >= 0, marks.clamp(min=0).double()
    entries = F.binary_cross_entropy_with_logits(outputs, yes, reduction="none")
    weights = torch.where(yes > 0, torch.tensor([1, 1, 3.0, 1]).double(), 1.0) * known
    found = mean(MULTILABEL, outputs, marks, class_weight={2: 3})
    assert found == pytest.approx(float((entries * weights).sum() / weights.sum()))
    rows = torch.rand(20).double()
    weights = known * rows[:, None]
    found = mean(MULTILABEL, outputs, marks, loss="cross-entropy", row_weights=rows)
    assert found == pytest.approx(float((entries * weights).sum() / weights.sum()))


def test_losses_by_name_equal_their_definitions() -> None:
    outputs, target = case(3), torch.arange(20) % 3
    p = outputs.softmax(1)[torch.arange(20), target]
    expected = float((-((1 - p) ** 2) * p.log()).mean())
    assert mean(MULTICLASS, outputs, target, loss="focal") == pytest.approx(expected)
    plain = mean(MULTICLASS, outputs, target)
    assert mean(MULTICLASS, outputs, target, loss=Focal(0.0)) == pytest.approx(plain)
    smooth = float(F.cross_entropy(outputs, target, label_smoothing=0.2))
    assert mean(MULTICLASS, outputs, target, loss=CrossEntropy(0.2)) == pytest.approx(smooth)
    certain = torch.tensor([[40.0], [0.0]], requires_grad=True)
    Focal(0.5)(certain, torch.tensor([True, True])).sum().backward()
    assert torch.isfinite(certain.grad).all()  # type: ignore[arg-type]
    numbers, y = case(1), case(1)[:, 0].flip(0)
    spec = LabelSpec(task="regression", num_classes=1)
    for name, loss in (("mse", F.mse_loss), ("mae", F.l1_loss), ("huber", F.huber_loss)):
        assert mean(spec, numbers, y, loss=name) == pytest.approx(float(loss(numbers[:, 0], y)))
    with pytest.raises(ConfigError, match="expected a label of classes, got one of numbers"):
        mean(spec, numbers, y, class_weight="balanced")
    assert repr(Huber(0.5)) == "Huber(delta=0.5)"


def train(comm: Communicator, micro_batches: int = 1, **options: Any) -> list[float]:
    shard = gt.open_shard(GRAPH, comm, method="dbh")
    model = gt.nn.GCN(shard.num_features, 8, shard.num_outputs("y"), dropout=0.0).double()
    task = gt.NodePrediction("y", **options)
    trainer = gt.Trainer(
        model, shard, task=task, strategy=gt.MiniBatch(9), lr=0.05, micro_batches=micro_batches
    )
    summary = trainer.fit(3)
    return [*summary["loss_history"], summary["val_loss"], summary["test_loss"]]


def on_workers(**options: Any) -> list[float]:
    return gt.run_local(partial(train, **options), 3, timeout_s=60)


def weighed_by_hand(outputs: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, float]:
    weights = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    losses = F.cross_entropy(outputs, target, weights, reduction="sum")
    return losses, float(weights[target].sum())


def test_weighed_losses_are_equal_on_any_workers_and_in_micro_batches() -> None:
    both: dict[str, Any] = {"class_weight": "balanced", "loss_weight": "importance"}
    expected = train(SingleCommunicator(), **both)
    assert on_workers(**both) == pytest.approx(expected, rel=1e-9)
    divided = on_workers(micro_batches=2, **both)
    assert divided == pytest.approx(expected, rel=1e-9)
    assert train(SingleCommunicator()) != pytest.approx(expected, rel=1e-2)
    by_label = train(SingleCommunicator(), class_weight="balanced", loss_weight="cost")
    assert by_label == expected
    expected = train(SingleCommunicator(), class_weight={1: 4, 2: 9})
    found = on_workers(loss=weighed_by_hand)
    assert found == pytest.approx(expected, rel=1e-9)


def a_mean(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(outputs, target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss .--loss.: expected one of cross-entropy, focal, .*got 'hinge'"),
        ({"loss": "mae"}, "expected one for a multiclass label, .*cross-entropy, focal"),
        ({"loss": 3}, "loss: expected a name or a function, got int"),
        ({"loss": a_mean}, "expected a loss for each of 9 rows, or a sum and a weight, got"),
        ({"loss": weighed_by_hand, "class_weight": "balanced"}, "expected the loss of each row"),
        ({"class_weight": "equal"}, "expected balanced, or weights such as .*got 'equal'"),
        ({"class_weight": {"9": 1.0}}, "numbers from 0 to 2.*got '9'"),
        ({"class_weight": {1: -1.0}}, "of 1: expected a finite number >= 0, got -1.0"),
        ({"class_weight": [1.0]}, "expected 3 weights, one for each class, got 1"),
        ({"class_weight": [0, 0, 0.0]}, "finite loss"),
        ({"loss_weight": "weight"}, "node column: expected one of .*got 'weight'"),
        ({"loss_weight": "features"}, "expected a number for each row in 'features', got .5."),
        ({"loss_weight": "half"}, "expected finite numbers >= 0 in 'half', got .* others, such as"),
        ({"loss_weight": "signed"}, "expected finite numbers >= 0 in 'signed', got .* others"),
    ],
)
def test_wrong_losses_and_weights_are_refused_in_one_line(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        train(SingleCommunicator(), **options)
    assert "\n" not in str(error.value)


def test_class_weights_of_the_command_line(tmp_path: Path) -> None:
    assert parse_class_weight("balanced") == "balanced"
    assert parse_class_weight("fraud=20, ok=1") == {"fraud": 20.0, "ok": 1.0}
    for name, text in (("a.toml", "fraud = 20"), ("a.json", '{"fraud": 20}')):
        path = tmp_path / name
        path.write_text(text)
        assert parse_class_weight(str(path)) == {"fraud": 20}
    for text in ("fraud=x", "=3", "fraud=1,", str(tmp_path / "none.toml")):
        with pytest.raises(ConfigError, match=r"^--class-weight: .*expected"):
            parse_class_weight(text)
    (tmp_path / "b.json").write_text('{"fraud": [1]}')
    with pytest.raises(ConfigError, match="table of numbers by class"):
        parse_class_weight(str(tmp_path / "b.json"))


def typed_graph() -> gt.Graph:
    """Return users who rate items, with weights of the users and of the ratings."""
    rng = np.random.default_rng(7)
    rates = {
        "src": rng.integers(0, 30, 120),
        "dst": rng.integers(0, 20, 120),
        "label:stars": rng.integers(0, 3, 120),
        "split:split": (np.arange(120) % 3 + 1).astype(np.int8),
        "amount": rng.random(120),
    }
    users = {
        "id": np.arange(30),
        "label:kind": rng.integers(0, 3, 30),
        "split:part": (np.arange(30) % 3 + 1).astype(np.int8),
        "importance": rng.random(30),
    }
    nodes = {"item": pa.table({"id": np.arange(20)}), "user": pa.table(users)}
    seen = {"src": rng.integers(0, 20, 60), "dst": rng.integers(0, 30, 60)}
    return gt.Graph.from_arrow(nodes, {"user-rates-item": rates, "item-seen-user": seen})


TYPED = typed_graph()
OF_TYPED: dict[str, gt.EdgePrediction | gt.NodePrediction] = {
    "edges": gt.EdgePrediction("stars", target_relation="user-rates-item", loss_weight="amount",
                               class_weight="balanced"),
    "nodes": gt.NodePrediction("kind", target_type="user", loss_weight="importance"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OF_TYPED)
def test_rows_of_a_type_or_relation_are_weighed_on_any_workers(kind: str) -> None:
    def train(comm: Communicator, task: Any = OF_TYPED[kind]) -> list[float]:
        shard = gt.open_shard(TYPED, comm)
        encoder = gt.nn.RGCN(4, 6, 3, num_relations=2, dropout=0.0)
        model: torch.nn.Module = gt.nn.TypedInput(shard, 4, encoder)
        if kind == "edges":
            model = gt.nn.EdgeModel(model, gt.nn.decoder_for("mlp", 3, outputs=3))
        summary = gt.Trainer(model.double(), shard, task=task, lr=0.05).fit(2)
        return [*summary["loss_history"], summary["val_loss"]]

    alone = train(SingleCommunicator())
    assert gt.run_local(train, 3, timeout_s=60) == pytest.approx(alone, rel=1e-9)
    name, target = ("stars", "target_relation") if kind == "edges" else ("kind", "target_type")
    plain: Any = type(OF_TYPED[kind])(name, **{target: getattr(OF_TYPED[kind], target)})
    assert train(SingleCommunicator(), plain) != pytest.approx(alone, rel=1e-4)
