"""Generator of a power-law graph with many attributes and with labels that depend on them.

It resembles the graph of Alipay in the paper on GraphTheta (arXiv 2104.10569): 1.4 billion nodes
with 575 attributes, 4.1 billion edges with 57, degrees up to hundreds of thousands, and a binary
label. The degrees have a tail of exponent 3. At full size, the largest in-degree is E / sqrt(N),
about 110,000.

Node v is in class 1 if

    s(v) / 2 + sum over in-edges (u, v) with first attribute > 0 of s(u) / sqrt(in-degree of v) > 0

where s is the sum of the first `INFORMATIVE` attributes with alternating signs, divided by
sqrt(INFORMATIVE). Then one label in twenty is flipped. The other attributes carry no information.
Edges are numbered by the popularity of their destinations in closed form, so that the in-edges of
a node are known without a graph in memory: edge e ends at position floor(N (e / E)^2) of the order
of popularity. Rows are a permutation of this numbering.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import matrix_column, node_table
from graphtheta.datasets.generate.draws import (
    Draw,
    bell,
    draw_key,
    jit,
    node_splits,
    popular_rank,
    random_bits,
    stream,
    unit,
)
from graphtheta.datasets.generate.folder import (
    GeneratedTable,
    WriteOptions,
    parquet_options,
    refuse_below,
    write_folder,
)
from graphtheta.rng.permutation import Permutation, permuted, unpermuted
from graphtheta.rng.philox import Purpose, philox

__all__ = ["INFORMATIVE", "attributed"]

INFORMATIVE = 8
_FLIPPED = np.uint32(0.05 * 2**32)


def attributed(
    out: Path | str,
    *,
    nodes: int = 100_000,
    edge_factor: int = 3,
    node_attributes: int = 575,
    edge_attributes: int = 57,
    seed: int = 0,
    **writing: Unpack[WriteOptions],
) -> Path:
    """Write a power-law graph with attributes on nodes and edges; collective.

    Nodes have `features`, a boolean `label:y` and `split:split` (60 % training, 20 % validation,
    20 % test). Edges have `attr`. Attributes have mean 0 and variance 1.

    Args:
        out: Folder to write, which does not exist or is empty.
        nodes: Number of nodes; their ids are 0 to nodes - 1.
        edge_factor: Edges per node.
        node_attributes: Attributes per node, at least `INFORMATIVE`.
        edge_attributes: Attributes per edge.
        seed: Random seed of the graph.
        writing: Options `comm`, `threads` and `progress` of `write_folder`.

    Returns:
        The folder.

    Raises:
        ConfigError: If an argument is out of range, or `out` cannot be written.
    """
    refuse_below(
        "attributed",
        ("nodes", nodes, 2),
        ("edge factor", edge_factor, 1),
        ("node attributes", node_attributes, INFORMATIVE),
        ("edge attributes", edge_attributes, 1),
    )
    edges = nodes * edge_factor
    node_order = Permutation(nodes, seed, Purpose.GENERATE).spec
    edge_order = Permutation(edges, seed, Purpose.GENERATE, step=3).spec
    key = draw_key(seed)
    streams = tuple(map(stream, (Draw.NODE, Draw.EDGE, Draw.PLACE, Draw.LABEL)))

    def node_rows(start: int, stop: int) -> pa.Table:
        values_RF = np.empty((stop - start, node_attributes), np.float32)
        labels = np.empty(stop - start, np.bool_)
        keys = np.arange(start, stop)
        _values(keys, streams[0], key, values_RF)
        _labels(keys, nodes, edges, node_order, streams, key, labels)
        return node_table(keys, values_RF, labels, node_splits(start, stop, seed))

    def edge_rows(start: int, stop: int) -> pa.Table:
        src, dst, number = (np.empty(stop - start, np.int64) for _ in range(3))
        _ends(start, nodes, edges, node_order, edge_order, streams[2], key, number, src, dst)
        values_RF = np.empty((stop - start, edge_attributes), np.float32)
        _values(number, streams[1], key, values_RF)
        return pa.table({"src": src, "dst": dst, "attr": matrix_column(values_RF)})

    # Attributes have 1,021 different values, so that a dictionary takes a third of the space.
    node_options = parquet_options(["id"], dictionary=["features.list.element"])
    edge_options = parquet_options(["src", "dst"], dictionary=["attr.list.element"])
    tables = [
        GeneratedTable("nodes", nodes, node_rows, 4 * node_attributes + 10, node_options),
        GeneratedTable("edges", edges, edge_rows, 4 * edge_attributes + 24, edge_options),
    ]
    about = {
        "generator": "attributed",
        "nodes": nodes,
        "edge_factor": edge_factor,
        "node_attributes": node_attributes,
        "edge_attributes": edge_attributes,
        "seed": seed,
    }
    return write_folder(out, tables, about, **writing)


@jit
def _values(
    keys: NDArray[np.int64], stream_id: np.uint32, key: NDArray[np.uint32], out: NDArray[np.float32]
) -> None:
    width = out.shape[1]
    for i in range(out.shape[0]):
        low, high = np.uint32(keys[i]), np.uint32(np.uint64(keys[i]) >> np.uint64(32))
        for column in range(0, width, 4):
            a, b, c, d = philox(np.uint32(column >> 2), low, high, stream_id, key[0], key[1])
            draws = (np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d))
            for lane in range(min(4, width - column)):
                out[i, column + lane] = bell(draws[lane])


@jit
def _dst_rank(edge: Any, nodes: Any, edges: Any) -> Any:
    share = np.float64(edge) / np.float64(edges)
    return min(np.int64(np.float64(nodes) * (share * share)), nodes - 1)


@jit
def _first_edge(rank: Any, nodes: Any, edges: Any) -> Any:
    """Return the first edge whose destination has this position in the order, or a later one."""
    edge = np.int64(np.float64(edges) * np.sqrt(np.float64(rank) / np.float64(nodes)))
    while edge > 0 and _dst_rank(edge - 1, nodes, edges) >= rank:
        edge -= 1
    while edge < edges and _dst_rank(edge, nodes, edges) < rank:
        edge += 1
    return edge


@jit
def _src_rank(
    edge: Any, dst_rank: Any, nodes: Any, stream_id: np.uint32, key: NDArray[np.uint32]
) -> Any:
    a, b, _c, _d = random_bits(edge, stream_id, key)
    rank = popular_rank(unit(np.uint32(a), np.uint32(b)), nodes - 1, True)
    return rank + (rank >= dst_rank)  # drawn among the other nodes, without self-loops


@jit
def _ends(
    first: int,
    nodes: int,
    edges: int,
    node_order: NDArray[np.uint64],
    edge_order: NDArray[np.uint64],
    stream_id: np.uint32,
    key: NDArray[np.uint32],
    number: NDArray[np.int64],
    src: NDArray[np.int64],
    dst: NDArray[np.int64],
) -> None:
    for i in range(src.shape[0]):
        edge = np.int64(permuted(np.uint64(first + i), edge_order))
        rank = _dst_rank(edge, nodes, edges)
        number[i] = edge
        src[i] = np.int64(
            permuted(np.uint64(_src_rank(edge, rank, nodes, stream_id, key)), node_order)
        )
        dst[i] = np.int64(permuted(np.uint64(rank), node_order))


@jit
def _score(node: np.uint64, stream_id: np.uint32, key: NDArray[np.uint32]) -> np.float64:
    low, high = np.uint32(node), np.uint32(node >> np.uint64(32))
    total = np.float64(0.0)
    for block in range(INFORMATIVE // 4):
        a, b, c, d = philox(np.uint32(block), low, high, stream_id, key[0], key[1])
        total += np.float64(bell(np.uint32(a))) - np.float64(bell(np.uint32(b)))
        total += np.float64(bell(np.uint32(c))) - np.float64(bell(np.uint32(d)))
    return np.float64(total / np.sqrt(np.float64(INFORMATIVE)))


@jit
def _labels(
    keys: NDArray[np.int64],
    nodes: int,
    edges: int,
    node_order: NDArray[np.uint64],
    streams: Any,
    key: NDArray[np.uint32],
    out: NDArray[np.bool_],
) -> None:
    of_node, of_edge, of_end, of_label = streams
    for i in range(out.shape[0]):
        node = np.uint64(keys[i])
        rank = np.int64(unpermuted(node, node_order))
        first, last = _first_edge(rank, nodes, edges), _first_edge(rank + 1, nodes, edges)
        total = np.float64(0.0)
        for edge in range(first, last):
            a, _b, _c, _d = random_bits(edge, of_edge, key)
            if bell(np.uint32(a)) > 0:
                source = _src_rank(edge, rank, nodes, of_end, key)
                total += _score(permuted(np.uint64(source), node_order), of_node, key)
        in_degree = np.float64(max(1, last - first))
        total = np.float64(0.5) * _score(node, of_node, key) + total / np.sqrt(in_degree)
        a, _b, _c, _d = random_bits(node, of_label, key)
        out[i] = (total > 0) != (np.uint32(a) < _FLIPPED)
