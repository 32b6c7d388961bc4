"""Table of the phases at the end of a run."""

from __future__ import annotations

import pytest

import graphtheta as gt
from graphtheta.strategy import MiniBatch
from graphtheta.train.phase_times import phase_times


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_phases_are_in_the_order_of_a_step_and_complete(micro_batches: int) -> None:
    shard = gt.open_shard(gt.datasets.load("cora"))
    model = gt.nn.GAT(shard.num_features, 8, shard.num_classes, heads=2)
    trainer = gt.Trainer(
        model, shard, strategy=MiniBatch(64), evaluate_every=9, micro_batches=micro_batches
    )
    summary = trainer.fit(2)
    found = phase_times(summary["phase_seconds"])
    waits = {"waiting for the queue", "waiting for groups"} if micro_batches > 1 else set()
    assert list(found) == [
        phase for phase in (
            "preparation", "waiting for the queue", "forward layer 0", "forward layer 1",
            "backward layer 1", "backward layer 0", "backward transform and apply",
            "waiting for groups", "parameter update", "loss and the rest",
        )
        if not phase.startswith("waiting") or phase in waits
    ]  # fmt: skip
    assert sum(share for _, share in found.values()) == pytest.approx(1)
    spent = sum(trainer.history.epoch_seconds)
    assert sum(seconds for seconds, _ in found.values()) == pytest.approx(spent, rel=0.05)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_background_preparation_is_reported(prefetch: int) -> None:
    shard = gt.open_shard(gt.datasets.load("cora"))
    model = gt.nn.GCN(shard.num_features, 8, shard.num_classes)
    trainer = gt.Trainer(model, shard, strategy=MiniBatch(64), prefetch=prefetch)
    summary = trainer.fit(1)
    assert (summary["prepared_ahead_seconds"] > 0) == (prefetch > 0)
    assert summary["phase_seconds"]["forward prepare"] > 0
