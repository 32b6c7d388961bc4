"""Servers as real processes, whose output and resources tests look at."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.jobs import running

__all__ = ["Served", "serve"]


class Served:
    """A server of a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._said.wait(60), self.lines
        assert self.process.poll() is None, self.lines

    @property
    def address(self) -> str:
        return self.lines[0].split()[-1]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def resources(self) -> tuple[int, int, float]:
        """Return threads, file handles, and resident MiB."""
        found = psutil.Process(self.process.pid)
        return found.num_threads(), found.num_fds(), found.memory_info().rss / 2**20

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                self.lines.append(line)
                self._said.set()
        except ValueError:  # closed at the end of the test
            pass
        self._said.set()


@contextmanager
def serve(store: Path, *words: object) -> Iterator[Served]:
    """Run `graphtheta serve` until the test is over."""
    command = [sys.executable, "-m", "graphtheta", "serve", store, *map(str, words)]
    with running(command) as process:
        yield Served(process)
