"""Commands killed at any file operation: the rerun gives the same, and leaves no debris."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from graphtheta.cli import main
from tests.integration.cli import elsewhere, write_tables  # noqa: F401
from tests.kills import watch_files

NUM_SAMPLES = 3  # kills of each command; the slow test has all
PER_PROCESS = ("cache/kernels", "torchinductor_")  # the first run of this process makes them
NUM_SHARES = 4  # of the slow test, which run in parallel


@dataclass(frozen=True)
class Case:
    """A command, and what it needs.

    Attributes:
        words: The command.
        rerun: Words that the second run has in addition.
        needs: Folders of the fixture that it reads or changes.
    """

    words: str
    rerun: str = ""
    needs: str = "tables"


CASES = {
    "train": Case(
        "train store --model gcn --hidden 4 --embedding 3 --epochs 3 --checkpoint-every 1 "
        "--run-dir run --no-progress",
        "--resume",
        "store",
    ),
    "train from tables": Case(
        "train tables --model gcn --hidden 4 --epochs 1 --run-dir run --no-progress", "--resume"
    ),
    "partition": Case("partition tables out/store --parts 2 --method hdrf"),
    "partition with scratch": Case("partition tables store2 --parts 2 --scratch scratch"),
    "assignment": Case("partition tables out --parts 2 --assignment-only"),
    "predict": Case("predict run store --out predictions", "", "run store"),
    "export to pyg": Case("export pyg store out", "", "store"),
    "export to dgl-chunked": Case("export dgl-chunked store out", "", "store"),
    "generate": Case("datasets make communities out --nodes 60 --features 2 --group-size 10"),
    "communities": Case("communities store --method multilevel --count 2", "", "store"),
}


def run(words: str) -> int:
    return main(words.split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tables, a store and a trained run."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GRAPHTHETA_CACHE", str(folder / "cache"))
        assert run("datasets make communities tables --nodes 60 --features 2 --group-size 10") == 0
        assert run("partition tables store --parts 1 --method node-hash") == 0
        assert run("train store --model gcn --hidden 4 --epochs 1 --run-dir run --no-progress") == 0
    return folder


def content(folder: Path) -> dict[str, str]:
    """Return what must be the same after every run: not times, and what a process keeps."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "/events" in name or name.startswith(PER_PROCESS) or name == "cache":
            continue
        found[name] = "a folder"
        if path.name in ("summary.json", "progress.json", "files.json"):
            found[name] = "a file with times"
        elif path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = str([{**line, "seconds": 0} for line in lines])
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


class Campaign:
    """Runs of one command in folders of their own, to be killed at different operations."""

    def __init__(self, case: Case, made: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.case, self.made, self.folder, self.patch = case, made, folder, patch
        at = self.new("whole")
        with watch_files(at) as watch:
            assert run(case.words) == 0
        self.expected, self.operations = content(at), watch.count

    def new(self, name: str) -> Path:
        at = self.folder / name
        at.mkdir()
        for need in self.case.needs.split():
            shutil.copytree(self.made / need, at / need)
        self.patch.chdir(at)
        self.patch.setenv("GRAPHTHETA_CACHE", str(at / "cache"))
        self.patch.setattr("tempfile.tempdir", str(at))
        return at

    def kill(self, operation: int, torn: bool) -> None:
        at = self.new(f"{operation}-{torn}")
        with watch_files(at, operation, torn=torn) as watch:
            code = run(self.case.words)
        assert code != 0 or not watch.killed
        code = run(f"{self.case.words} {self.case.rerun}")
        assert code == 0 or (code, content(at)) == (2, self.expected)  # it was complete already
        assert content(at) == self.expected
        shutil.rmtree(at)


@pytest.fixture
def campaign(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Case], Campaign]:
    return lambda case: Campaign(case, made, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_killed_command_is_repeated(name: str, campaign: Callable[[Case], Campaign]) -> None:
    killed = campaign(CASES[name])
    last = killed.operations
    for sample in range(NUM_SAMPLES):
        killed.kill(1 + sample * (last - 1) // (NUM_SAMPLES - 1), torn=True)


@pytest.mark.slow
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("share", range(NUM_SHARES))
@pytest.mark.parametrize("name", CASES)
def test_command_that_is_killed_anywhere_is_repeated(
    name: str, share: int, torn: bool, campaign: Callable[[Case], Campaign]
) -> None:
    killed = campaign(CASES[name])
    for operation in range(1 + share, killed.operations + 1, NUM_SHARES):
        killed.kill(operation, torn)
