from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from graphtheta.comm import doctor
from graphtheta.comm.doctor import _cgroup_memory_limit, diagnose
from graphtheta.comm.launch import mpi_mismatch
from graphtheta.comm.single import SingleCommunicator
from graphtheta.comm.threads import run_local
from tests.jobs import run, run_job


def test_diagnose_covers_the_installation(tmp_path: Path) -> None:
    found = {f.topic: f for f in diagnose(SingleCommunicator(), cache_dir=tmp_path / "not" / "yet")}
    assert {
        "cache",
        "cores a rank may use",
        "gpus",
        "launcher",
        "memory",
        "mpi",
        "numba threads",
        "packages",
        "python",
        "ranks",
        "slurm",
        "threads per rank",
    } <= found.keys()
    assert found["ranks"].value.startswith("1 on 1 host(s)")
    assert "GiB free" in found["cache"].value
    assert all("\n" not in finding.value for finding in found.values())


def test_diagnose_names_untested_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda name: "99.1" if name == "torch" else "")
    found = {f.topic: f for f in diagnose(SingleCommunicator())}
    assert "torch 99.1 is newer than the tested" in found["packages"].remedy


def test_diagnose_names_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")
    found = {f.topic: f for f in run_local(diagnose, 2)}
    assert found["ranks"].value.startswith("2 on 1 host(s)")
    assert "OMP_NUM_THREADS" in found["threads per rank"].remedy


@pytest.mark.parametrize(
    ("text", "limit"), [("1048576\n", 1 << 20), ("max\n", None), (f"{1 << 62}\n", None)]
)
def test_cgroup_memory_limit_reads_both_versions(
    tmp_path: Path, text: str, limit: int | None
) -> None:
    path = tmp_path / "limit"
    path.write_text(text)
    assert _cgroup_memory_limit((tmp_path / "absent", path)) == limit


OPEN_MPI = "/usr/lib/x86_64-linux-gnu/libmpi.so.40"


@pytest.mark.parametrize(
    ("vendor", "version", "env", "text"),
    [
        ("MPICH", "", {"PMIX_RANK": "0"}, "MPICH under PMIx"),
        ("MPICH", "configure: --with-pmix", {"PMIX_RANK": "0"}, ""),
        ("MPICH", "", {"PMIX_RANK": "0", "PMI_RANK": "0"}, ""),
        ("MPICH", "", {"PMI_RANK": "0"}, ""),
        ("MPICH", "", {}, ""),
        ("Open MPI", "", {"PMI_FD": "7"}, "Open MPI under PMI:"),
        ("Open MPI", "", {"PMIX_RANK": "0"}, ""),
        ("Intel MPI", "", {"PMIX_RANK": "0"}, ""),
    ],
)
def test_library_that_does_not_fit_the_launcher_is_named(
    vendor: str, version: str, env: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = SimpleNamespace(get_vendor=lambda: (vendor, ()), Get_library_version=lambda: version)
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(MPI=fake))
    found = mpi_mismatch(env)
    assert found.startswith(text)
    assert bool(found) == bool(text)


@pytest.mark.spawn
def test_library_that_does_not_fit_is_refused_before_it_ends_the_process() -> None:
    env = {"OMPI_COMM_WORLD_SIZE": "2", "PMIX_RANK": "0", "PMIX_NAMESPACE": "1"}
    job = run([sys.executable, "-m", "graphtheta", "doctor"], env=env)
    assert job.code == 2, job.output
    assert job.output.startswith("error: communicator: OMPI_COMM_WORLD_SIZE shows 2 workers, but ")
    assert "MPICH under PMIx" in job.output
    assert "MPI4PY_LIBMPI" in job.output
    assert job.output.count("\n") == 1


@pytest.mark.spawn
@pytest.mark.skipif(not Path(OPEN_MPI).exists(), reason="Open MPI is not installed")
@pytest.mark.parametrize("library", [OPEN_MPI, None], ids=["its_own", "mpich"])
def test_open_mpi_needs_its_own_library(library: str | None) -> None:
    mpiexec = shutil.which("mpiexec.openmpi") or pytest.skip("no mpiexec of Open MPI")
    chosen = ["-x", f"MPI4PY_LIBMPI={library}"] if library else []
    env = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    program = [sys.executable, "-m", "graphtheta", "doctor"]
    job = run([mpiexec, "--oversubscribe", *chosen, "-n", "2", *program], env=env)
    if library:
        assert job.code == 0, job.output
        assert "2 on 1 host(s)" in job.output
    else:
        assert job.code == 2, job.output
        assert "MPICH under PMIx" in job.output


@pytest.mark.spawn
@pytest.mark.parametrize(
    ("launcher", "said"),
    [
        ("mpiexec", "PMI_SIZE=2"),
        pytest.param("torchrun", "torchrun, WORLD_SIZE=2", marks=pytest.mark.slow),
    ],
)
def test_diagnose_sees_ranks_under_a_launcher(launcher: str, said: str) -> None:
    program = (
        "from graphtheta.comm.launch import communicator; "
        "from graphtheta.comm.doctor import diagnose; comm = communicator(); "
        "found = [f'{f.topic}: {f.value}' for f in diagnose(comm)]; "
        "comm.rank or print(*found, sep='\\n')"
    )
    job = run_job(["-c", program], 2, launcher=launcher)
    assert job.code == 0, job.output
    assert f"launcher: {said}\n" in job.output
    assert "ranks: 2 on 1 host(s)" in job.output
