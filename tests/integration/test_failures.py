"""If rank 1 of three fails in a real job, the job ends soon, with an error that names it."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Sequence
from typing import Any

import pytest

from tests.faults import FAULTS
from tests.jobs import MPIEXEC_AND_SLOW_TORCHRUN, Finished, run_job

pytestmark = pytest.mark.spawn

SLOW = pytest.mark.slow
SOON_S = 8.0  # start-up, the timeout of the job (1 s), its period of grace (1 s), and a margin


def run_toy(fault: str, stage: str, *options: str, launcher: str = "mpiexec") -> Finished:
    program = ["tests/integration/toy_job.py", fault, stage, *options]
    return run_job(program, 3, launcher=launcher, timeout_s=60)


STAGES = ("epoch 3 sync", "epoch 3 loss", "predict")
FAILURES = {
    "raise": (1, ["Traceback", "ValueError: boom"]),
    "raise_known": (2, ["StoreError: part-00001: cut short."]),
    "exit_5": (5, ["SystemExit: 5"]),
    "os_exit_0": (1, ["os._exit(0) before the end of the job"]),
    "os_exit_3": (3, ["os._exit(3) before the end of the job"]),
    "thread": (1, ["Traceback", "ZeroDivisionError: in a thread"]),
}


def diagonal(*axes: Sequence[Any]) -> list[Any]:
    """Return all combinations; those where not every value of the first axis is new are slow."""
    fast = {tuple(axis[i % len(axis)] for axis in axes) for i in range(max(map(len, axes)))}
    return [
        case if case in fast else pytest.param(*case, marks=SLOW)
        for case in itertools.product(*axes)
    ]


@pytest.mark.parametrize(("fault", "stage"), diagonal(list(FAILURES), STAGES))
def test_failing_rank_ends_the_job_immediately(fault: str, stage: str) -> None:
    code, words = FAILURES[fault]
    job = run_toy(fault, stage)
    assert job.code == code, job.output
    last = {
        "epoch 3 sync": "epoch 2 loss",
        "epoch 3 loss": "epoch 3 sync",
        "predict": "epoch 4 loss",
    }
    assert f"error: rank 1 (last in '{last[stage]}'): " in job.output
    assert all(word in job.output for word in words), job.output
    assert "finished" not in job.output
    if fault == "raise_known":  # a user's mistake: one line
        assert "Traceback" not in job.output
        assert job.output.count("error: ") == 1
    assert job.seconds < SOON_S


@pytest.mark.parametrize(
    ("fault", "options", "stage"),
    diagonal(
        ["kill", "segfault"], ["", "--unguarded"], ["epoch 0 sync", "epoch 3 sync", "epoch 3 loss"]
    ),
)
def test_killed_rank_is_named_immediately(fault: str, options: str, stage: str) -> None:
    job = run_toy(fault, stage, *options.split())
    assert job.code != 0, job.output
    last = {"epoch 3 sync": "epoch 2 loss", "epoch 3 loss": "epoch 3 sync"}.get(stage)
    where = f" (last in '{last}')" if last else ""
    errors = [line for line in job.output.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: rank 1{where}: killed or crashed on {platform.node()}"], job.output
    assert "finished" not in job.output
    assert job.seconds < SOON_S


@pytest.mark.parametrize("what", ["exchange", pytest.param("collective", marks=SLOW)])
def test_lost_rank_is_named_before_those_that_notice_it(what: str) -> None:
    # Over TCP, MPI notices that a rank is gone. Its errors do not name the rank.
    program = ["tests/comm/lost_rank_job.py", what]
    job = run_job(program, 3, env={"UCX_TLS": "tcp,self"})
    assert job.code != 0
    errors = [line for line in job.output.splitlines() if line.startswith("error: ")]
    assert errors[0].startswith("error: rank 1 (last in "), job.output
    assert all("rank 1" in error for error in errors), job.output
    assert not any(word in job.output for word in ("Traceback", "Segmentation")), job.output


@pytest.mark.parametrize(
    ("fault", "stage", "words"),
    [
        ("stop", "epoch 3 loss", ["0, 2 wait in 'epoch 3 loss'; rank 1 did not arrive"]),
        ("stop", "epoch 3 sync", ["waits in 'epoch 3 sync'", "rank 1 did not arrive"]),
        ("loop", "epoch 3 loss", ["rank 1 did not arrive", "in _loop_forever"]),
        ("elsewhere", "epoch 3 loss", ["'epoch 3 loss'", "rank 1 waits in 'recovery'"]),
        ("exit_0", "epoch 3 sync", ["'epoch 3 sync'", "rank 1 waits in 'end of the job'"]),
        ("exit_0", "epoch 3 loss", ["'epoch 3 loss'", "rank 1 waits in 'end of the job'"]),
    ],
)
def test_lost_rank_is_named_after_the_timeout(fault: str, stage: str, words: list[str]) -> None:
    job = run_toy(fault, stage)
    assert job.code == 75, job.output
    assert all(word in job.output for word in ["error: rank ", "ExchangeTimeout", *words]), (
        job.output
    )
    assert "finished" not in job.output
    assert job.seconds < SOON_S


@pytest.mark.parametrize(
    ("stage", "options"), diagonal(["epoch 3 sync", "epoch 3 loss"], ["", "--check"])
)
def test_skipped_operation_is_found(stage: str, options: str) -> None:
    job = run_toy("skip", stage, *options.split())
    assert job.code == (2 if "CollectiveMismatch" in job.output else 75), job.output
    assert "CollectiveMismatch" in job.output or "ExchangeTimeout" in job.output
    assert "rank 1" in job.output
    assert "epoch " in job.output
    assert "finished" not in job.output
    assert job.seconds < SOON_S


@pytest.mark.parametrize("stage", ["epoch 3 sync", pytest.param("epoch 3 loss", marks=SLOW)])
def test_slow_rank_is_not_a_dead_one(stage: str) -> None:
    job = run_toy("slow", stage)
    assert (job.code, job.output) == (0, "finished\n")


@pytest.mark.parametrize(
    ("fault", "options", "codes", "words"),
    [
        ("raise", "", {1}, ["ValueError: boom", "error: rank 1 (last in 'epoch 3 sync')"]),
        ("exit_5", "", {75}, ["'epoch 3 loss'", "rank 1 waits in 'end of the job'"]),
        # The rank's own code, or that of the signal by which mpiexec ended the others.
        ("os_exit_3", "", {3, 9}, ["error: rank 1 (last in 'epoch 3 sync'): killed or crashed"]),
        ("thread", "", {75}, ["ZeroDivisionError: in a thread", "rank 1 did not arrive"]),
        ("raise", "--hooks", {1}, ["ValueError: boom", "error: rank 1 (last in 'epoch 3 sync')"]),
        ("exit_5", "--hooks", {75}, ["'epoch 3 loss'", "rank 1 waits in 'end of the job'"]),
        ("os_exit_0", "--hooks", {1}, ["rank 1 (last in 'epoch 3 sync'): os._exit(0)"]),
        ("thread", "--hooks", {1}, ["rank 1 (last in 'epoch 3 sync'): ZeroDivisionError"]),
    ],
)
def test_script_without_guard_ends_too(
    fault: str, options: str, codes: set[int], words: list[str]
) -> None:
    job = run_toy(fault, "epoch 3 loss", "--unguarded", *options.split())
    assert job.code in codes, job.output
    assert all(word in job.output for word in words), job.output
    assert job.seconds < SOON_S


@pytest.mark.parametrize("launcher", MPIEXEC_AND_SLOW_TORCHRUN)
def test_sound_job_succeeds(launcher: str) -> None:
    job = run_toy("raise", "no such stage", "--check", launcher=launcher)
    assert job.code == 0, job.output
    assert "finished\n" in job.output
    assert "rror" not in job.output


# Under torchrun the exit code is always 1, and torchrun's own report comes after ours.

STACK = ["stack of rank 1", "ExchangeTimeout", "rank 1 did not arrive"]


@pytest.mark.parametrize(
    ("fault", "stage", "options", "words"),
    [
        (
            "raise",
            "epoch 3 sync",
            "",
            ["Traceback", "1 (last in 'epoch 2 loss'): ValueError: boom"],
        ),
        ("kill", "epoch 3 loss", "", ["rank 1 (last in 'epoch 3 sync'): killed or crashed on "]),
        *(
            pytest.param(*case, marks=SLOW)
            for case in [
                ("stop", "epoch 3 sync", "", [*STACK, "0, 2 wait in 'epoch 3 sync' for rank 1"]),
                ("exit_0", "epoch 3 loss", "", ["ExchangeTimeout", "waits in 'end of the job'"]),
                ("exit_5", "predict", "", ["rank 1 (last in 'epoch 4 loss'): SystemExit: 5"]),
                ("skip", "epoch 3 sync", "", ["ExchangeTimeout", "waits in 'epoch 3 loss'"]),
                ("raise", "epoch 3 loss", "--unguarded", ["ValueError: boom"]),
                ("raise_known", "epoch 3 sync", "", ["StoreError: part-00001: cut short."]),
                ("os_exit_0", "epoch 3 sync", "", ["rank 1 (last in 'epoch 2 loss'): os._exit(0)"]),
                ("os_exit_3", "epoch 3 loss", "", ["rank 1 (last in 'epoch 3 sync'): os._exit(3)"]),
                ("segfault", "epoch 3 sync", "", ["rank 1 (last in 'epoch 2 loss'): killed or cr"]),
                ("thread", "epoch 3 sync", "", ["1 (last in 'epoch 2 loss'): ZeroDivisionError"]),
                ("loop", "epoch 3 loss", "", [*STACK, "in _loop_forever"]),
                ("elsewhere", "epoch 3 loss", "", ["rank 1 waits in 'recovery' for rank 2"]),
                ("exit_5", "epoch 3 loss", "--unguarded", ["rank 1 waits in 'end of the job'"]),
                ("os_exit_0", "epoch 3 loss", "--unguarded", ["killed or crashed"]),
                ("os_exit_0", "epoch 3 loss", "--unguarded --hooks", ["os._exit(0) before"]),
                ("thread", "epoch 3 loss", "--unguarded --hooks", ["1 (last in 'epoch 3 sync')"]),
                ("kill", "epoch 3 loss", "--unguarded", ["rank 1 (last in 'epoch 3 sync'): kill"]),
            ]
        ),
    ],
)
def test_torchrun_job_ends_with_the_first_failure(
    fault: str, stage: str, options: str, words: list[str]
) -> None:
    job = run_toy(fault, stage, *options.split(), launcher="torchrun")
    assert job.code == 1, job.output
    assert all(word in job.output for word in words), job.output
    errors = [line for line in job.output.splitlines() if line.startswith("error: ")]
    assert any(word in errors[0] for word in words), job.output
    assert "finished" not in job.output
    assert job.seconds < 4 * SOON_S  # torch loads in each rank, and the machine may be shared


@SLOW
def test_torchrun_slow_rank_is_not_a_dead_one() -> None:
    job = run_toy("slow", "epoch 3 sync", launcher="torchrun")
    assert job.code == 0, job.output
    assert "finished\n" in job.output


def test_every_fault_is_tested() -> None:
    tested = {"elsewhere", "exit_0", "exit_5", "kill", "loop", "os_exit_0", "os_exit_3", "raise"}
    assert tested | {"raise_known", "segfault", "skip", "slow", "stop", "thread"} == FAULTS.keys()
