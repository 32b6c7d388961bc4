"""Cache of the stores of graphs that are partitioned when a run starts.

An input that is not a store is partitioned by the workers of the run, each of which reads its own
rows. The store is cached under a name made of the digest of the input, the number of parts, the
method, the seed, whether reverse edges were added, and what was dropped. The next run with the same
number of workers opens it. The cache can be deleted while no run starts.

Never imports torch.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from graphtheta.comm.communicator import Communicator
from graphtheta.data.encode.recipe import Recipe
from graphtheta.data.reverse import WithReverse
from graphtheta.datasets import read, takes
from graphtheta.errors import ConfigError, StoreError
from graphtheta.partition import GraphSource, Plan, Resources, Store, make_store, open_store
from graphtheta.partition.pipeline.plan import named_partitioner
from graphtheta.partition.store.manifest import FORMAT_VERSION
from graphtheta.runtime.atomic import disk_errors
from graphtheta.runtime.lock import FileLock
from graphtheta.runtime.paths import cache_folder

__all__ = ["cached_store", "open_input"]

_log = logging.getLogger(__name__)

_DEFAULT_METHOD = "node-hash"  # the only method that never needs a whole graph in one place


def open_input(
    path: str,
    comm: Communicator,
    *,
    method: str | None = None,
    undirected: bool = False,
    add_reverse: bool = False,
    drop_self_loops: bool = False,
    drop_duplicates: bool = False,
    drop_unknown: bool = False,
    like: Recipe | None = None,
) -> Store:
    """Open a store, or partition any other input that `graphtheta.datasets.read` reads; collective.

    Args:
        path: Store, name of a data set, or path or URI of a graph.
        comm: The workers. An input that is not a store is partitioned into one part per worker.
        method: Partitioner of such an input. If None, `node-hash`.
        undirected: Whether that partitioner adds the reverse of every edge.
        add_reverse: Whether to add the relation `rev_<name>` for each relation of such an input.
        drop_self_loops: Whether that partitioner drops edges from a node to itself.
        drop_duplicates: Whether it keeps only the first of equal edges.
        drop_unknown: Whether it drops edges with an id that the node table lacks.
        like: Recipe by which such an input is read, if it is one of tables. If it has the reverse
            of each relation in addition, these are added.

    Raises:
        ConfigError: If the input does not exist, or is a store that was made otherwise.
        GraphFormatError: If the graph is malformed.
        StoreError: If the store is damaged, or the cache cannot be written.
    """
    if not (Path(path) / "manifest.json").exists():
        method = method or _DEFAULT_METHOD
        options = {"like": like} if like is not None and takes(path, "like") else {}

        def opened() -> GraphSource:
            source = read(path, add_reverse=add_reverse, **options)
            return source if add_reverse else _with_reverses(source, like)

        return cached_store(
            opened,
            comm,
            method=method,
            undirected=undirected,
            self_loops=not drop_self_loops,
            repeats=not drop_duplicates,
            drop_unknown=drop_unknown,
        )
    store = open_store(path, parts=())  # each worker checks the parts that it opens
    manifest = store.manifest
    has_reverse = any(relation.name.startswith("rev_") for relation in manifest.relations)
    for option, asked, has in (
        ("--undirected", undirected, manifest.undirected),
        ("--add-reverse", add_reverse, has_reverse),
        ("--drop-self-loops", drop_self_loops, not manifest.self_loops),
        ("--drop-duplicates", drop_duplicates, not manifest.repeats),
    ):
        if asked and not has:
            raise ConfigError(
                f"{path}: expected a store made with {option}, as the run asks for, got one made "
                f"without it. Partition the graph again with {option}, or leave it out in training."
            )
    return store


def _with_reverses(source: GraphSource, like: Recipe | None) -> GraphSource:
    """Return a source with reverse relations if a recipe has them in addition, as --add-reverse."""
    given = [table.relation.text for table in source.edge_tables]
    if like is None or not source.node_tables or len(like.relations) != 2 * len(given):
        return source
    both = WithReverse(source)
    is_alike = {table.relation.text for table in both.edge_tables} == {*like.relations}
    return both if is_alike else source


def cached_store(
    open_source: Callable[[], GraphSource],
    comm: Communicator,
    *,
    method: str = _DEFAULT_METHOD,
    seed: int = 0,
    undirected: bool = False,
    self_loops: bool = True,
    repeats: bool = True,
    drop_unknown: bool = False,
    folder: Path | None = None,
) -> Store:
    """Return the cached store of an input, with one part per worker; make it if needed; collective.

    Several jobs may do this at the same time. One of them makes the store, and the others wait.

    Args:
        open_source: Function that opens the input. Rank 0 calls it, and all ranks do if there is no
            store yet.
        comm: The workers.
        method: A key of `PARTITIONERS`.
        seed: Random seed of the partitioner. Training does not depend on it, so that runs with any
            seed share a store.
        undirected: Whether the partitioner adds the reverse of every edge.
        self_loops: Whether to keep edges from a node to itself.
        repeats: Whether to keep duplicate edges.
        drop_unknown: Whether to drop edges with an id that the node table lacks.
        folder: Cache folder, which all workers share. If None, `cache_folder()`.

    Raises:
        ConfigError: If the method is unknown, or a worker does not see the files of rank 0.
        GraphFormatError: If the graph is malformed.
        PartitionError: If there are more workers than nodes.
        StoreError: If the cache cannot be written.

    Communication:
        A broadcast of the digest, two integers from each rank and, if there is no store yet, the
        communication of `make_store`.
    """
    named_partitioner(method)
    folder = folder or cache_folder()
    source = open_source() if comm.rank == 0 else None
    digest = "" if source is None else source.digest()
    digest = comm.broadcast_text(digest, stage="cache: digest of the input")
    kinds = {"undirected": undirected, "no-loops": not self_loops, "no-repeats": not repeats}
    kinds |= {"no-unknown": drop_unknown}
    suffix = "".join(f"-{kind}" for kind, holds in kinds.items() if holds)
    name = f"{digest}-{comm.size}-{method}-{seed}{suffix}"
    path = folder / f"v{FORMAT_VERSION}" / name
    is_cached = comm.rank == 0 and _is_whole(path)
    if not comm.all_gather_int(is_cached, stage="cache: look for the store")[0]:
        source = source or open_source()
        plan = Plan(comm.size, method, seed, undirected, self_loops, repeats, drop_unknown)
        try:
            with _only_job(path, comm) as made:
                is_cached = comm.rank == 0 and _is_whole(path, remove=True)
                if not comm.all_gather_int(is_cached, stage="cache: look again")[0]:
                    make_store(source, made, plan, Resources(comm))
        except StoreError as error:
            raise StoreError(f"{error} Set GRAPHTHETA_CACHE to keep the cache there.") from None
    if not comm.all_gather_int(path.exists(), stage="cache: seen by all").all():
        raise ConfigError(
            f"{folder}: expected a cache folder that every worker sees, got one that only some "
            "see. Set GRAPHTHETA_CACHE to a folder that all hosts share."
        )
    return open_store(path, parts=())


def _is_whole(path: Path, *, remove: bool = False) -> bool:
    """Return whether there is a store; if `remove`, remove a damaged one."""
    if not path.exists():
        return False
    try:
        open_store(path)
    except StoreError:
        if remove:
            shutil.rmtree(path)
        return False
    return True


@contextmanager
def _only_job(path: Path, comm: Communicator) -> Iterator[Path]:
    """Let other jobs that make the same store wait, and yield the path to make it at; collective.

    On a file system without locks the path is a name of our own, and the first job that is ready
    renames its store.
    """
    with disk_errors(path, "a store"), ExitStack() as locked:
        name = path.name
        if comm.rank == 0:
            file = path.with_name(f".{name}.lock")
            try:
                lock = FileLock(file)
            except BlockingIOError:
                _log.warning("%s: another run partitions the same input; waiting for it.", path)
                lock = FileLock(file, wait=True)
            locked.enter_context(lock)
            name = name if lock.held else f".{name}-{secrets.token_hex(8)}"
        made = path.with_name(comm.broadcast_text(name, stage="cache: wait for other jobs"))
        yield made
        if comm.rank == 0 and made != path:
            try:
                made.rename(path)
            except OSError:  # another job was first, with the same content
                if not path.exists():
                    raise
                shutil.rmtree(made, ignore_errors=True)
        comm.barrier(stage="cache: store in place")
