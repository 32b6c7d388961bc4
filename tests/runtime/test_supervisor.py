"""The supervisor starts a failed command again, and forwards signals to it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from graphtheta.cli import main
from graphtheta.runtime import supervisor
from graphtheta.runtime.supervisor import Supervisor

# Adds a line to `file`, and ends with the code that is given for this line.
SCRIPT = 'echo "$1" >>file; shift; shift $(($(wc -l <file) - 1)); exit $1'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shell(script: str, *words: object) -> list[str]:
    return ["sh", "-c", script, "sh", *map(str, words)]


def run(*codes: int, restarts: int = 2) -> int:
    first, again = (shell(SCRIPT, word, *codes) for word in ("first", "again"))
    return Supervisor(first, again, restarts, wait_s=0.01).run()


@pytest.mark.parametrize(
    ("codes", "starts", "line"),
    [
        ((0,), 1, "starting sh"),
        ((9, 75, 0), 3, "the job ended with exit code 75 after 0 s; restart 2 of 2 in 0.02 s"),
        ((1, 9, 137), 3, "the job ended with exit code 137 after 0 s; giving up after 2 restarts"),
        ((1, 2), 2, "exit code 2 after 0 s: a mistake that would be made again; giving up"),
    ],
)
def test_failures_are_tried_again_but_mistakes_are_not(
    codes: tuple[int, ...], starts: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(*codes) == codes[-1]
    assert Path("file").read_text().split() == ["first", *["again"] * (starts - 1)]
    errors = capfd.readouterr().err.splitlines()
    assert all(text.startswith("launch: ") for text in errors)
    assert any(line in text for text in errors), errors


def test_exit_code_of_a_killed_command() -> None:
    assert Supervisor(shell("kill -9 $$"), [], 0).run() == 137


def signal_when(path: Path, *numbers: int) -> threading.Thread:
    """Start a thread that sends signals to this process when a file exists."""

    def send() -> None:
        for number in numbers:
            while not path.exists():
                time.sleep(0.01)
            path.unlink()
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_signals_are_forwarded_and_a_stop_is_final(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    script = (
        "trap 'echo got USR1; touch ready' USR1; trap 'echo got TERM; exit 143' TERM; "
        "touch ready; while true; do sleep 0.01; done"
    )
    thread = signal_when(Path("ready"), signal.SIGUSR1, signal.SIGTERM)
    assert Supervisor(shell(script), shell("exit 0"), 3).run() == 143
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    out, errors = capfd.readouterr()
    assert out.split("\n") == ["got USR1", "got TERM", ""]
    assert errors.splitlines()[1:] == [
        "launch: SIGUSR1 forwarded to the job",
        "launch: SIGTERM forwarded to the job; the job will not be started again",
    ]


def test_a_stop_ends_the_wait_before_a_restart(capfd: pytest.CaptureFixture[str]) -> None:
    thread = signal_when(Path("failed"), signal.SIGTERM)
    script = "(sleep 0.1; touch failed) & exit 1"  # after the end of the job
    assert Supervisor(shell(script), shell("exit 0"), 3, wait_s=20).run() == 143
    thread.join()
    assert "SIGTERM received; the job will not be started again" in capfd.readouterr().err


def test_command_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    given: list[tuple[Any, ...]] = []

    class Recorded:
        def __init__(self, *arguments: Any) -> None:
            given.append(arguments)

        def run(self) -> int:
            return 9

    monkeypatch.setattr(supervisor, "Supervisor", Recorded)
    words = ["launch", "-n", "2", "--restarts", "5", "--mpiexec", "env -u A", "train", "store"]
    assert main([*words, "--epochs", "3"]) == 9
    start = ["env", "-u", "A", "-n", "2", sys.executable, "-m", "graphtheta"]
    program = [*start, "train", "store", "--epochs", "3"]
    assert given.pop() == (program, [*program, "--resume", "auto"], 5)
    assert main([*words, "--resume", "auto"]) == 9
    _, again, _ = given.pop()
    assert again == [*start, "train", "store", "--resume", "auto"]
    assert main(["launch", "-n", "2", "--mpiexec", "no-such", "train"]) == 2
    assert "--mpiexec: expected a command" in capfd.readouterr().err
