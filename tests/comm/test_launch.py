from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from graphtheta.comm import launch
from graphtheta.comm.launch import Launcher, communicator, guarded, launcher, threads_per_rank
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError, StoreError
from graphtheta.runtime.threads import core_mask
from tests.jobs import LAUNCHERS, MPIEXEC_AND_SLOW_TORCHRUN, run, run_job

_SHELL = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "64", "SLURM_PROCID": "0"}
_INTERACTIVE = _SHELL | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}
_STEP = _SHELL | {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "64"}
_STEP_LAUNCHER = Launcher("SLURM_STEP_NUM_TASKS", 64)
_TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"PMI_SIZE": "4", "PMI_RANK": "1"}, Launcher("PMI_SIZE", 4)),
        ({"PMI_SIZE": "1"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "8"}, Launcher("OMPI_COMM_WORLD_SIZE", 8)),
        ({"PMIX_RANK": "0"}, Launcher("PMIX_RANK", 0)),
        (_SHELL, None),
        (_INTERACTIVE, None),
        (_STEP, _STEP_LAUNCHER),
        (_SHELL | {"SLURM_STEP_ID": "3"}, Launcher("SLURM_NTASKS", 64)),
        (_INTERACTIVE | {"PMI_SIZE": "4"}, Launcher("PMI_SIZE", 4)),
        (_STEP | {"PMI_SIZE": "1"}, None),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1"}, None),
        (_TORCHRUN, Launcher("WORLD_SIZE", 4)),
        (_STEP | _TORCHRUN, Launcher("WORLD_SIZE", 4)),
        (_STEP | {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1"}, _STEP_LAUNCHER),
        ({"WORLD_SIZE": "4"}, None),
    ],
    ids=[
        "nothing",
        "mpiexec",
        "mpiexec_of_one",
        "open_mpi",
        "pmix",
        "sbatch_shell",
        "salloc_shell",
        "srun_step",
        "old_srun_step",
        "mpiexec_in_salloc",
        "mpiexec_of_one_in_srun",
        "torchrun_of_one",
        "torchrun",
        "torchrun_in_srun",
        "many_torchruns_of_one",
        "no_torchrun",
    ],
)
def test_launcher_reads_environment(env: dict[str, str], expected: Launcher | None) -> None:
    assert launcher(env) == expected


def test_communicator_is_single_and_made_once() -> None:
    comm = communicator()
    assert isinstance(comm, SingleCommunicator)
    assert communicator(12.5, check=True) is comm
    assert (comm.timeout_s, comm.check) == (12.5, True)
    assert communicator().timeout_s == 12.5
    communicator(1800, check=False)


def test_threads_per_rank_is_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads_per_rank() >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert threads_per_rank() == 5


