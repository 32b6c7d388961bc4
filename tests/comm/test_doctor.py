from __future__ import annotations

from pathlib import Path

import pytest

from graphtheta.comm import doctor
from graphtheta.comm.doctor import _cgroup_memory_limit, diagnose
from graphtheta.comm.single import SingleCommunicator
from graphtheta.comm.threads import run_local
from tests.jobs import run_job


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


@pytest.mark.spawn
@pytest.mark.parametrize(
    ("launcher", "said"), [("mpiexec", "PMI_SIZE=2"), ("torchrun", "torchrun, WORLD_SIZE=2")]
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
