"""Edge columns of several parts merged into those of one graph, each when it is first read.

In a part, the edges of a row are sorted by edge key, and so are those of the merged rows. A range
of rows is merged at a time: the edges of each part are already a sorted run, and sorting merges the
runs. Of the length of the edges, only the columns that were read are held; a merge reads 8 bytes
per edge in addition to the column's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.adjacency import concatenated_ranges
from graphtheta.data.schema import as_numpy
from graphtheta.partition.store.part import PartTables

__all__ = ["EdgeMerger", "MergedColumns", "all_edges", "edges_of_relation", "table_columns"]

_CHUNK_EDGES = 1 << 21
_CHUNK_ROWS = 1 << 20  # with keys below 2^43, so that row and key fit 63 bits
_KNOWN = "known:"


class EdgeMerger:
    """Merge of edges of several parts, of all relations or of one.

    Args:
        indptr: For each part, the (R + 1,) int64 row pointers of the edges.
        keys: For each part, the edge keys.
        local: For each part, the (R,) int32 merged local ids of its replicas.
        num_replicas: Number of replicas of the merged graph (L).
        threads: Number of threads that merge.

    Attributes:
        indptr: (L + 1,) int64 row pointers of the merged edges.
    """

    def __init__(
        self,
        indptr: Sequence[NDArray[np.int64]],
        keys: Sequence[NDArray[np.int64]],
        local: Sequence[NDArray[np.int32]],
        num_replicas: int,
        threads: int,
    ) -> None:
        self._indptr, self._key, self._local, self._threads = indptr, keys, local, threads
        # The rows of each part, ordered by merged local id.
        self._row = [np.argsort(ids, kind="stable") for ids in local]
        self._id = [ids[row] for ids, row in zip(local, self._row, strict=True)]
        self.indptr = np.zeros(num_replicas + 1, np.int64)
        for ids, of_part in zip(local, indptr, strict=True):
            self.indptr[1 + ids] += np.diff(of_part)
        np.cumsum(self.indptr, out=self.indptr)

    def merge(self, columns: Sequence[NDArray[Any]], *, local_ids: bool = False) -> NDArray[Any]:
        """Return the merged values of a column, in CSC order.

        Args:
            columns: Values of each part.
            local_ids: Whether the values are local ids of the parts.
        """
        merged = np.empty((self.indptr[-1], *columns[0].shape[1:]), columns[0].dtype)
        cuts = self._cuts()

        def merge(first: int, last: int) -> None:
            codes, values = [], []
            for k, column in enumerate(columns):
                some = slice(*np.searchsorted(self._id[k], (first, last)))
                row, indptr = self._row[k][some], self._indptr[k]
                count = indptr[row + 1] - indptr[row]
                position = concatenated_ranges(indptr[row], count)
                codes.append((np.repeat(self._id[k][some] - first, count), self._key[k][position]))
                found = column[position]
                values.append(self._local[k][found] if local_ids else found)
            rows, keys = (np.concatenate(each) for each in zip(*codes, strict=True))
            code = rows * (1 + keys.max(initial=0)) + keys
            order = np.argsort(code, kind="stable")  # timsort, which finds the runs
            merged[self.indptr[first] : self.indptr[last]] = np.concatenate(values)[order]

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(merge, cuts[:-1].tolist(), cuts[1:].tolist()))
        return merged

    def _cuts(self) -> NDArray[np.int64]:
        """Return the rows at which chunks of about equal numbers of edges start, and the end."""
        num_rows = len(self.indptr) - 1
        even = np.searchsorted(self.indptr, np.arange(0, self.indptr[-1], _CHUNK_EDGES), "right")
        return np.unique(np.concatenate([even, np.arange(0, num_rows, _CHUNK_ROWS), [num_rows]]))


class MergedColumns(Mapping[str, NDArray[Any]]):
    """Mapping from the name of an edge column to its merged values in CSC order.

    Args:
        merger: Returns the merger of the edges; it is called when the first column is read.
        tables: For each part, the columns of its edges.
    """

    def __init__(self, merger: Callable[[], EdgeMerger], tables: Sequence[pa.Table]) -> None:
        self._merger, self._tables = merger, tables
        self._names = _names(tables)
        self._merged: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._merged:
            columns = [_column(table, name) for table in self._tables]
            self._merged[name] = self._merger().merge(columns, local_ids=name == "src")
        return self._merged[name]

    def __contains__(self, name: object) -> bool:  # Mapping's own would merge the column
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def all_edges(
    parts: Sequence[PartTables],
    local: Sequence[NDArray[np.int32]],
    num_replicas: int,
    threads: int,
) -> EdgeMerger:
    """Return the merger of all edges of some parts; for the arguments see `EdgeMerger`."""
    indptr = [as_numpy(part.in_indptr["indptr"]) for part in parts]
    keys = [as_numpy(part.in_edges["edge_key"]) for part in parts]
    return EdgeMerger(indptr, keys, local, num_replicas, threads)


def edges_of_relation(
    parts: Sequence[PartTables],
    position: int,
    local: Sequence[NDArray[np.int32]],
    num_replicas: int,
    threads: int,
) -> Callable[[], EdgeMerger]:
    """Return a function that returns the merger of the edges of one relation, made once.

    Args:
        parts: The parts.
        position: Position of the relation.
        local: As for `EdgeMerger`, as all that follow.
        num_replicas: Number of replicas of the merged graph.
        threads: Number of threads that merge.
    """

    @cache
    def merger() -> EdgeMerger:
        rows = [part.rows_of_relation(position) for part in parts]
        indptr, keys = [], []
        for part, of_part in zip(parts, rows, strict=True):
            indptr.append(np.searchsorted(of_part, as_numpy(part.in_indptr["indptr"])))
            keys.append(as_numpy(part.in_edges["edge_key"])[of_part])
        return EdgeMerger(indptr, keys, local, num_replicas, threads)

    return merger


def table_columns(table: pa.Table | None) -> dict[str, NDArray[Any]]:
    """Return the columns of a table, with `known:<name>` for labels with missing values."""
    return {} if table is None else {name: _column(table, name) for name in _names([table])}


def _names(tables: Sequence[pa.Table]) -> list[str]:
    """Return the columns' names, and `known:<name>` for labels with missing values."""
    names = tables[0].column_names
    labels = [name for name in names if name.startswith("label:")]
    gaps = [name for name in labels if any(table[name].null_count for table in tables)]
    return [*names, *(_KNOWN + name.removeprefix("label:") for name in gaps)]


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    if name.startswith(_KNOWN):
        known = table["label:" + name.removeprefix(_KNOWN)].is_valid()
        return np.asarray(known.to_numpy(zero_copy_only=False), np.bool_)
    return as_numpy(table[name])
