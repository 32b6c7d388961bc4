"""Lists of neighbours, and which edges are drawn where several parts hold candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.engine.client.responses import Responses, fill_missing
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
    def collect(
        cls,
        responses: Responses,
        num_rows: int,
        types: Mapping[str, pa.DataType],
        draw: messages.Draw | None,
        *,
        is_sorted: bool,
    ) -> Neighbours:
        """Combine the responses of all servers.

        Args:
            responses: Responses to the method `Neighbours`.
            num_rows: Number of nodes in the query (R).
            types: Type of each edge column in the responses.
            draw: How edges were drawn. If None, all edges were requested.
            is_sorted: Whether each list comes from one part, which sent it sorted.
        """
        row, edge_key = responses.rows, responses.numbers("edge_key", np.int64)
        if draw is not None and draw.weight and len(row):
            rank, number = responses.numbers("rank", float), responses.numbers("draw", np.int32)
            order = _lowest_ranks(row, rank, number, draw.fanout, replace=draw.replace)
            order = order[np.lexsort((edge_key[order], row[order]))]
        elif is_sorted:
            order = np.argsort(row, kind="stable")
        else:
            order = np.lexsort((edge_key, row))
        taken = pa.array(order)
        return cls(
            np.append(0, np.cumsum(np.bincount(row[order], minlength=num_rows))),
            responses.numbers("node", np.int64)[order],
            responses.numbers("node_key", np.int64)[order],
            edge_key[order],
            {n: fill_missing(responses.graph_column(n, t).take(taken)) for n, t in types.items()},
        )


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
