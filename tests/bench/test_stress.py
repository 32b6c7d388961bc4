"""Some random configurations, each as on one worker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.jobs import run

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "stress.py"


@pytest.mark.spawn
def test_random_configurations_are_as_on_one_worker() -> None:
    words = ("--configurations", "3", "--seed", "7")
    done = run([sys.executable, SCRIPT, *words], timeout_s=280, env={"OMP_NUM_THREADS": "1"})
    assert done.code == 0, done.output
    assert "3 of 3 configurations match one worker" in done.output
