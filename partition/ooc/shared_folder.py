"""Folder that all ranks write together, and that appears when it is complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from graphtheta.comm.communicator import Communicator
from graphtheta.errors import GraphThetaError, StoreError
from graphtheta.runtime.atomic import atomic_folder, disk_errors

__all__ = ["shared_folder"]


@contextmanager
def shared_folder(
    path: Path, comm: Communicator, what: str, error: type[GraphThetaError] = StoreError
) -> Iterator[Path]:
    """Yield a temporary folder on all ranks, and rename it when all have succeeded; collective.

    Args:
        path: A directory that does not exist yet, or is empty, on a file system that all ranks see.
        comm: The ranks.
        what: Description of what is written.
        error: Type of the exceptions.

    Raises:
        StoreError, or the given `error`: If `path` is occupied or not seen by all ranks, or another
            job writes it, or the block raises an OSError.

    Communication:
        A broadcast of the temporary path, a gather of one number, and two barriers.
    """
    made = atomic_folder(path, what, error) if comm.rank == 0 else nullcontext(path)
    with disk_errors(path, what, error):
        with made as mine:
            folder = Path(comm.broadcast_text(str(mine), stage="folder: make"))
            if not comm.all_gather_int(folder.is_dir(), stage="folder: seen by all").all():
                raise error(
                    f"{path}: expected a folder that every rank sees, got one that only some see. "
                    "Choose a folder that all hosts share."
                )
            try:
                yield folder
            except FileNotFoundError:
                if comm.rank and not folder.exists():
                    # Rank 0 failed and removed the folder. Wait, so that its error is reported.
                    comm.barrier(stage="folder: rank 0 gave up")
                raise
            comm.barrier(stage="folder: written")
        comm.barrier(stage="folder: renamed")
