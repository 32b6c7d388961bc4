from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from graphtheta.runtime import leftovers
from graphtheta.runtime.leftovers import remove_mpi_leftovers

HIDDEN = os.readlink("/proc/self/ns/pid") != leftovers._INITIAL_NAMESPACE


def make(path: Path, seconds: float) -> Path:
    path.write_bytes(bytes(4096))
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))
    return path


@pytest.mark.skipif(HIDDEN, reason="in a container, the files of others may be in use unseen")
def test_files_that_no_process_uses_are_removed(tmp_path: Path) -> None:
    left = [make(tmp_path / f"mpich_shm_{i}_0", 60) for i in range(2)]
    young, other = make(tmp_path / "mpich_shm_2_0", 0), make(tmp_path / "torch_2_0", 60)
    used = make(tmp_path / "mpich_shm_3_0", 60)
    with used.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert remove_mpi_leftovers(tmp_path) == 2
    assert sorted(tmp_path.iterdir()) == sorted([young, other, used])
    assert not any(path.exists() for path in left)


def test_nothing_is_removed_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_INITIAL_NAMESPACE", "another")
    make(tmp_path / "mpich_shm_1_0", 60)
    assert remove_mpi_leftovers(tmp_path) == 0


def test_a_machine_without_the_folder_is_no_problem(tmp_path: Path) -> None:
    assert remove_mpi_leftovers(tmp_path / "none") == 0
