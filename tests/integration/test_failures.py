"""Rank 1 of three goes wrong in a real job: it ends, soon, non-zero, and says who and where."""

from __future__ import annotations

import platform

import pytest

from tests.faults import FAULTS
from tests.jobs import LAUNCHERS, Finished, run_job

pytestmark = pytest.mark.spawn

SOON_S = 8.0  # start-up, the timeout of the job (1 s), its period of grace (1 s), and a margin


def run_toy(fault: str, stage: str, *options: str, launcher: str = "mpiexec") -> Finished:
    program = ["tests/integration/toy_job.py", fault, stage, *options]
    return run_job(program, 3, launcher=launcher, timeout_s=60)


@pytest.mark.parametrize("stage", ["epoch 3 sync", "epoch 3 loss", "predict"])
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("raise", 1, ["Traceback", "ValueError: boom"]),
        ("raise_known", 2, ["StoreError: part-00001: cut short."]),
        ("exit_5", 5, ["SystemExit: 5"]),
        ("os_exit_0", 1, ["os._exit(0) before the end of the job"]),
        ("os_exit_3", 3, ["os._exit(3) before the end of the job"]),
        ("thread", 1, ["Traceback", "ZeroDivisionError: in a thread"]),
    ],
)
def test_failing_rank_ends_the_job_at_once(
    fault: str, code: int, words: list[str], stage: str
) -> None:
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
    assert job.seconds < SOON_S


def test_known_error_is_one_line() -> None:
    job = run_toy("raise_known", "epoch 3 sync")
    assert "Traceback" not in job.output
    assert job.output.count("error: ") == 1


@pytest.mark.parametrize(
    ("stage", "last"),
    [("epoch 0 sync", ""), ("epoch 3 sync", "epoch 2 loss"), ("epoch 3 loss", "epoch 3 sync")],
)
@pytest.mark.parametrize("options", [(), ("--unguarded",)], ids=["guarded", "unguarded"])
@pytest.mark.parametrize("fault", ["kill", "segfault"])
def test_killed_rank_is_named_at_once(
    fault: str, options: tuple[str, ...], stage: str, last: str
) -> None:
    job = run_toy(fault, stage, *options)
    assert job.code != 0, job.output
    where = f" (last in '{last}')" if last else ""
    errors = [line for line in job.output.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: rank 1{where}: killed or crashed on {platform.node()}"], job.output
    assert "finished" not in job.output
    assert job.seconds < SOON_S


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
    assert job.code == 2, job.output
    assert all(word in job.output for word in ["error: rank ", "ExchangeTimeout", *words]), (
        job.output
    )
    assert "finished" not in job.output
    assert job.seconds < SOON_S


@pytest.mark.parametrize("stage", ["epoch 3 sync", "epoch 3 loss"])
@pytest.mark.parametrize("options", [(), ("--check",)], ids=["unchecked", "checked"])
def test_skipped_operation_is_found(stage: str, options: tuple[str, ...]) -> None:
    job = run_toy("skip", stage, *options)
    assert job.code == 2, job.output
    assert "CollectiveMismatch" in job.output or "ExchangeTimeout" in job.output
    assert "rank 1" in job.output
    assert "epoch " in job.output
    assert "finished" not in job.output
    assert job.seconds < SOON_S


@pytest.mark.parametrize("stage", ["epoch 3 sync", "epoch 3 loss"])
def test_slow_rank_is_not_a_dead_one(stage: str) -> None:
    job = run_toy("slow", stage)
    assert (job.code, job.output) == (0, "finished\n")


@pytest.mark.parametrize(
    ("fault", "options", "code", "words"),
    [
        ("raise", "", 1, ["ValueError: boom", "error: rank 1 (last in 'epoch 3 sync')"]),
        ("exit_5", "", 2, ["'epoch 3 loss'", "rank 1 waits in 'end of the job'"]),
        ("os_exit_3", "", 9, ["error: rank 1 (last in 'epoch 3 sync'): killed or crashed"]),
        ("thread", "", 2, ["ZeroDivisionError: in a thread", "rank 1 did not arrive"]),
        ("raise", "--hooks", 1, ["ValueError: boom", "error: rank 1 (last in 'epoch 3 sync')"]),
        ("exit_5", "--hooks", 2, ["'epoch 3 loss'", "rank 1 waits in 'end of the job'"]),
        ("os_exit_0", "--hooks", 1, ["rank 1 (last in 'epoch 3 sync'): os._exit(0)"]),
        ("thread", "--hooks", 1, ["rank 1 (last in 'epoch 3 sync'): ZeroDivisionError"]),
    ],
)
def test_script_without_guard_ends_too(
    fault: str, options: str, code: int, words: list[str]
) -> None:
    job = run_toy(fault, "epoch 3 loss", "--unguarded", *options.split())
    assert job.code == code, job.output
    assert all(word in job.output for word in words), job.output
    assert job.seconds < SOON_S


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_sound_job_succeeds(launcher: str) -> None:
    job = run_toy("raise", "no such stage", "--check", launcher=launcher)
    assert job.code == 0, job.output
    assert "finished\n" in job.output
    assert "rror" not in job.output


# Under torchrun the exit code is always 1, and torchrun's own report comes after ours.

STACK = ["stack of rank 1", "ExchangeTimeout", "rank 1 did not arrive"]
SLOW = pytest.mark.slow


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
        ("exit_0", "epoch 3 loss", "", ["ExchangeTimeout", "rank 1 waits in 'end of the job'"]),
        ("exit_5", "predict", "", ["rank 1 (last in 'epoch 4 loss'): SystemExit: 5"]),
        ("stop", "epoch 3 sync", "", [*STACK, "0, 2 wait in 'epoch 3 sync' for rank 1"]),
        ("skip", "epoch 3 sync", "", ["ExchangeTimeout", "rank 1 waits in 'epoch 3 loss'"]),
        ("raise", "epoch 3 loss", "--unguarded", ["1 (last in 'epoch 3 sync'): ValueError: boom"]),
        *(
            pytest.param(*case, marks=SLOW)
            for case in [
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


def test_torchrun_slow_rank_is_not_a_dead_one() -> None:
    job = run_toy("slow", "epoch 3 sync", launcher="torchrun")
    assert job.code == 0, job.output
    assert "finished\n" in job.output


def test_every_fault_is_tested() -> None:
    tested = {"elsewhere", "exit_0", "exit_5", "kill", "loop", "os_exit_0", "os_exit_3", "raise"}
    assert tested | {"raise_known", "segfault", "skip", "slow", "stop", "thread"} == FAULTS.keys()
