from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from graphtheta.errors import ConfigError
from graphtheta.runtime import threads as cores
from graphtheta.runtime.threads import cpu_quota as _cpu_quota


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: None)


def _mask(*wanted: int) -> np.ndarray:
    mask = np.zeros(4096, np.int32)
    mask[list(wanted)] = 1
    return mask


def test_core_mask_marks_at_least_one_core() -> None:
    assert 1 <= cores.core_mask().sum() <= 4096


def test_unbound_ranks_share_all_cores() -> None:
    mask = _mask(*range(8))
    assert cores.fair_threads(mask, mask * 2, 2) == 4
    assert cores.fair_threads(mask, mask * 3, 3) == 2
    assert cores.fair_threads(mask, mask * 16, 16) == 1


def test_bound_ranks_keep_their_own_cores() -> None:
    mine, other = _mask(0, 1, 2), _mask(3, 4)
    assert cores.fair_threads(mine, mine + other, 2) == 3
    assert cores.fair_threads(other, mine + other, 2) == 2


def test_quota_of_the_control_group_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cpu_quota", lambda: 4.0)
    mask = _mask(*range(64))
    assert cores.fair_threads(mask, mask * 2, 2) == 2


def test_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = _mask(0, 1)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert cores.fair_threads(mask, mask, 1) == 6
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert cores.fair_threads(mask, mask, 1) == 3


@pytest.mark.parametrize("text", ["many", "0", "-1"])
def test_environment_raises_config_error_when_no_number(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(ConfigError, match="OMP_NUM_THREADS: expected a whole number"):
        cores.fair_threads(_mask(0), _mask(0), 1)


@pytest.mark.parametrize(
    ("text", "quota"), [("200000 100000", 2.0), ("max 100000", None), ("", None)]
)
def test_cpu_quota_reads_control_group(tmp_path: Path, text: str, quota: float | None) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(text)
    assert _cpu_quota(path) == quota
