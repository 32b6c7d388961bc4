"""The folder in which a store is made, phase by phase, so that a killed run can go on.

A phase leaves files and, last, a small record of its result; a phase with a record is not run
again. What the run is of stands in `job.json`: another job in the same folder starts clean.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import StoreError
from graphtheta.runtime.atomic import atomic_file

__all__ = ["CheckpointedPhases"]

_JOB = "job.json"


class CheckpointedPhases:
    """A folder of its own for one job, to be used in a `with` statement. Making it is collective.

    Args:
        folder: Made if it is not there; on a file system that all ranks see.
        job: What is done, ready for JSON; the same on every rank. A folder of the same job is gone
            on with, one of another is emptied first.
        comm: The ranks.
        fresh: Whether rank 0 starts clean in any case.

    Attributes:
        folder: Where phases keep their files.
        resumed: Whether phases of an earlier run are there.

    Raises:
        StoreError: If another process is at work there, or ranks do not see the folder.
    """

    def __init__(
        self, folder: Path, job: dict[str, Any], comm: Communicator, *, fresh: bool = False
    ) -> None:
        self.folder, self._comm = folder, comm
        self._lock: BinaryIO | None = None
        self.resumed = False
        try:
            self._enter(job, fresh)
        except BaseException:  # another rank's failure, too: nobody will leave what was not entered
            self.__exit__()
            raise

    def _enter(self, job: dict[str, Any], fresh: bool) -> None:
        folder, comm = self.folder, self._comm
        if comm.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
            text = json.dumps(job, sort_keys=True, indent=1)
            known = folder / _JOB
            if not fresh and known.exists() and known.read_text() == text:
                self.resumed = any(folder.glob("phase-*.json"))
            else:
                _empty(folder)
                with atomic_file(known) as file:
                    file.write_text(text)
        comm.barrier(stage="scratch")
        if not comm.all_gather_int((folder / _JOB).exists(), stage="scratch: seen by all").all():
            raise StoreError(
                f"{folder}: expected a folder that every rank sees, got one that only some see. "
                "Name a place that all hosts share."
            )

    def phase(self, name: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run a phase, or return what it returned in an earlier run; collective.

        Args:
            name: Of the phase.
            run: Does it; its result is ready for JSON. That of rank 0 is kept.
        """
        path = self.folder / f"phase-{name}.json"
        recorded = np.array([path.exists()], np.int8)
        self._comm.broadcast(recorded, stage=f"partition: {name}")  # other hosts may see it later
        if not recorded[0]:
            result = run()
            self._comm.barrier(stage=f"partition: {name}")
            if self._comm.rank == 0:
                with atomic_file(path) as file:
                    file.write_text(json.dumps(result))
        self._comm.barrier(stage=f"partition: {name} recorded")
        done: dict[str, Any] = json.loads(path.read_text())
        return done

    def __enter__(self) -> CheckpointedPhases:
        return self

    def __exit__(self, *_: object) -> None:
        """Let others work there."""
        if self._lock is not None:
            self._lock.close()


def _locked(folder: Path) -> BinaryIO:
    file = (folder / "lock").open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise StoreError(
            f"{folder}: expected no other run to make the same store, got one at work. "
            "Wait for it, or name another path."
        ) from None
    return file


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()
