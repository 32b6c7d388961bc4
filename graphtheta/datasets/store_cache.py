"""The cache of graphs that were partitioned on the spot.

An input that is not a store is partitioned by the workers that want to train on it, each of which
reads its own rows, and kept under a name that says what it is made of: the digest of the content,
the number of parts, the method, the seed and whether reverse edges were added. The next run with
as many workers opens it at once. Everything here can be deleted at any time that no run starts.

Never imports torch.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from graphtheta.comm.communicator import Communicator
from graphtheta.datasets import read
from graphtheta.errors import ConfigError, StoreError
from graphtheta.partition import GraphSource, Plan, Resources, Store, make_store, open_store
from graphtheta.partition.pipeline.pipeline import named_partitioner
from graphtheta.partition.store.manifest import FORMAT_VERSION
from graphtheta.runtime.atomic import partial_path
from graphtheta.runtime.paths import cache_folder

__all__ = ["cached_store", "open_input"]

_DEFAULT_METHOD = "node-hash"  # of all methods the one that never brings a whole graph together


def open_input(
    path: str, comm: Communicator, *, method: str | None = None, undirected: bool = False
) -> Store:
    """Open a store, or any input that `graphtheta.datasets.read` reads, partitioned; collective.

    Args:
        path: A store, the name of a data set, or a path or URI of a graph.
        comm: The workers; an input that is no store is partitioned into one part a worker.
        method: Partitioner of such an input, of no account for a store; None: `node-hash`.
        undirected: Whether that partitioner adds the reverse of every edge.

    Raises:
        ConfigError: If it does not exist, or is a store without the reverse edges.
        GraphFormatError: If the graph is wrong.
        StoreError: If the store is damaged, or the cache cannot be written.
    """
    if not (Path(path) / "manifest.json").exists():
        method = method or _DEFAULT_METHOD
        return cached_store(lambda: read(path), comm, method=method, undirected=undirected)
    store = open_store(path, parts=())  # a worker checks the parts that it opens
    if undirected and not store.manifest.undirected:
        raise ConfigError(
            f"{path}: expected a store with the reverse of every edge, got one made without "
            "--undirected. Partition it again, or leave --undirected out."
        )
    return store


def cached_store(
    open_source: Callable[[], GraphSource],
    comm: Communicator,
    *,
    method: str = _DEFAULT_METHOD,
    seed: int = 0,
    undirected: bool = False,
    folder: Path | None = None,
) -> Store:
    """Return the store of an input, in one part a worker, made now if there is none; collective.

    Several jobs may do the same at the same time: the first to finish wins, the others use its.

    Args:
        open_source: Opens the input. Called by rank 0, and by all ranks if there is no store yet.
        comm: The workers.
        method: A key of `PARTITIONERS`.
        seed: Of the partitioner. Training does not depend on it, so runs of all seeds share one.
        undirected: Whether the partitioner adds the reverse of every edge.
        folder: The cache, which all workers see; None: `cache_folder()`.

    Raises:
        ConfigError: If the method is unknown, or a worker does not see what rank 0 wrote.
        GraphFormatError: If the graph is wrong.
        PartitionError: If there are more workers than nodes.
        StoreError: If the cache cannot be written.

    Communication:
        The digest; then, if there is no store yet, that of `make_store`.
    """
    named_partitioner(method)
    folder = folder or cache_folder()
    source = open_source() if comm.rank == 0 else None
    digest = np.zeros(16, np.uint8)
    if source is not None:
        digest[:] = np.frombuffer(bytes.fromhex(source.digest()), np.uint8)
    comm.broadcast(digest, stage="cache: digest of the input")
    name = f"{digest.tobytes().hex()}-{comm.size}-{method}-{seed}{'-undirected' * undirected}"
    path = folder / f"v{FORMAT_VERSION}" / name
    if not _says_rank_0(comm, lambda: _is_whole(path)):
        source = source or open_source()
        plan = Plan(comm.size, method, seed=seed, undirected=undirected)
        token = comm.broadcast_text(secrets.token_hex(8), stage="cache: name")
        partial = partial_path(path, token)
        try:
            make_store(source, partial, plan, Resources(comm))
        except StoreError as error:
            raise StoreError(f"{error} Set GRAPHTHETA_CACHE to keep the cache there.") from None
        if comm.rank == 0:
            _move_in(partial, path)
        comm.barrier(stage="cache: store in place")
    if not comm.all_gather_int(path.exists(), stage="cache: seen by all").all():
        raise ConfigError(
            f"{folder}: expected a cache folder that every worker sees, got one that only some "
            "see. Set GRAPHTHETA_CACHE to a folder that all hosts share."
        )
    return open_store(path, parts=())


def _says_rank_0(comm: Communicator, question: Callable[[], bool]) -> bool:
    answer = np.array([comm.rank == 0 and question()], np.int8)
    comm.broadcast(answer, stage="cache: look for the store")
    return bool(answer[0])


def _is_whole(path: Path) -> bool:
    """Whether there is a store; a damaged one is taken away."""
    if not path.exists():
        return False
    try:
        open_store(path)
    except StoreError:
        shutil.rmtree(path, ignore_errors=True)
        return False
    return True


def _move_in(partial: Path, path: Path) -> None:
    try:
        partial.rename(path)
    except OSError:  # not empty: another job was first, with the same bytes
        if not path.exists():
            raise
        shutil.rmtree(partial, ignore_errors=True)
