"""Files and folders under a temporary name: complete or absent, and removed after a failure."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from graphtheta.errors import ConfigError, StoreError
from graphtheta.runtime.atomic import (
    atomic_file,
    atomic_folder,
    disk_errors,
    lock_folder,
    partial_path,
)


def test_partial_path_is_hidden_and_in_the_same_folder(tmp_path: Path) -> None:
    assert partial_path(tmp_path / "a.b") == tmp_path / ".a.b.partial"
    assert partial_path(Path("a")) == Path.cwd() / ".a.partial"


def test_file_is_replaced_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_file(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_file_as_it_was(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as partial:
            partial.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_folder_appears_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "folder"
    with atomic_folder(path) as partial:
        (partial / "file").write_text("new")
        assert not path.exists()
    assert [entry.name for entry in path.parent.iterdir()] == ["folder"]
    with pytest.raises(StoreError, match="a directory that is not empty"), atomic_folder(path):
        pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_no_folder(error: type[BaseException], tmp_path: Path) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "folder") as partial:
            (partial / "file").write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_folder(tmp_path: Path) -> None:
    def fail() -> None:
        with lock_folder(tmp_path / "new" / "inner", tmp_path / "new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "new").mkdir()
    with pytest.raises(OSError, match="No space left"):
        fail()
    assert not any((tmp_path / "new").iterdir())
    with lock_folder(tmp_path / "new", tmp_path / "new"):
        pass
    assert (tmp_path / "new").is_dir(), "a folder that existed before stays"


def test_a_file_of_numpy_that_is_cut_off_names_the_full_disk() -> None:
    with (
        pytest.raises(StoreError, match=r"no space left on device \(9 requested and 1 written\)"),
        disk_errors("/store", "a store"),
    ):
        raise OSError("9 requested and 1 written")


def test_disk_errors_are_one_line() -> None:
    with (
        pytest.raises(ConfigError, match=r"^out: expected to write a file, got first at f\. "),
        disk_errors("out", "a file", ConfigError),
    ):
        raise OSError(28, "first\nsecond", "f")
