"""Lists of neighbours, and which edges are drawn where several parts hold candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.engine.client.responses import Responses, check_range, fill_missing, wrong
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["Neighbours"]


@dataclass(frozen=True)
class Neighbours:
    """Edges of R nodes, as one list for each node, sorted by edge key.

    Shape:
        indptr: (R + 1,); the list of node r is [indptr[r], indptr[r + 1]). node, node_key: (E,) new
        id and node key of each edge's other end. edge_key: (E,). columns: (E,) or (E, width) each.
    """

    indptr: NDArray[np.int64]
    node: NDArray[np.int64]
    node_key: NDArray[np.int64]
    edge_key: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]

    @classmethod
    def merged(cls, lists: Sequence[tuple[NDArray[np.int64], Neighbours]], num: int) -> Neighbours:
        """Return the edges of several relations, whose keys ascend from one to the next.

        Args:
            lists: Rows of the nodes, and the edges of these nodes, without columns.
            num: Number of nodes.
        """
        row = _joined(np.repeat(rows, np.diff(some.indptr)) for rows, some in lists)
        order = np.argsort(row, kind="stable")
        node, node_key, edge_key = (
            _joined(getattr(some, name) for _, some in lists)[order]
            for name in ("node", "node_key", "edge_key")
        )
        count = np.bincount(row, minlength=num)
        return cls(np.append(0, np.cumsum(count)), node, node_key, edge_key, {})

    @classmethod
    def collect(
        cls,
        responses: Responses,
        num_rows: int,
        num_nodes: int,
        types: Mapping[str, pa.DataType],
        draw: messages.Draw | None,
        *,
        is_sorted: bool,
    ) -> Neighbours:
        """Combine the responses of all servers.

        Args:
            responses: Responses to the method `Neighbours`.
            num_rows: Number of nodes in the query (R).
            num_nodes: Number of nodes of the graph.
            types: Type of each edge column in the responses.
            draw: How edges were drawn. If None, all edges were requested.
            is_sorted: Whether each list comes from one part, which sent it sorted.

        Raises:
            EngineError: If an edge is repeated, a list is too long or not sorted, or an id or
                number is out of range.
        """
        row, edge_key = responses.rows, responses.ids("edge_key")
        if draw is not None and draw.weight and len(row):
            rank, number = responses.numbers("rank", float), responses.numbers("draw", np.int32)
            check_range(number, draw.fanout, "draws")
            if np.isnan(rank).any():
                raise wrong("ranks of draws that are numbers", "NaN")
            order = _lowest_ranks(row, rank, number, draw.fanout, replace=draw.replace)
            order = order[np.lexsort((edge_key[order], row[order]))]
        elif is_sorted:
            order = np.argsort(row, kind="stable")
        else:
            order = np.lexsort((edge_key, row))
        taken = pa.array(order)
        row, edge_key = row[order], edge_key[order]
        count = np.bincount(row, minlength=num_rows)
        if draw is not None and count.max(initial=0) > draw.fanout:
            raise wrong(f"at most {draw.fanout:,} edges of each node", f"{count.max():,}")
        least = 0 if draw is not None and draw.replace else 1
        if ((np.diff(edge_key) < least) & (np.diff(row) == 0)).any():
            raise wrong("edges of each node in ascending order, each once", "others")
        return cls(
            np.append(0, np.cumsum(count)),
            responses.ids("node", num_nodes)[order],
            responses.ids("node_key", num_nodes)[order],
            edge_key,
            {n: fill_missing(responses.graph_column(n, t).take(taken)) for n, t in types.items()},
        )


def _joined(arrays: Iterable[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, np.int64), *arrays])


def _lowest_ranks(
    row: NDArray[np.int64],
    rank: NDArray[np.float64],
    draw: NDArray[np.int32],
    fanout: int,
    *,
    replace: bool,
) -> NDArray[np.int64]:
    """Return which candidates are drawn in a weighted draw: those of the lowest ranks.

    Without replacement, those are the `fanout` lowest of a row. With replacement, every draw of a
    row has candidates of its own, and takes the lowest.

    Shape:
        row, rank, draw: (C,) of all candidates. Returns (D,) positions among the candidates.
    """
    order = np.lexsort((rank, draw, row)) if replace else np.lexsort((rank, row))
    row = row[order]
    group = row if not replace else row * fanout + draw[order]
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(group)])
    number = np.arange(len(group)) - np.repeat(first, np.diff(np.append(first, len(group))))
    drawn: NDArray[np.int64] = order[number < (1 if replace else fanout)]
    return drawn
