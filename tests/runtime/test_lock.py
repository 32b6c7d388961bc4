"""Locks: exclusive, free after a kill, and one line where the file system has none."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from graphtheta.errors import ConfigError, StoreError
from graphtheta.runtime.atomic import lock_folder
from graphtheta.runtime.lock import FileLock
from graphtheta.runtime.scratch import scratch_folder
from tests.kills import refuse_locks

NO_LOCKS = [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS]


def test_lock_is_exclusive_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "lock"
    with FileLock(path) as lock:
        assert lock.held
        with pytest.raises(BlockingIOError):
            FileLock(path)
    assert not path.exists()
    with FileLock(path):
        pass


def test_release_leaves_the_file_of_the_next_holder(tmp_path: Path) -> None:
    """As after a run that removes its folder before it unlocks it."""
    path = tmp_path / "lock"
    first = FileLock(path)
    path.unlink()
    with FileLock(path):
        first.release()
        with pytest.raises(BlockingIOError):
            FileLock(path)


def test_lock_that_waits_gets_a_new_file(tmp_path: Path) -> None:
    """The first holder removes the file that the second has opened."""
    path = tmp_path / "lock"
    first = FileLock(path)
    held = []

    def wait() -> None:
        with FileLock(path, wait=True):
            held.append(path.exists())

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)
    assert not held
    first.release()
    thread.join(10)
    assert held == [True]


@pytest.mark.parametrize("code", NO_LOCKS)
def test_no_locks_is_a_warning_of_one_line(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_locks(monkeypatch, code)
    with (
        caplog.at_level(logging.WARNING),
        lock_folder(tmp_path / "run", tmp_path / "run", ConfigError),
    ):
        pass
    (line,) = caplog.messages
    assert "its file system has no locks" in line
    assert "\n" not in line


def test_folder_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with lock_folder(tmp_path, tmp_path):
        with (
            pytest.raises(ConfigError, match=r"expected no other run that writes it, got one in"),
            lock_folder(tmp_path, tmp_path, ConfigError),
        ):
            pass
    assert not list(tmp_path.iterdir())


_KILLED = """
import os, signal
from graphtheta.runtime.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "file").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.spawn
def test_scratch_folder_of_a_killed_process_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = subprocess.run(
        [sys.executable, "-c", _KILLED],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=60,
        check=False,
    ).returncode
    assert code == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2
    with scratch_folder() as one:
        assert not left & {path.name for path in tmp_path.iterdir()}
        with scratch_folder() as two:  # the first is in use
            assert one.is_dir()
            assert two.is_dir()
    assert not list(tmp_path.iterdir())


def test_missing_temporary_folder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc/none")
    with (
        pytest.raises(StoreError, match="expected to write temporary files, got ") as got,
        scratch_folder(),
    ):
        pass
    assert "\n" not in str(got.value)