def _raise(error: BaseException) -> Callable[[], int]:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "stderr"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (_raise(SystemExit()), 0, ""),
        (_raise(SystemExit(0)), 0, ""),
        (_raise(SystemExit(5)), 5, ""),
        (_raise(SystemExit("words")), 1, "words\n"),
        (_raise(ConfigError("epochs: no.")), 2, "error: epochs: no.\n"),
        (_raise(StoreError("cut short.")), 2, "error: cut short.\n"),
        (_raise(KeyboardInterrupt()), 130, "error: interrupted\n"),
    ],
    ids=["none", "int", "exit", "exit_0", "exit_5", "exit_text", "config", "store", "ctrl_c"],
)
def test_guarded_gives_exit_code_and_one_line(
    main: Callable[[], int | None], code: int, stderr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(main) == code
    assert capsys.readouterr().err == stderr


def test_guarded_prints_traceback_of_unexpected_exceptions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert guarded(_raise(KeyError("a bug"))) == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("Traceback")
    assert stderr.endswith("error: KeyError: 'a bug'\n")


_START = "import sys; from graphtheta.comm.launch import *; sys.exit(guarded(communicator))"


@pytest.mark.spawn
def test_singleton_under_launcher_is_refused_with_remedy() -> None:
    job = run([sys.executable, "-c", _START], env=_STEP)
    assert job.code == 2, job.output
    assert "SLURM_STEP_NUM_TASKS shows 64 workers, but MPI finds 1" in job.output
    assert "srun --mpi=pmi2" in job.output
    assert "Traceback" not in job.output


@pytest.mark.spawn
@pytest.mark.parametrize("env", [_SHELL, _INTERACTIVE], ids=["sbatch", "salloc"])
def test_shell_of_an_allocation_is_no_false_alarm(env: dict[str, str]) -> None:
    program = "from graphtheta.comm.launch import communicator; print(communicator().size)"
    job = run([sys.executable, "-c", program], env=env)
    assert (job.code, job.output) == (0, "1\n")


@pytest.mark.spawn
def test_missing_mpi4py_under_launcher_is_refused_with_remedy() -> None:
    job = run(
        [sys.executable, "-c", f"import sys; sys.modules['mpi4py'] = None; {_START}"], env=_STEP
    )
    assert job.code == 2, job.output
    assert "pip install 'graphtheta[mpi]'" in job.output
    assert "Traceback" not in job.output


@pytest.mark.spawn
def test_torchrun_without_an_address_is_refused_with_remedy() -> None:
    job = run([sys.executable, "-c", _START], env=_TORCHRUN | {"RANK": "0"})
    assert job.code == 2, job.output
    assert "expected 4 ranks that reach each other" in job.output
    assert "GLOO_SOCKET_IFNAME" in job.output
    assert "Traceback" not in job.output


@pytest.mark.spawn
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_mistake_on_all_ranks_is_printed_once(launcher: str) -> None:
    program = (
        "import sys; from graphtheta.comm.launch import guarded, communicator\n"
        "from graphtheta.errors import ConfigError\n"
        "def main(): raise ConfigError('epochs: expected >= 1, got 0.')\n"
        "sys.exit(guarded(main))"
    )
    job = run_job(["-c", program], 3, launcher=launcher)
    assert job.code == (2 if launcher == "mpiexec" else 1)  # torchrun always returns 1
    errors = [line for line in job.output.splitlines() if line.startswith("error: ")]
    assert errors == ["error: rank 0: ConfigError: epochs: expected >= 1, got 0."], job.output


@pytest.mark.spawn
@pytest.mark.parametrize("launcher", MPIEXEC_AND_SLOW_TORCHRUN)
def test_hooks_are_installed_on_request_only(launcher: str) -> None:
    program = (
        "import os, sys, threading, torch.distributed\n"
        "from graphtheta.comm.launch import communicator\n"
        "def state(): return threading.excepthook, os._exit, sys.excepthook\n"
        "before = state(); comm = communicator(); after = state()\n"
        # torch.distributed has an excepthook of its own
        "assert before[:2] == after[:2] and (before == after or 'torchrun' == sys.argv[1])\n"
        "assert communicator(install_hooks=True) is comm\n"
        "hooked = state(); assert not {*after} & {*hooked}\n"
        "communicator(install_hooks=True); assert state() == hooked"
    )
    job = run_job(["-c", program, launcher], 2, launcher=launcher)
    assert job.code == 0, job.output


@pytest.mark.spawn
def test_import_of_launch_loads_neither_torch_nor_mpi() -> None:
    program = (
        "import sys, graphtheta.comm.launch, graphtheta.comm.threads; "
        "print([m for m in ('torch', 'mpi4py', 'numba') if m in sys.modules])"
    )
    assert run([sys.executable, "-c", program]).output == "[]\n"


@pytest.mark.spawn
@pytest.mark.parametrize("launcher", MPIEXEC_AND_SLOW_TORCHRUN)
def test_threads_are_shared_between_ranks_of_a_host(launcher: str) -> None:
    share = max(1, int(core_mask().sum()) // 2)
    program = (
        "import os; os.environ.pop('OMP_NUM_THREADS', None); "  # torchrun sets it
        "import numba, torch; from graphtheta.comm.launch import *; n = tune_rank(); "
        f"assert 1 <= n <= {share}, n; "
        "assert numba.get_num_threads() == torch.get_num_threads() == n"
    )
    job = run_job(["-c", program], 2, launcher=launcher)
    assert job.code == 0, job.output


def test_module_names_are_sorted() -> None:
    assert sorted(launch.__all__) == launch.__all__
