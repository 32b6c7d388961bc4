"""Making stores: beside their place and renamed when whole, so that a killed run can go on."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphtheta.comm.communicator import Communicator
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.checkpointed_phases import CheckpointedPhases
from graphtheta.partition.pipeline.part_nodes import own_parts
from graphtheta.partition.pipeline.pipeline import Pipeline, Plan
from graphtheta.partition.store.manifest import FORMAT_VERSION, Book, Manifest
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store, open_store, write_description
from graphtheta.runtime.atomic import disk_errors, partial_path, refuse_occupied

__all__ = ["Build", "build", "make_store", "temporary_folder"]


@dataclass(frozen=True, slots=True)
class Build:
    """A partitioned graph that is kept nowhere: what one rank built of it.

    Attributes:
        parts: The parts that this rank built, by index; part p is built by rank
            p * comm.size // num_parts.
        manifest: The same on every rank.
        book: The same on every rank.
    """

    parts: dict[int, PartTables]
    manifest: Manifest
    book: Book


def make_store(
    source: GraphSource,
    path: Path | str,
    plan: Plan,
    resources: Resources | None = None,
    *,
    scratch: Path | str | None = None,
) -> Store:
    """Partition a graph and write it as a store; collective.

    A run that was killed goes on after its last finished phase when it is started again with the
    same arguments, and starts clean with others.

    Args:
        source: The graph.
        path: A directory that does not exist yet, or is empty; on a file system that all ranks see.
        plan: What is asked for.
        resources: Ranks, threads and memory; None: this process alone, one thread.
        scratch: A directory for files that are gone when the store is there; None: beside the
            store. They take about 36 bytes an edge, and the columns once.

    Raises:
        ConfigError: If an argument is wrong.
        GraphFormatError: If the graph is wrong.
        PartitionError: If it cannot be partitioned as asked, or not within the memory limit.
        StoreError: If there is something at `path` already, or it cannot be written.

    Communication:
        State of the partitioner, as it says, and counts of each node and part; rows through files.
    """
    resources = resources or Resources()
    comm, path = resources.comm, Path(path)
    refuse_occupied(path)
    partial = partial_path(path)
    folder = partial / "scratch" if scratch is None else Path(scratch).absolute() / partial.name[1:]
    beside = partial / "store"
    with (
        disk_errors(path, "a store"),
        CheckpointedPhases(
            folder, _job(source, path, plan, comm), comm, fresh=not beside.exists()
        ) as room,
        _cleaning([partial, folder], comm),
    ):
        if comm.rank == 0:
            if not room.resumed:
                shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True, exist_ok=True)
        comm.barrier(stage="store: create")
        building = Pipeline(source, plan, room, resources)
        edges = building.prepare()
        assignment = building.assign(edges)
        counts, largest = building.count(edges, assignment)
        book = building.write(edges, assignment, counts, beside)
        manifest = building.manifest(edges, counts, largest, book)
        comm.barrier(stage="store: write")
        if comm.rank == 0:
            write_description(beside, manifest, book)
            refuse_occupied(path)
            beside.replace(path)
            for made in (folder, partial):
                shutil.rmtree(made, ignore_errors=True)
        comm.barrier(stage="store: rename")
    return Store(path, manifest, book)


@contextmanager
def temporary_folder(comm: Communicator) -> Iterator[Path]:
    """Make a folder that all ranks of a host see, and delete it with all that is in it; collective.

    It is where `tempfile` makes its own: $TMPDIR, or /tmp.
    """
    made = tempfile.mkdtemp(prefix="graphtheta-") if comm.rank == 0 else ""
    folder = Path(comm.broadcast_text(made, stage="temporary folder"))
    try:
        with disk_errors(folder, "a store"), _cleaning([folder], comm):
            yield folder
            comm.barrier(stage="temporary folder: done")  # a slower rank may still read there
    finally:
        if comm.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


def build(source: GraphSource, plan: Plan, resources: Resources | None = None) -> Build:
    """Partition a graph into parts that are kept nowhere; collective.

    The parts are mapped from files in the folder for temporary files, already deleted: they take
    disk, not memory, and are gone with the process. Arguments and errors are those of `make_store`.

    Raises:
        StoreError: If ranks on several hosts do not share the folder for temporary files.
    """
    resources = resources or Resources()
    comm = resources.comm
    with temporary_folder(comm) as folder:
        store = make_store(source, folder / "store", plan, resources)
        mine = own_parts(plan.num_parts, comm.rank, comm.size)
        parts = {part: open_store(store.path, parts=()).part(part) for part in mine}
        comm.barrier(stage="build: parts are mapped")
    return Build(parts, store.manifest, store.book)


def _job(source: GraphSource, path: Path, plan: Plan, comm: Communicator) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "ranks": comm.size,
        "source": comm.broadcast_text(source.stamp() if comm.rank == 0 else "", stage="source"),
        "store": str(path.absolute()),
        "plan": dataclasses.asdict(plan),
    }


@contextmanager
def _cleaning(folders: list[Path], comm: Communicator) -> Iterator[None]:
    """Delete folders after a failure, but for Ctrl-C, after which a run can go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        vanished = isinstance(error, FileNotFoundError) and _goes_away(folders[0])
        for folder in folders:  # on every rank: the last one to give up leaves nothing
            shutil.rmtree(folder, ignore_errors=True)
        if vanished and comm.size > 1:
            # Another rank failed and took the files away: it is that one that has something to say.
            comm.barrier(stage="store: another rank gave up")
        raise


def _goes_away(folder: Path) -> bool:
    for _ in range(20):
        if not folder.exists():
            return True
        time.sleep(0.1)
    return False
