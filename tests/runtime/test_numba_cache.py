"""Numba's cache holds pickles: it is only used where no other user can write to it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numba
import pytest

from graphtheta.runtime import numba_cache
from graphtheta.runtime.numba_cache import use_private_numba_cache
from graphtheta.runtime.paths import is_private


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHTHETA_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    monkeypatch.setattr(numba.config, "CACHE_DIR", numba.config.CACHE_DIR)  # restored afterwards


def chosen() -> Path:
    use_private_numba_cache()
    return Path(os.environ["NUMBA_CACHE_DIR"])


def test_a_private_folder_is_used(tmp_path: Path) -> None:
    assert chosen() == tmp_path / "numba"
    assert is_private(tmp_path / "numba")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o1777])
def test_a_folder_of_others_is_not_used(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "numba"
    folder.mkdir()
    folder.chmod(mode)
    inside = folder / f"graphtheta-{os.getuid()}"
    assert chosen() == inside
    assert inside.stat().st_mode & 0o077 == 0
    inside.chmod(0o777)  # as if another user had made it
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    assert chosen() == tmp_path / "ours" / "numba"


def test_a_file_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "numba").write_text("")
    assert chosen() == tmp_path / "ours" / "numba"


def test_without_a_private_folder_the_cache_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numba").write_text("")
    (tmp_path / "ours").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert chosen().parent == tmp_path
    assert is_private(chosen())


def test_without_the_variable_sources_that_can_be_written_keep_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    use_private_numba_cache()
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setattr(numba_cache, "_PACKAGE", tmp_path / "none")
    assert chosen() == tmp_path / "ours" / "numba"


def test_numba_that_was_imported_before_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "numba"))
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba").chmod(0o777)
    assert str(chosen()) == numba.config.CACHE_DIR
