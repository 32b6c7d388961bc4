"""Supervisor of a job under mpiexec, which starts it again when it fails."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from graphtheta.errors import ConfigError, GraphThetaError
from graphtheta.wording import counted

__all__ = ["Supervisor", "find_mpiexec"]

_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LONGEST_WAIT_S = 60.0


def find_mpiexec() -> str:
    """Return the path of mpiexec: that of this Python environment, or the first one on the PATH.

    Raises:
        ConfigError: If there is none.
    """
    in_environment = Path(sys.executable).parent / "mpiexec"
    found = str(in_environment) if in_environment.exists() else shutil.which("mpiexec")
    if found is None:
        raise ConfigError("mpiexec: expected it, got none. Run: pip install 'graphtheta[mpi]'")
    return found


class Supervisor:
    """Runs a command, and runs it again when it fails.

    Signals are forwarded to the command: after SIGTERM, SIGINT or SIGHUP it is not run again. It
    has a process group of its own, so that Ctrl-C of a terminal reaches it once. A mistake of the
    user (exit code 2) would fail again, so that it ends the job. Each action is reported in a line
    on stderr.

    Args:
        command: Program and arguments of the first start.
        again: Program and arguments of the other starts.
        restarts: Largest number of other starts.
        wait_s: Seconds before the second start; they double with each further one, up to a minute.
    """

    def __init__(
        self, command: Sequence[str], again: Sequence[str], restarts: int, *, wait_s: float = 1.0
    ) -> None:
        self._command, self._again = command, again
        self._restarts, self._wait_s = restarts, wait_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()
        self._signal = 0

    def run(self) -> int:
        """Run the command until it succeeds, is stopped, or may not be started again.

        Call it in the main thread.

        Returns:
            Exit code of the last start; 128 and its number if a signal ended it.
        """
        _say(f"starting {shlex.join(self._command)}")
        with self._forwarding():
            for attempt in range(self._restarts + 1):
                started = time.monotonic()
                code = self._run_once(self._again if attempt else self._command)
                ended = (
                    f"the job ended with exit code {code} after {time.monotonic() - started:.0f} s"
                )
                if code == 0 or self._signal:
                    return code
                if code == GraphThetaError.exit_code:
                    _say(f"{ended}: a mistake that would be made again; giving up")
                    return code
                if attempt == self._restarts:
                    _say(f"{ended}; giving up after {counted(attempt, 'restart')}")
                    return code
                wait_s = min(self._wait_s * 2**attempt, _LONGEST_WAIT_S)
                _say(f"{ended}; restart {attempt + 1} of {self._restarts} in {wait_s:g} s")
                if self._stopped.wait(wait_s):
                    return 128 + self._signal
                if attempt == 0 and self._again != self._command:
                    _say(f"starting {shlex.join(self._again)}")
        raise AssertionError("the last attempt returns")

    def _run_once(self, command: Sequence[str]) -> int:
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        if self._signal:  # it came before there was a process
            self._process.send_signal(self._signal)
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    @contextmanager
    def _forwarding(self) -> Iterator[None]:
        """Context in which signals are forwarded, but for those that this process ignores."""
        numbers = [*_STOP, signal.SIGUSR1]
        before = {number: signal.getsignal(number) for number in numbers}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._forward)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number in _STOP:
            self._signal = number
            self._stopped.set()
        is_running = self._process is not None and self._process.poll() is None
        if is_running:
            assert self._process is not None
            self._process.send_signal(number)
        more = "; the job will not be started again" if number in _STOP else ""
        _say(f"{name} {'forwarded to the job' if is_running else 'received'}{more}")


def _say(line: str) -> None:
    os.write(2, f"launch: {line}\n".encode())  # not by print, which a signal may have interrupted
