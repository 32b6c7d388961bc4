"""Checkpoints of a job that runs in phases, so that a killed job can be continued.

A phase writes its files and then a small record of its result, `phase-<name>.json`. A phase that
has a record is not run again. `job.json` describes the job: a different job in the same folder
deletes what it finds and starts from the beginning.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import StoreError
from graphtheta.runtime.atomic import atomic_file, clear_folder, lock_folder

__all__ = ["CheckpointedPhases"]

_JOB = "job.json"


class CheckpointedPhases:
    """Folder of one job and the records of its finished phases; a context manager.

    The constructor is collective. It locks the folder, and leaving the context unlocks it.

    Args:
        folder: The folder, on a file system that all ranks see. It is created if missing.
        job: JSON-serialisable description of the job, the same on every rank. If the folder holds
            phases of the same job, they are reused; if it holds another job, it is emptied.
        comm: The ranks.
        fresh: Whether rank 0 empties the folder even if it holds the same job.

    Attributes:
        folder: Folder for the files of the phases.
        resumed: Whether finished phases of an earlier run were found. Set on rank 0 only.

    Raises:
        StoreError: If another process uses the folder, or not all ranks see it.
    """

    def __init__(
        self, folder: Path, job: dict[str, Any], comm: Communicator, *, fresh: bool = False
    ) -> None:
        self.folder, self._comm = folder, comm
        self._locked = ExitStack()
        self.resumed = False
        try:
            self._enter(job, fresh)
        except BaseException:  # `with` does not call __exit__ if the constructor raises
            self.__exit__()
            raise

    def _enter(self, job: dict[str, Any], fresh: bool) -> None:
        folder, comm = self.folder, self._comm
        if comm.rank == 0:
            self._locked.enter_context(lock_folder(folder, folder))
            text = json.dumps(job, sort_keys=True, indent=1)
            path = folder / _JOB
            if not fresh and path.exists() and path.read_text() == text:
                self.resumed = any(folder.glob("phase-*.json"))
            else:
                path.unlink(missing_ok=True)  # first: without it, nothing is taken for finished
                clear_folder(folder)
                with atomic_file(path) as file:
                    file.write_text(text)
        comm.barrier(stage="phases: open the folder")
        seen = comm.all_gather_int((folder / _JOB).exists(), stage="phases: folder seen by all")
        if not seen.all():
            raise StoreError(
                f"{folder}: expected a folder that every rank sees, got one that only some see. "
                "Choose a folder that all hosts share."
            )

    def phase(self, name: str, run: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Run a phase and return its result, or return that of an earlier run; collective.

        Args:
            name: Name of the phase.
            run: Function that does the work and returns a JSON-serialisable result, or None for an
                empty one. The result of rank 0 is recorded and returned on all ranks.
        """
        path = self.folder / f"phase-{name}.json"
        recorded = np.array([path.exists()], np.int8)
        # The answer of rank 0 counts: a shared file system may show the file to other hosts later.
        self._comm.broadcast(recorded, stage=f"partition: {name}")
        if not recorded[0]:
            result = run() or {}
            pa.default_memory_pool().release_unused()  # what Arrow keeps would add to the next peak
            self._comm.barrier(stage=f"partition: {name}")
            if self._comm.rank == 0:
                with atomic_file(path) as file:
                    file.write_text(json.dumps(result))
        self._comm.barrier(stage=f"partition: {name} recorded")
        result_of_rank_0: dict[str, Any] = json.loads(path.read_text())
        return result_of_rank_0

    def remove(self) -> None:
        """Delete the folder; for rank 0 when the job is complete, for every rank if it failed."""
        with suppress(OSError):
            (self.folder / _JOB).unlink()  # first, as above
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> CheckpointedPhases:
        return self

    def __exit__(self, *_: object) -> None:
        """Unlock the folder."""
        self._locked.close()
