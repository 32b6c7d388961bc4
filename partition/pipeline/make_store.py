"""Make a store: write it into a temporary folder that a killed run can continue, then rename it."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphtheta.comm.communicator import Communicator
from graphtheta.data.source import GraphSource
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.checkpointed_phases import CheckpointedPhases
from graphtheta.partition.pipeline.part_nodes import own_parts
from graphtheta.partition.pipeline.pipeline import Pipeline
from graphtheta.partition.pipeline.plan import Plan
from graphtheta.partition.store.manifest import FORMAT_VERSION, Book, Manifest
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store, open_store, write_description
from graphtheta.runtime.atomic import disk_errors, lock_folder, partial_path, refuse_occupied
from graphtheta.runtime.scratch import scratch_folder

__all__ = ["Build", "build", "make_store", "temporary_folder"]


@dataclass(frozen=True, slots=True)
class Build:
    """Partitioned graph without a store: the parts that one rank built.

    Attributes:
        parts: Parts of this rank by index. Part p is built by rank p * comm.size // num_parts.
        manifest: Description of the graph, the same on every rank.
        book: Partition book, the same on every rank.
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

    A killed run continues after its last finished phase when it is started again with the same
    arguments. With other arguments it starts from the beginning.

    Args:
        source: The graph.
        path: A directory that does not exist yet, or is empty, on a file system that all ranks see.
        plan: Options of the partitioning.
        resources: Ranks, threads and memory. If None, this process and one thread.
        scratch: Directory for temporary files, which take about 36 bytes for each edge and the size
            of the columns. If None, they are next to the store.

    Raises:
        ConfigError: If an argument is invalid.
        GraphFormatError: If the graph is invalid.
        PartitionError: If the method cannot satisfy the plan, or exceeds the memory limit.
        StoreError: If `path` is occupied or cannot be written.

    Communication:
        State of the partitioner, and counts for each node and part. Rows go through files.
    """
    resources = resources or Resources()
    comm, path = resources.comm, Path(path)
    refuse_occupied(path)
    partial = partial_path(path)
    folder = partial / "scratch" if scratch is None else Path(scratch).absolute() / partial.name[1:]
    unfinished = partial / "store"
    with (
        disk_errors(path, "a store"),
        nullcontext() if comm.rank else lock_folder(partial, path),
        CheckpointedPhases(
            folder, _job(source, path, plan, comm), comm, fresh=not unfinished.exists()
        ) as phases,
        _removed_after_failure(partial, comm, phases),
    ):
        if comm.rank == 0:
            if not phases.resumed:
                shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True, exist_ok=True)
        comm.barrier(stage="store: create")
        pipeline = Pipeline(source, plan, phases, resources)
        edges = pipeline.prepare()
        pipeline.warn_of_reverses()
        assignment = pipeline.assign(edges)
        counts, largest = pipeline.count(edges, assignment)
        book = pipeline.write(edges, assignment, counts, unfinished)
        manifest = pipeline.manifest(edges, counts, largest, book)
        comm.barrier(stage="store: write")
        if comm.rank == 0:
            write_description(unfinished, manifest, book)
            refuse_occupied(path)
            phases.remove()
            unfinished.replace(path)
            shutil.rmtree(partial, ignore_errors=True)
        comm.barrier(stage="store: rename")
    return Store(path, manifest, book)


@contextmanager
def temporary_folder(comm: Communicator) -> Iterator[Path]:
    """Yield a new folder that all ranks of a host see, and delete it afterwards; collective.

    It is in the folder of `tempfile`: $TMPDIR, or /tmp.
    """
    with nullcontext("") if comm.rank else scratch_folder() as made:
        folder = Path(comm.broadcast_text(str(made), stage="temporary folder"))
        with disk_errors(folder, "temporary files"), _removed_after_failure(folder, comm):
            yield folder
            comm.barrier(stage="temporary folder: done")  # slower ranks may still read files


def build(source: GraphSource, plan: Plan, resources: Resources | None = None) -> Build:
    """Partition a graph without keeping a store; collective.

    The parts are memory-mapped from temporary files that are already deleted: they take disk space
    instead of memory until the process ends. For arguments and errors see `make_store`.

    Raises:
        StoreError: If ranks on different hosts do not share the folder for temporary files.
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
def _removed_after_failure(
    folder: Path, comm: Communicator, phases: CheckpointedPhases | None = None
) -> Iterator[None]:
    """Delete a folder, and that of phases, if the block fails.

    Ctrl-C is no failure: an interrupted run can be continued.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        removed = isinstance(error, FileNotFoundError) and _is_removed_soon(folder)
        if phases is not None:
            phases.remove()  # first: a kill here may leave no record of phases without their files
        shutil.rmtree(folder, ignore_errors=True)  # on every rank, also after the slowest one
        if removed and comm.size > 1:
            # Another rank failed and removed the files. Wait here, so that its error is reported.
            comm.barrier(stage="store: another rank failed")
        raise


def _is_removed_soon(folder: Path) -> bool:
    for _ in range(20):
        if not folder.exists():
            return True
        time.sleep(0.1)
    return False
