"""Pipeline that partitions a graph: phases that turn a source into a store, with bounded memory.

```
check       validate all columns, so that a wrong value is found before the graph is moved
ids         without a node table: collect the sorted distinct ids of the edges
edges       write the edges as node keys, the stream that partitioners read
duplicates  if requested: drop duplicate edges
reverses    if reverses were added: count the edges that had theirs already
assign      run the partitioner: a part for each node or each edge
place       for cover placement: find the part of each edge
shuffle     spill the edges to their parts
replicas    find the nodes of each part's edges
masters     choose the owner of each node; spill the nodes to their owners
order       order each part's masters; spill the mirrors to their owners
local-ids   write the local id of each node at its owner
parts       build and write the tables of each part, one part at a time in each thread
index       write the index from original ids and node keys to new ids
```
The result is the same, byte for byte, for any number of ranks and threads.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graphtheta.data.schema import as_numpy, need_name
from graphtheta.data.source import GraphSource
from graphtheta.data.types import (
    NODE,
    EdgeTable,
    NodeTable,
    key_chunks,
    node_tables,
    qualified,
)
from graphtheta.errors import GraphFormatError, PartitionError
from graphtheta.partition.core.partitioner import Balance, PartitionJob
from graphtheta.partition.core.resources import Resources
from graphtheta.partition.ooc.checkpointed_phases import CheckpointedPhases
from graphtheta.partition.ooc.edge_file import EdgeFile
from graphtheta.partition.ooc.record_spill import RecordReader
from graphtheta.partition.pipeline.assign import Assignment, assign, place_edges
from graphtheta.partition.pipeline.check_columns import check_columns, check_tables
from graphtheta.partition.pipeline.collect_ids import CollectedIds, collect_ids
from graphtheta.partition.pipeline.deduplicate import count_reverses, drop_duplicates
from graphtheta.partition.pipeline.masters import choose_masters
from graphtheta.partition.pipeline.order import order_masters, write_local_ids
from graphtheta.partition.pipeline.part_builder import PartBuilder
from graphtheta.partition.pipeline.part_nodes import find_part_nodes, own_parts
from graphtheta.partition.pipeline.part_size import copied_bytes, part_bytes
from graphtheta.partition.pipeline.plan import Plan
from graphtheta.partition.pipeline.resolve_ids import resolve_edges
from graphtheta.partition.pipeline.shuffle_edges import EDGES, edge_record, shuffle_edges
from graphtheta.partition.pipeline.write_index import write_index
from graphtheta.partition.store.files import (
    check_folder,
    read_text,
    record_digest,
    write_folder,
)
from graphtheta.partition.store.manifest import (
    FORMAT_VERSION,
    SPARSE_VERSION,
    Book,
    Manifest,
    checksum,
)
from graphtheta.partition.store.quality import PartCounts, measure
from graphtheta.partition.store.schema import describe_edges, describe_nodes
from graphtheta.partition.store.store import PART_RECORD, part_folder
from graphtheta.wording import counted

__all__ = ["Pipeline"]

_log = logging.getLogger("graphtheta")


class Pipeline:
    """Phases that partition a graph and write a store. All methods are collective.

    Call `prepare`, `assign`, `count`, `write` and `manifest` in this order.

    Args:
        source: The graph.
        plan: Options of the partitioning.
        phases: Checkpoints of the phases, and the folder of their files.
        resources: Ranks, threads and memory.
    """

    def __init__(
        self, source: GraphSource, plan: Plan, phases: CheckpointedPhases, resources: Resources
    ) -> None:
        self._source, self._plan, self._phases = source, plan, phases
        self._resources, self._comm = resources, resources.comm
        self._folder = phases.folder

    def _phase(self, name: str, run: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Run a phase, unless an earlier run finished it, and return its result."""
        start = time.perf_counter()
        result = self._phases.phase(name, run)
        if self._resources.on_phase is not None:
            self._resources.on_phase(name, time.perf_counter() - start)
        return result

    def prepare(self) -> EdgeFile:
        """Write the edges as node keys, and return the file of edges.

        Raises:
            GraphFormatError: If the graph is invalid.
            PartitionError: If there are more parts than nodes.
        """
        source, plan, folder = self._source, self._plan, self._folder
        check_tables(source, undirected=plan.undirected)

        def ids() -> dict[str, Any]:
            if source.num_nodes is not None:
                return {"num_nodes": source.num_nodes}
            collect_ids(source, folder, self._resources)
            return {"num_nodes": CollectedIds(source, folder).num_rows}

        self._phase("check", lambda: check_columns(source, self._resources))
        num_nodes = self._phase("ids", ids)["num_nodes"]
        if num_nodes == 0:
            raise GraphFormatError(
                "nodes: expected at least one node, got none. Check that the input is not empty."
            )
        if plan.num_parts > num_nodes:
            raise PartitionError(
                f"partition: expected at most one part per node, got "
                f"{counted(plan.num_parts, 'part')} for "
                f"{counted(num_nodes, 'node')}. Use fewer parts."
            )
        self._node_tables = _node_tables(source, folder, num_nodes)

        def edges() -> dict[str, Any]:
            return resolve_edges(
                source,
                self._node_tables,
                folder,
                undirected=plan.undirected,
                self_loops=plan.self_loops,
                drop_unknown=plan.drop_unknown,
                resources=self._resources,
            )

        written = self._phase("edges", edges)
        if not plan.repeats:
            self._phase("duplicates", lambda: drop_duplicates(source, folder, self._resources))
        found = EdgeFile(folder)
        self._dropped = {
            "dropped_self_loops": source.num_edges - written["num_inputs"] - written["num_unknown"],
            "dropped_unknown": written["num_unknown"],
            "dropped_duplicates": written["num_edges"] - found.num_edges,
        }
        return found

    @property
    def node_tables(self) -> tuple[NodeTable, ...]:
        """Node tables of the source, or that of the ids of its edges. Call it after `prepare`."""
        return self._node_tables

    def warn_of_reverses(self) -> None:
        """Warn if reverses are added to edges whose reverse is in the input already.

        Call it after `prepare`.
        """
        source, plan, folder = self._source, self._plan, self._folder
        if not plan.undirected or not plan.repeats:
            return
        found = self._phase("reverses", lambda: count_reverses(source, folder, self._resources))
        if found["number"] and self._comm.rank == 0:
            _log.warning(
                "partition: %s%s of %s edges have their reverse in the graph already, so that "
                "adding reverses doubles them. If the two are one edge, drop duplicates "
                "(--drop-duplicates) or do not add reverses.",
                "" if found["exact"] else "about ",
                f"{found['number']:,}",
                f"{source.num_edges:,}",
            )

    def assign(self, edges: EdgeFile) -> Assignment:
        """Run the partitioner, and return its assignment of nodes or edges to parts."""
        plan, folder, resources = self._plan, self._folder, self._resources

        def run() -> None:
            balance = self._balance(edges)
            job = PartitionJob(edges, plan.num_parts, plan.seed, balance, resources)
            assign(plan.partitioner, job, folder)

        assignment = Assignment(folder, plan, edges.num_nodes)
        self._phase("assign", run)
        if plan.covers:
            self._phase("place", lambda: place_edges(assignment, edges, folder, resources))
        return assignment

    def count(self, edges: EdgeFile, assignment: Assignment) -> tuple[PartCounts, dict[str, Any]]:
        """Spill edges and nodes to their parts, and order the masters.

        Returns:
            The counts of the parts, and for each relation of `edges` and each node type of `nodes`
            the largest value of each integer column.
        """
        plan, folder, resources = self._plan, self._folder, self._resources
        num_nodes, num_parts = edges.num_nodes, plan.num_parts
        self._node_tables = _node_tables(self._source, edges.folder, num_nodes)

        def shuffle() -> dict[str, Any]:
            largest = shuffle_edges(self._source, edges, assignment, num_parts, folder, resources)
            return self._largest(largest, self._source.edge_tables)

        def masters() -> dict[str, Any]:
            largest = choose_masters(
                self._node_tables,
                num_parts,
                assignment.part_of_nodes(),
                folder,
                seed=plan.seed,
                resources=resources,
            )
            return self._largest(largest, self._node_tables)

        def order() -> dict[str, Any]:
            counts = order_masters(
                self._records(edges),
                num_nodes,
                num_parts,
                np.array([table.first_key for table in self._node_tables], np.int64),
                np.array([table.first_key for table in self._source.edge_tables], np.int64),
                folder,
                resources,
            )
            return {"counts": [getattr(counts, name).tolist() for name in PartCounts.__slots__]}

        largest = {"edges": self._phase("shuffle", shuffle)["largest"]}
        self._phase(
            "replicas",
            lambda: find_part_nodes(self._records(edges), num_nodes, num_parts, folder, resources),
        )
        largest["nodes"] = self._phase("masters", masters)["largest"]
        counts = self._phase("order", order)["counts"]
        return PartCounts(*(np.array(of, np.int64) for of in counts)), largest

    def write(
        self, edges: EdgeFile, assignment: Assignment, counts: PartCounts, path: Path
    ) -> Book:
        """Write the parts and the index into the folder `path`, and return the partition book.

        A background thread deletes the files that are not needed any more, since the disk may be
        slow to do so.
        """
        num_nodes, num_parts, comm = edges.num_nodes, self._plan.num_parts, self._comm
        first_new_id = np.cumsum(counts.masters) - counts.masters
        resources, folder = self._resources, self._folder

        def parts() -> None:
            mine = own_parts(num_parts, comm.rank, comm.size)
            tables = self._node_tables, self._source.edge_tables
            builder = PartBuilder(self._records(edges), folder, num_nodes, first_new_id, *tables)
            at_once = self._parts_at_once(counts, num_nodes)
            with resources.progress.phase("write parts", len(mine), "parts") as advance:

                def write(part: int) -> None:
                    _write_part(builder, part, int(counts.interior[part]), path)
                    advance(1)

                resources.map(write, mine, max_threads=at_once)

        with ThreadPoolExecutor(1) as remover:
            if comm.rank == 0:
                remover.submit(edges.remove_all)
                remover.submit(assignment.remove)
            self._phase(
                "local-ids", lambda: write_local_ids(num_nodes, num_parts, folder, resources)
            )
            if comm.rank == 0:
                (path / "index").mkdir(parents=True, exist_ok=True)
            comm.barrier(stage="store: create")
            self._phase("parts", parts)
            if comm.rank == 0:
                remover.submit(self._records(edges).remove)
            self._phase(
                "index",
                lambda: write_index(self._node_tables, first_new_id, folder, path, resources),
            )
        texts = [read_text(part_folder(path, part) / PART_RECORD) for part in range(num_parts)]
        return Book(
            first_new_id=first_new_id,
            masters=counts.masters,
            mirrors=counts.mirrors,
            edges=counts.edges,
            digests=tuple(record_digest(text) for text in texts),
        )

    def manifest(
        self, edges: EdgeFile, counts: PartCounts, largest: dict[str, Any], book: Book
    ) -> Manifest:
        """Return the manifest of the store."""
        source, plan = self._source, self._plan
        types = [
            describe_nodes(table, columns)
            for table, columns in zip(self._node_tables, largest["nodes"], strict=True)
        ]
        relations = [
            describe_edges(table, columns)
            for table, columns in zip(source.edge_tables, largest["edges"], strict=True)
        ]
        is_sparse = any(c.sparse for owner in (*types, *relations) for c in owner.columns.values())
        manifest = Manifest(
            format_version=SPARSE_VERSION if is_sparse else FORMAT_VERSION,
            num_nodes=edges.num_nodes,
            num_edges=edges.num_edges,
            num_parts=plan.num_parts,
            method=plan.method,
            cut=plan.cut,
            placement=plan.placement,
            merge_weight=plan.merge_weight if plan.covers else None,
            seed=plan.seed,
            undirected=plan.undirected,
            self_loops=plan.self_loops,
            repeats=plan.repeats,
            drop_unknown=plan.drop_unknown,
            **self._dropped,
            reverses_from=source.num_edges if plan.undirected else 0,
            node_types=tuple(types),
            relations=tuple(relations),
            quality=measure(counts),
        )
        return manifest.model_copy(update={"checksum": checksum(manifest, book)})

    def _records(self, edges: EdgeFile) -> RecordReader:
        dtype = edge_record(edges.num_nodes, edges.num_edges, self._source.num_edges)
        return RecordReader(self._folder, EDGES, dtype)

    def _balance(self, edges: EdgeFile) -> Balance:
        """Return the balance of the plan, with the types and training nodes that it needs."""
        balance, split = self._plan.balance, self._plan.balance_split
        if balance.types is not None:
            tables = _node_tables(self._source, edges.folder, edges.num_nodes)
            counts = {table.name: table.num_rows for table in tables}
            balance = replace(balance, type_counts=counts)
        if balance.train is None:
            return balance
        tables = self._source.node_tables
        is_train, names = np.zeros(edges.num_nodes, np.bool_), []
        for table in tables:
            splits = [n.removeprefix("split:") for n in table.schema.names if n[:6] == "split:"]
            for name in splits:
                names.append(qualified(table.name, name, len(tables)))
                if names[-1] == split:
                    keys = table.first_key, table.first_key + table.num_rows
                    for _, first, rows in key_chunks(tables, *keys, [f"split:{name}"]):
                        values = as_numpy(rows.column(0))
                        is_train[first : first + len(values)] = values == 1
        need_name(split, names, "split to balance training nodes (--balance-split)")
        return replace(balance, is_train=is_train)

    def _largest(
        self, mine: Sequence[Mapping[str, int]], tables: Sequence[NodeTable | EdgeTable]
    ) -> dict[str, Any]:
        """Return the largest value of each integer column over all ranks, -1 for other columns."""
        columns = [(index, name) for index, t in enumerate(tables) for name in t.schema.names]
        values = np.array([mine[index].get(name, -1) for index, name in columns], np.int64)
        self._comm.all_reduce(values, "max", stage="count classes")
        largest: list[dict[str, int]] = [{} for _ in tables]
        for (index, name), value in zip(columns, values.tolist(), strict=True):
            largest[index][name] = value
        return {"largest": largest}

    def _parts_at_once(self, counts: PartCounts, num_nodes: int) -> int:
        """Return how many parts to build in parallel within the memory limit."""
        edge_row, node_row = copied_bytes(self._source.edge_tables), copied_bytes(self._node_tables)
        replicas = counts.masters + counts.mirrors
        largest = int(
            part_bytes(num_nodes, counts.edges, replicas, counts.masters, edge_row, node_row).max()
        )
        self._resources.check_memory(largest, "the largest part", "Use more parts.")
        limit = self._resources.available
        return self._resources.threads if limit is None else max(1, limit // largest)


def _node_tables(source: GraphSource, folder: Path, num_nodes: int) -> tuple[NodeTable, ...]:
    """Return the node tables of a source, or that of the ids which `folder` has the file of."""
    found = {NODE: CollectedIds(source, folder, num_nodes)}
    return source.node_tables or node_tables(found)


def _write_part(builder: PartBuilder, part: int, num_interior: int, path: Path) -> None:
    """Write a part, unless an earlier run completed it. The record of a part is written last."""
    folder = part_folder(path, part)
    if (folder / PART_RECORD).exists():
        check_folder(folder, PART_RECORD, part, builder.table_names())
        return
    shutil.rmtree(folder, ignore_errors=True)
    tables = builder.build(part, num_interior).tables()
    write_folder(folder, PART_RECORD, tables, part=part, num_interior=num_interior)
