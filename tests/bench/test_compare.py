"""Verdicts on two files of records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest

from graphtheta.bench.compare import compare, differences
from graphtheta.bench.record import Record, new_record
from graphtheta.errors import ConfigError


def record(
    samples: Sequence[float], unit: Literal["seconds", "bytes"] = "seconds", **case: Any
) -> Record:
    return new_record("epoch", {"model": "gcn", **case}, samples, unit=unit)


STEADY = [0.99, 1.0, 1.0, 1.0, 1.01]
NOISY = [0.7, 0.8, 1.0, 1.2, 1.3]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (STEADY, STEADY, "within noise"),
        (STEADY, [2 * s for s in STEADY], "slower"),
        (STEADY, [s / 2 for s in STEADY], "faster"),
        (STEADY, [1.1 * s for s in STEADY], "slower"),
        (NOISY, [1.1 * s for s in NOISY], "within noise"),
        (NOISY, [s / 1.1 for s in NOISY], "within noise"),
        (NOISY, [3 * s for s in NOISY], "slower"),
        (STEADY, [1.1 * s for s in NOISY], "within noise"),
    ],
)
def test_verdict(before: list[float], after: list[float], verdict: str) -> None:
    (pair,) = compare([record(before)], [record(after)])
    assert pair.verdict == verdict
    assert pair.is_worse == (verdict == "slower")


def test_verdict_is_that_of_the_files_exchanged() -> None:
    ours, theirs = record(STEADY), record([1.3 * s for s in NOISY])
    (there,), (back,) = compare([ours], [theirs]), compare([theirs], [ours])
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.noise == back.noise
    assert (there.verdict, back.verdict) in {
        ("slower", "faster"),
        ("within noise", "within noise"),
    }


def test_bytes_get_larger() -> None:
    (pair,) = compare([record([8.0], "bytes")], [record([9.0], "bytes")])
    assert pair.verdict == "larger"
    assert pair.is_worse


def test_only_what_is_in_both_is_paired_and_the_last_counts() -> None:
    before = [record([1.0]), record([5.0], layers=3), record([2.0])]
    after = [record([4.0]), record([1.0], "bytes"), record([1.0], layers=4)]
    (pair,) = compare(before, after)
    assert pair.ratio == 2
    assert pair.case == {"model": "gcn"}
    assert pair.name == "epoch: gcn"


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(ConfigError, match="in both files"):
        compare([record([1.0])], [record([1.0], layers=3)])


def test_another_machine_is_mentioned() -> None:
    pairs = compare([record([1.0])], [record([1.0]) | {"cpu": "another"}])
    assert any(line.startswith("cpu: ") and "another" in line for line in differences(pairs))
    assert not differences(compare([record([1.0])], [record([1.0])]))
