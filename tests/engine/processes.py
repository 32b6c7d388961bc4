"""Servers in processes of their own, whose output and resources tests inspect."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.jobs import running

__all__ = ["ServerProcess", "serve"]


class ServerProcess:
    """A running `graphtheta serve`. The constructor waits for its first line of output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._has_output = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._has_output.wait(60), self.lines
        assert self.process.poll() is None, self.lines

    @property
    def address(self) -> str:
        return self.lines[0].split()[-1]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def resources(self) -> tuple[int, int, float]:
        """Return the number of threads, the number of file handles, and resident MiB."""
        found = psutil.Process(self.process.pid)
        return found.num_threads(), found.num_fds(), found.memory_info().rss / 2**20

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                self.lines.append(line)
                self._has_output.set()
        except ValueError:  # closed at the end of the test
            pass
        self._has_output.set()


@contextmanager
def serve(store: Path, *options: object) -> Iterator[ServerProcess]:
    """Run `graphtheta serve` while the context is active."""
    command = [sys.executable, "-m", "graphtheta", "serve", store, *map(str, options)]
    with running(command) as process:
        yield ServerProcess(process)
