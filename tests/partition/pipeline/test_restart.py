"""Killed runs: they can be continued, and leave no store that opens before it is complete."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graphtheta.errors import StoreError
from graphtheta.partition import Plan, make_store, open_store
from graphtheta.partition.ooc.checkpointed_phases import CheckpointedPhases
from tests.graphs import power_law, to_graph
from tests.jobs import run_job
from tests.kills import Killed
from tests.partition.sources import by_id

GRAPH = to_graph(power_law(60, 300), text_ids=True)
PLAN = Plan(3, "dbh", undirected=True, repeats=False)
EDGE_CUT = Plan(3, "fennel")
PHASES = [
    "ids", "edges", "duplicates", "assign", "shuffle", "replicas", "masters", "order",
    "local-ids", "parts", "index",
]  # fmt: skip
SOME_PHASES = ["ids", "shuffle", "index"]

# Makes a store; is killed at the end of a phase, before or after its record, or within the parts.
JOB = """
import os, signal, sys
from graphtheta.comm.launch import communicator, guarded
from graphtheta.partition import Resources, make_store
from graphtheta.partition.ooc.checkpointed_phases import CheckpointedPhases
from graphtheta.partition.pipeline import pipeline
from tests.partition.pipeline.test_restart import GRAPH, PLAN, by_id

path, last, when = sys.argv[1:4]
comm = communicator()
ran = []
phase = CheckpointedPhases.phase

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def killed(self, name, run):
    def noted():
        ran.append(name)
        result = run()
        if (name, when, comm.rank) == (last, "before", 0):
            die()
        return result
    result = phase(self, name, noted)
    if (name, when, comm.rank) == (last, "after", 0):
        die()
    return result

CheckpointedPhases.phase = killed
if when == "within":
    write_folder = pipeline.write_folder
    def broken(folder, *args, **options):
        if folder.name == "part-00002":
            folder.mkdir()
            (folder / "masters.arrow").write_text("truncated")
            die()
        write_folder(folder, *args, **options)
    pipeline.write_folder = broken

def main():
    make_store(by_id(GRAPH), path, PLAN, Resources(comm))
    print("ran", *ran)

sys.exit(guarded(main))
"""


def make(path: Path, phase: str, when: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", JOB, str(path), phase, when],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(by_id(GRAPH), tmp_path_factory.mktemp("whole") / "store", PLAN).checksum


@pytest.mark.spawn
@pytest.mark.parametrize(
    ("phase", "when"),
    [
        *((phase, "before") for phase in SOME_PHASES),
        *(
            pytest.param(phase, "before", marks=pytest.mark.slow)
            for phase in PHASES
            if phase not in SOME_PHASES
        ),
        *(pytest.param(phase, "after", marks=pytest.mark.slow) for phase in PHASES),
        ("parts", "within"),
    ],
)
def test_killed_run_is_continued(phase: str, when: str, whole: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    killed = make(path, phase, when)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for folder in (path, tmp_path / ".store.partial", tmp_path / ".store.partial" / "store"):
        with pytest.raises(StoreError):
            open_store(folder)
    done = make(path, "none", "never")
    assert done.returncode == 0, done.stderr
    at = PHASES.index(phase) + (when == "after")
    assert done.stdout.split() == ["ran", *PHASES[at:]]
    store = open_store(path)
    store.verify()
    assert store.checksum == whole
    assert [entry.name for entry in tmp_path.iterdir()] == ["store"]


@pytest.mark.spawn
@pytest.mark.parametrize(("phase", "when"), [("order", "after"), ("parts", "within")])
def test_killed_edge_cut_is_continued_in_a_folder(phase: str, when: str, tmp_path: Path) -> None:
    code = JOB.replace(", PLAN, Resources(comm)", ", EDGE_CUT, Resources(comm), scratch=scratch_at")
    code = code.replace("import GRAPH, PLAN", "import GRAPH, EDGE_CUT").replace(
        "path, last, when = sys.argv[1:4]", "path, last, when, scratch_at = sys.argv[1:5]"
    )
    store, elsewhere = tmp_path / "made" / "store", tmp_path / "scratch"
    codes = []
    for words in ((phase, when), ("none", "never")):
        command = [sys.executable, "-c", code, str(store), *words, str(elsewhere)]
        codes.append(subprocess.run(command, timeout=120, check=False).returncode)
    assert codes == [-signal.SIGKILL, 0]
    expected = make_store(by_id(GRAPH), tmp_path / "expected", EDGE_CUT)
    assert open_store(store).checksum == expected.checksum
    assert [entry.name for entry in store.parent.iterdir()] == ["store"]
    assert not list(elsewhere.iterdir())


def test_other_job_starts_from_the_beginning(whole: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    killed = make(path, "masters", "after")
    assert killed.returncode == -signal.SIGKILL
    other = Plan(3, "dbh", undirected=True, repeats=False, seed=1)
    store = make_store(by_id(GRAPH), path, other)
    assert store.checksum != whole
    expected = make_store(by_id(GRAPH), tmp_path / "expected", other)
    assert store.checksum == expected.checksum
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["expected", "store"]


def test_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    from graphtheta.comm.single import SingleCommunicator

    path = tmp_path / "store"
    with CheckpointedPhases(tmp_path / ".store.partial" / "scratch", {}, SingleCommunicator()):
        with pytest.raises(StoreError, match="expected no other run that writes it"):
            make_store(GRAPH, path, PLAN)
        assert (tmp_path / ".store.partial" / "scratch" / "job.json").exists()
    make_store(GRAPH, path, PLAN).verify()


@pytest.mark.spawn
@pytest.mark.slow
@pytest.mark.parametrize("phase", ["edges", "shuffle", "parts"])
def test_killed_rank_ends_the_job_and_the_next_run_continues(
    phase: str, whole: str, tmp_path: Path
) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    path = tmp_path / "made" / "store"
    killed = run_job([script, str(path), phase, "before"], 2, timeout_s=90)
    assert killed.code != 0
    done = run_job([script, str(path), "none", "never"], 2, timeout_s=90)
    assert done.code == 0, done.output
    assert open_store(path).checksum == whole
    assert [entry.name for entry in path.parent.iterdir()] == ["store"]


@pytest.mark.parametrize("scratch", [None, "scratch"])
def test_failed_run_that_is_killed_while_it_cleans_up_is_repeated(
    scratch: str | None, whole: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are left without others are not taken for those of finished phases."""

    def fail(*_: object) -> None:
        patch.setattr("shutil.rmtree", kill)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def kill(folder: Path, **_: object) -> None:
        for file in [file for file in folder.rglob("*") if file.suffix in (".arrow", ".records")]:
            file.unlink()
        raise Killed

    path, at = tmp_path / "made" / "store", scratch and tmp_path / scratch
    with monkeypatch.context() as patch:
        patch.setattr("graphtheta.partition.pipeline.make_store.write_description", fail)
        with pytest.raises(Killed):
            make_store(by_id(GRAPH), path, PLAN, scratch=at)
    store = make_store(by_id(GRAPH), path, PLAN, scratch=at)
    store.verify()
    assert store.checksum == whole
