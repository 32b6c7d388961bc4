"""Write the index of a store: from original ids and node keys to new ids."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphtheta.data.schema import whole
from graphtheta.data.types import NodeTable, positions_of_keys
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.node_file import NodeFile
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter
from graphtheta.partition.pipeline.masters import OWNERS
from graphtheta.partition.pipeline.order import LOCAL_IDS
from graphtheta.partition.pipeline.part_nodes import own_parts
from graphtheta.partition.store.files import open_table
from graphtheta.partition.store.index import bucket_folder, spill_ids, write_bucket
from graphtheta.partition.store.store import part_folder
from graphtheta.partition.store.tables import column_numpy

__all__ = ["write_index"]

_IDS_SPILL = "original-ids"  # with -<type>


def write_index(
    tables: Sequence[NodeTable],
    first_new_id: NDArray[np.int64],
    folder: Path,
    path: Path,
    resources: Resources,
) -> None:
    """Write the index of a store, whose parts are written; collective.

    Args:
        tables: Node tables of the graph.
        first_new_id: New id of the first master of each part: (P,).
        folder: Folder of the spills and node files.
        path: Folder of the store.
        resources: Ranks and threads.
    """
    num_nodes, num_parts = sum(table.num_rows for table in tables), len(first_new_id)
    comm = resources.comm
    mine = own_parts(num_parts, comm.rank, comm.size)
    first_keys = np.array([table.first_key for table in tables], np.int64)
    names = [f"{_IDS_SPILL}-{i}" for i in range(len(tables))]
    with ExitStack() as opened:
        writers = [opened.enter_context(SpillWriter(folder, name, comm.rank)) for name in names]
        for part in mine:
            at = part_folder(path, part)
            keys = column_numpy(open_table(at / "masters.arrow"), "node_key")
            of_type = positions_of_keys(keys, first_keys)
            for i, writer in enumerate(writers):
                ids = whole(open_table(at / f"masters-{i}.arrow")["original_id"])
                new_ids = int(first_new_id[part]) + np.flatnonzero(of_type == i)
                spill_ids(writer, part, ids, new_ids, num_parts)
    comm.barrier(stage="index: spill")
    spills = [SpillReader(folder, name) for name in names]
    owners, local_ids = (NodeFile(folder, name, num_nodes) for name in (OWNERS, LOCAL_IDS))
    with resources.progress.phase("write index", len(mine), "buckets") as advance:

        def write(bucket: int) -> None:
            first, last = (num_nodes * (bucket + i) // num_parts for i in (0, 1))
            new_ids = first_new_id[owners.read(first, last)] + local_ids.read(first, last)
            shutil.rmtree(bucket_folder(path, bucket), ignore_errors=True)
            write_bucket(path, bucket, spills, new_ids)
            advance(1)

        resources.map(write, mine)
