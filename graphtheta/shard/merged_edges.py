"""Edge columns of several parts merged into those of one graph, each when it is first read.

In a part, the edges of a row are sorted by edge key, and so are those of the merged rows. A range
of rows is merged at a time: the edges of each part are already a sorted run, and sorting merges the
runs. Of the length of the edges, only the columns that were read are held; a merge reads 8 bytes
per edge in addition to the column's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.adjacency import concatenated_ranges
from graphtheta.data.schema import as_numpy
from graphtheta.partition.store.part import PartTables

__all__ = ["MergedEdges", "edge_columns"]

_CHUNK_EDGES = 1 << 21
_CHUNK_ROWS = 1 << 20  # with keys below 2^43, so that row and key fit 63 bits
_KNOWN = "known:"


class MergedEdges(Mapping[str, NDArray[Any]]):
    """Mapping from the name of an edge column to its merged values in CSC order.

    Args:
        parts: The parts to merge.
        local: For each part, the (R,) int32 merged local ids of its replicas.
        num_replicas: Number of replicas of the merged graph (L).
        threads: Number of threads that merge.

    Attributes:
        indptr: (L + 1,) int64 row pointers of the merged in-edges.
    """

    def __init__(
        self,
        parts: Sequence[PartTables],
        local: Sequence[NDArray[np.int32]],
        num_replicas: int,
        threads: int,
    ) -> None:
        self._parts, self._local, self._threads = parts, local, threads
        self._names = _names(parts)
        self._merged: dict[str, NDArray[Any]] = {}
        self._indptr = [as_numpy(part.in_indptr["indptr"]) for part in parts]
        self._key = [as_numpy(part.in_edges["edge_key"]) for part in parts]
        # The rows of each part, ordered by merged local id.
        self._row = [np.argsort(ids, kind="stable") for ids in local]
        self._id = [ids[row] for ids, row in zip(local, self._row, strict=True)]
        self.indptr = np.zeros(num_replicas + 1, np.int64)
        for ids, indptr in zip(local, self._indptr, strict=True):
            self.indptr[1 + ids] += np.diff(indptr)
        np.cumsum(self.indptr, out=self.indptr)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._merged:
            self._merged[name] = self._merge([_column(p.in_edges, name) for p in self._parts], name)
        return self._merged[name]

    def __contains__(self, name: object) -> bool:  # Mapping's own would merge the column
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _merge(self, columns: Sequence[NDArray[Any]], name: str) -> NDArray[Any]:
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
                values.append(self._local[k][found] if name == "src" else found)
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


def edge_columns(part: PartTables) -> dict[str, NDArray[Any]]:
    """Return the edge columns of a part, with `known:<name>` for labels with missing values."""
    return {name: _column(part.in_edges, name) for name in _names([part])}


def _names(parts: Sequence[PartTables]) -> list[str]:
    """Return the edge columns' names, and `known:<name>` for labels with missing values."""
    names = parts[0].in_edges.column_names
    labels = [name for name in names if name.startswith("label:")]
    gaps = [name for name in labels if any(p.in_edges[name].null_count for p in parts)]
    return [*names, *(_KNOWN + name.removeprefix("label:") for name in gaps)]


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    if name.startswith(_KNOWN):
        known = table["label:" + name.removeprefix(_KNOWN)].is_valid()
        return np.asarray(known.to_numpy(zero_copy_only=False), np.bool_)
    return as_numpy(table[name])
