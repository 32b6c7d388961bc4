"""The in-edges of several parts as those of one graph: a column is merged when it is first read.

A part's rows are sorted by edge key, and so are merged ones: some rows at a time, each part's edges
are a run in order already, and sorting merges runs. Nothing as long as the edges is held but the
columns that were asked for; a merge reads 8 bytes an edge beside the column's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.adjacency import stretches
from graphtheta.data.schema import as_numpy
from graphtheta.partition.store.part import PartTables

__all__ = ["MergedEdges", "edge_columns"]

_BLOCK_EDGES = 1 << 21
_BLOCK_ROWS = 1 << 20  # with keys below 2^43, so that row and key fit 63 bits
_KNOWN = "known:"


class MergedEdges(Mapping[str, NDArray[Any]]):
    """Columns of all edges in CSC order, by name.

    Args:
        parts: Whose edges they are.
        local: (R,) int32 of each part: the merged local ids of its replicas.
        num_replicas: L of the merged graph.
        threads: That merge.

    Attributes:
        indptr: (L + 1,) int64 of the merged in-edges.
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
        # Rows of each part by merged local id.
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

    def __contains__(self, name: object) -> bool:  # without a merge
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
                at = stretches(indptr[row], count)
                codes.append((np.repeat(self._id[k][some] - first, count), self._key[k][at]))
                found = column[at]
                values.append(self._local[k][found] if name == "src" else found)
            rows, keys = (np.concatenate(each) for each in zip(*codes, strict=True))
            code = rows * (1 + keys.max(initial=0)) + keys
            order = np.argsort(code, kind="stable")  # timsort, which finds the runs
            merged[self.indptr[first] : self.indptr[last]] = np.concatenate(values)[order]

        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(merge, cuts[:-1].tolist(), cuts[1:].tolist()))
        return merged

    def _cuts(self) -> NDArray[np.int64]:
        """Return rows at which blocks of about as many edges start, and the last one's end."""
        num_rows = len(self.indptr) - 1
        even = np.searchsorted(self.indptr, np.arange(0, self.indptr[-1], _BLOCK_EDGES), "right")
        return np.unique(np.concatenate([even, np.arange(0, num_rows, _BLOCK_ROWS), [num_rows]]))


def edge_columns(part: PartTables) -> dict[str, NDArray[Any]]:
    """Return the columns of a part's edges; of labels that miss values, also which are known."""
    return {name: _column(part.in_edges, name) for name in _names([part])}


def _names(parts: Sequence[PartTables]) -> list[str]:
    """Return the names of edge columns, and `known:<name>` of labels with gaps in any part."""
    names = parts[0].in_edges.column_names
    labels = [name for name in names if name.startswith("label:")]
    gaps = [name for name in labels if any(p.in_edges[name].null_count for p in parts)]
    return [*names, *(_KNOWN + name.removeprefix("label:") for name in gaps)]


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    if name.startswith(_KNOWN):
        known = table["label:" + name.removeprefix(_KNOWN)].is_valid()
        return np.asarray(known.to_numpy(zero_copy_only=False), np.bool_)
    return as_numpy(table[name])
