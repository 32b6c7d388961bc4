"""This rank's block of a graph: its rows of nodes and edges, checked, and in keys.

A rank reads rows [n * rank // size, n * (rank + 1) // size) of each table and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.columns import in_range, refuse, validate_edges, validate_nodes, whole
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import GraphFormatError
from graphtheta.partition.blocks import Blocks
from graphtheta.partition.columns import column_numpy, contiguous
from graphtheta.partition.ids import IdDirectory, sorted_unique
from graphtheta.partition.shuffle import shuffle
from graphtheta.partition.source import GraphSource
from graphtheta.partition.stream import EdgeStream

__all__ = ["EDGE_KEYS", "NODE_KEYS", "GraphBlock", "read_block"]

NODE_KEYS = ("node_key", "original_id", "in_degree", "out_degree")
EDGE_KEYS = ("edge_key", "in_position")


@dataclass(frozen=True, slots=True)
class GraphBlock:
    """One rank's rows of a graph.

    Attributes:
        nodes: Which node is in whose block.
        ids: Original ids of this block's nodes.
        node_columns: The other node columns, a row a node of this block.
        num_edges: Edges of the whole graph, reverse ones included.
        src, dst: Node keys of this rank's edges.
        edge_key: Ascending.
        num_forward: How many of this rank's edges are input rows; the others are their reverses.
        edge_columns: A row an edge.

    Shape:
        src, dst, edge_key: (E,) int64, of this rank's edges.
    """

    nodes: Blocks
    ids: pa.Array
    node_columns: pa.Table
    num_edges: int
    src: NDArray[np.int64]
    dst: NDArray[np.int64]
    edge_key: NDArray[np.int64]
    num_forward: int
    edge_columns: pa.Table

    def stream(self) -> EdgeStream:
        """Return the topology as partitioners see it."""
        return EdgeStream(self.nodes.total, self.num_edges, [(self.src, self.dst)])


def read_block(source: GraphSource, *, undirected: bool, comm: Communicator) -> GraphBlock:
    """Read, check and key this rank's rows; collective.

    Args:
        source: The graph.
        undirected: Add the reverse of every edge that is not a self-loop; the reverse of edge e
            has edge_key e + (number of input edges) and the same columns.
        comm: The ranks.

    Raises:
        GraphFormatError: If the graph has no node, a value is wrong, an id is used twice, an edge
            names an unknown node, or a column has a name that the store uses.

    Communication:
        Ids, as `IdDirectory` and `sorted_unique` say.
    """
    rows = Blocks(source.num_edges, comm)
    edges = contiguous(source.edge_rows(rows.start, rows.stop))
    validate_edges(edges, "edges", rows.start)
    _refuse_names(edges.column_names, EDGE_KEYS, "edges")
    if source.num_nodes is None:
        nodes, table, directory = _nodes_of_edges(edges, comm)
    else:
        nodes = Blocks(source.num_nodes, comm)
        table = contiguous(source.node_rows(nodes.start, nodes.stop))
        validate_nodes(table, "nodes", nodes.start)
        directory = IdDirectory(whole(table["id"]), nodes.start, comm)
    _refuse_names(table.column_names, NODE_KEYS, "nodes")
    if nodes.total == 0:
        raise GraphFormatError(
            "nodes: expected at least one node, got none. Check that the input is not empty."
        )
    if source.keyed and source.num_nodes is not None:
        src, dst = (_keys(edges, end, nodes.total, rows.start) for end in ("src", "dst"))
    else:
        src, dst = (
            directory.lookup(whole(edges[end]), f"edges: {end}", rows.start)
            for end in ("src", "dst")
        )
    block = GraphBlock(
        nodes=nodes,
        ids=whole(table["id"]),
        node_columns=table.drop_columns(["id"]),
        num_edges=source.num_edges,
        src=src,
        dst=dst,
        edge_key=rows.keys(),
        num_forward=len(rows),
        edge_columns=edges.drop_columns(["src", "dst"]),
    )
    return _symmetrised(block, comm) if undirected else block


def _nodes_of_edges(edges: pa.Table, comm: Communicator) -> tuple[Blocks, pa.Table, IdDirectory]:
    if edges["src"].type != edges["dst"].type:
        raise refuse(
            "edges: dst",
            f"ids of type {edges['src'].type} as in src",
            edges["dst"].type,
            "Convert one.",
        )
    ends = pa.chunked_array([*edges["src"].chunks, *edges["dst"].chunks], edges["src"].type)
    ids, first_key, total = sorted_unique(ends, comm)
    directory = IdDirectory(ids, first_key, comm)
    nodes = Blocks(total, comm)
    keys = np.arange(first_key, first_key + len(ids), dtype=np.int64)
    # Ranges of a sort are in rank order, so rows arrive in key order.
    table = shuffle(pa.table({"id": ids}), nodes.owner(keys), comm, stage="deal nodes")
    return nodes, contiguous(table), directory


def _keys(edges: pa.Table, end: str, num_nodes: int, first_row: int) -> NDArray[np.int64]:
    where = f"edges: {end}"
    column = whole(edges[end])
    if not pa.types.is_int64(column.type):
        raise refuse(where, "int64 node keys", column.type, "Convert the column.")
    in_range(column, 0, num_nodes - 1, where, first_row, f"node keys in [0, {num_nodes:,})")
    return column_numpy(edges, end)


def _symmetrised(block: GraphBlock, comm: Communicator) -> GraphBlock:
    apart = np.flatnonzero(block.src != block.dst)
    counts = comm.all_gather_int(apart.shape[0], stage="count reverse edges")
    columns = block.edge_columns
    return GraphBlock(
        nodes=block.nodes,
        ids=block.ids,
        node_columns=block.node_columns,
        num_edges=block.num_edges + int(counts.sum()),
        src=np.concatenate([block.src, block.dst[apart]]),
        dst=np.concatenate([block.dst, block.src[apart]]),
        edge_key=np.concatenate([block.edge_key, block.edge_key[apart] + block.num_edges]),
        num_forward=block.num_forward,
        edge_columns=pa.concat_tables([columns, columns.take(pa.array(apart))]),
    )


def _refuse_names(names: Iterable[str], reserved: Iterable[str], where: str) -> None:
    for name in sorted(set(names) & set(reserved)):
        raise refuse(
            where, f"no column of the store's own name {name!r}", "one", "Rename the column."
        )
