"""Generator of planted communities: groups with most edges inside, labels and features.

Nodes have an order of popularity, and node_key is a permutation of it. Position p of the order
belongs to group p mod G, so that every group has hubs. The source of an edge is drawn by
popularity, and its destination is drawn by popularity too, inside the group of the source or among
all nodes. Every group has a class. The label of a node is the class of its group, except that one
label in ten is drawn at random. Its features are the centroid of the class of its group plus noise,
so that the features of a node predict its label badly, and those of its neighbours predict it well.
There are no self-loops; there may be parallel edges.

Source: Condon, Karp, "Algorithms for graph partitioning on the planted partition model", 2001 (the
uniform case).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import node_table
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
    refuse_unless,
    write_folder,
)
from graphtheta.rng.permutation import Permutation, permuted, unpermuted
from graphtheta.rng.philox import Purpose, philox

__all__ = ["DEGREES", "communities"]

DEGREES = ("power-law", "uniform")
_LABEL_NOISE = np.uint32(0.1 * 2**32)
_SIGNAL = 2.4  # length of a centroid; the noise has variance 1 in every direction


def communities(
    out: Path | str,
    *,
    nodes: int = 100_000,
    edge_factor: int = 16,
    features: int = 64,
    classes: int = 16,
    group_size: int = 256,
    inside: float = 0.8,
    degrees: str = "power-law",
    seed: int = 0,
    **writing: Unpack[WriteOptions],
) -> Path:
    """Write a graph of planted communities; collective.

    Nodes have `features`, `label:y` (a class) and `split:split` (60 % training, 20 % validation,
    20 % test).

    Args:
        out: Folder to write, which does not exist or is empty.
        nodes: Number of nodes; their ids are 0 to nodes - 1.
        edge_factor: Edges per node.
        features: Features per node.
        classes: Number of classes.
        group_size: Nodes per group; some groups have one less.
        inside: Fraction of edges whose destination is drawn inside the group. Of the other edges,
            some are inside by chance.
        degrees: `power-law`, with a tail of exponent 3, or `uniform`.
        seed: Random seed of the graph.
        writing: Options `comm`, `threads` and `progress` of `write_folder`.

    Returns:
        The folder.

    Raises:
        ConfigError: If an argument is out of range, or `out` cannot be written.
    """
    refuse_below(
        "communities",
        ("nodes", nodes, 2),
        ("edge factor", edge_factor, 0),
        ("features", features, 1),
        ("classes", classes, 1),
        ("group size", group_size, 1),
    )
    where = "communities: inside"
    refuse_unless(0 <= inside <= 1, where, "a fraction of 0 to 1", inside, "Correct it.")
    where = "communities: degrees"
    refuse_unless(degrees in DEGREES, where, f"one of {', '.join(DEGREES)}", degrees, "Choose one.")
    groups = -(-nodes // group_size)
    node_order = Permutation(nodes, seed, Purpose.GENERATE).spec
    key = draw_key(seed)
    centroids_CF = np.empty((classes, features), np.float32)
    _centroids(_SIGNAL / features**0.5, stream(Draw.CENTROID), key, centroids_CF)

    def node_rows(start: int, stop: int) -> pa.Table:
        labels = np.empty(stop - start, np.int64)
        values_RF = np.empty((stop - start, features), np.float32)
        streams = (stream(Draw.GROUP), stream(Draw.LABEL), stream(Draw.NODE))
        _nodes(start, groups, node_order, centroids_CF, streams, key, labels, values_RF)
        keys = np.arange(start, stop)
        return node_table(keys, values_RF, labels, node_splits(start, stop, seed))

    def edge_rows(start: int, stop: int) -> pa.Table:
        src, dst = (np.empty(stop - start, np.int64) for _ in range(2))
        power_law = degrees == "power-law"
        _edges(
            start, nodes, groups, inside, power_law, node_order, stream(Draw.ENDS), key, src, dst
        )
        return pa.table({"src": src, "dst": dst})

    node_options, edge_options = parquet_options(["id"]), parquet_options(["src", "dst"])
    tables = [
        GeneratedTable("nodes", nodes, node_rows, 4 * features + 17, node_options),
        GeneratedTable("edges", nodes * edge_factor, edge_rows, 64, edge_options),
    ]
    about = {
        "generator": "communities",
        "nodes": nodes,
        "edge_factor": edge_factor,
        "features": features,
        "classes": classes,
        "group_size": group_size,
        "inside": inside,
        "degrees": degrees,
        "seed": seed,
    }
    return write_folder(out, tables, about, **writing)


@jit
def _centroids(scale: float, stream_id: np.uint32, key: NDArray[np.uint32], out: Any) -> None:
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            a, _b, _c, _d = philox(
                np.uint32(column), np.uint32(row), np.uint32(0), stream_id, key[0], key[1]
            )
            out[row, column] = bell(np.uint32(a)) * np.float32(scale)


@jit
def _class(
    group: np.uint64, classes: int, stream_id: np.uint32, key: NDArray[np.uint32]
) -> np.int64:
    a, _b, _c, _d = random_bits(group, stream_id, key)
    return np.int64((np.uint64(np.uint32(a)) * np.uint64(classes)) >> np.uint64(32))


@jit
def _nodes(
    first: int,
    groups: int,
    node_order: NDArray[np.uint64],
    centroids: NDArray[np.float32],
    streams: tuple[np.uint32, np.uint32, np.uint32],
    key: NDArray[np.uint32],
    labels: NDArray[np.int64],
    values: NDArray[np.float32],
) -> None:
    of_group, of_label, of_node = streams
    classes, width = centroids.shape
    for i in range(values.shape[0]):
        node = np.uint64(first + i)
        low, high = np.uint32(node), np.uint32(node >> np.uint64(32))
        group = unpermuted(node, node_order) % np.uint64(groups)
        kind = _class(group, classes, of_group, key)
        noise, other, _c, _d = random_bits(node, of_label, key)
        labels[i] = kind
        if np.uint32(noise) < _LABEL_NOISE:
            drawn = np.uint64(np.uint32(other)) * np.uint64(classes)
            labels[i] = np.int64(drawn >> np.uint64(32))
        for column in range(0, width, 4):
            a, b, c, d = philox(np.uint32(column >> 2), low, high, of_node, key[0], key[1])
            draws = (np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d))
            for lane in range(min(4, width - column)):
                at = column + lane
                values[i, at] = centroids[kind, at] + bell(draws[lane])


@jit
def _edges(
    first: int,
    nodes: int,
    groups: int,
    inside: float,
    power_law: bool,
    node_order: NDArray[np.uint64],
    stream_id: np.uint32,
    key: NDArray[np.uint32],
    src: NDArray[np.int64],
    dst: NDArray[np.int64],
) -> None:
    for i in range(src.shape[0]):
        edge = np.uint64(first + i)
        low, high = np.uint32(edge), np.uint32(edge >> np.uint64(32))
        a, b, c, d = random_bits(edge, stream_id, key)
        e, f, _g, _h = philox(np.uint32(1), low, high, stream_id, key[0], key[1])
        position = popular_rank(unit(np.uint32(a), np.uint32(b)), nodes, power_law)
        group, member = position % groups, position // groups
        members = (nodes - group + groups - 1) // groups
        u = unit(np.uint32(c), np.uint32(d))
        # Drawn among the other nodes, without self-loops.
        if members > 1 and unit(np.uint32(e), np.uint32(f)) < inside:
            other = popular_rank(u, members - 1, power_law)
            other = (other + (other >= member)) * groups + group
        else:
            other = popular_rank(u, nodes - 1, power_law)
            other += other >= position
        src[i] = np.int64(permuted(np.uint64(position), node_order))
        dst[i] = np.int64(permuted(np.uint64(other), node_order))
