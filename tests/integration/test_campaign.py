"""A run whose groups and service are killed, stopped and cut off ends with the same weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.jobs import run

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "campaign.py"
TRAIN = ("--strategy", "mini", "--batch-size", "50", "--fanouts", "5,5", "--epochs", "60")


@pytest.mark.slow
@pytest.mark.spawn
def test_disturbed_groups_train_the_same_weights() -> None:
    words = ("--events", "3", "--restarts", "1", "--pause", "3", "--", *TRAIN)
    more = ("--micro-batches", "4", "--evaluate-every", "10", "--delay", "1")
    done = run([sys.executable, SCRIPT, *words, *more], timeout_s=280, env={"OMP_NUM_THREADS": "1"})
    assert done.code == 0, done.output
    assert "same_weights: True" in done.output
    assert "steps: 180" in done.output
