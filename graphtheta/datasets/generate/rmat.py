"""Generator of RMAT graphs, as in the Graph500 benchmark, whose few hubs have most of the edges.

An edge falls into a quadrant of the adjacency matrix with probabilities a, b, c, d, then into a
quadrant of that quadrant, down to one entry. Six levels together have 4,096 outcomes, one of which
is drawn from 32 bits by the alias method, with probabilities exact to 2^-32. As in Graph500, edges
are directed, and there may be self-loops and parallel edges.

Sources: Chakrabarti, Zhan, Faloutsos, "R-MAT: a recursive model for graph mining", SDM 2004.
Graph500 specification, graph500.org. Vose, "A linear algorithm for generating random numbers with
a given distribution", IEEE Trans. Software Eng. 17(9), 1991.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.datasets.generate.draws import Draw, draw_key, jit, stream
from graphtheta.datasets.generate.folder import (
    GeneratedTable,
    WriteOptions,
    refuse_below,
    refuse_unless,
    write_folder,
)
from graphtheta.rng.permutation import Permutation, permuted
from graphtheta.rng.philox import Purpose, philox

__all__ = ["GRAPH500", "IDS", "rmat", "rmat_edges"]

GRAPH500 = (0.57, 0.19, 0.19, 0.05)
IDS = ("dense", "int64", "string")
_LEVELS = 6
_BATCH = 512  # edges whose random numbers are in the cache at the same time
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def rmat(
    out: Path | str,
    *,
    scale: int = 20,
    edge_factor: int = 16,
    ids: str = "dense",
    scramble: bool = True,
    with_nodes: bool = False,
    quadrants: tuple[float, float, float, float] = GRAPH500,
    seed: int = 0,
    **writing: Unpack[WriteOptions],
) -> Path:
    """Write an RMAT graph of 2^scale nodes; collective.

    Args:
        out: Folder to write, which does not exist or is empty.
        scale: Binary logarithm of the number of nodes, 1 to 40.
        edge_factor: Edges per node.
        ids: Ids of nodes: `dense`, 0 to 2^scale - 1; `int64`, a permutation of them over 63 bits;
            `string`, these as 16 hexadecimal digits.
        scramble: Whether to shuffle the nodes, as Graph500 does. Otherwise node 0 is the largest
            hub, and degrees follow from the numbers.
        with_nodes: Whether to write a table of all nodes too. Otherwise the graph has only nodes
            with edges.
        quadrants: Probabilities of the (src, dst) halves (0, 0), (0, 1), (1, 0), (1, 1).
        seed: Random seed of the graph.
        writing: Options `comm`, `threads` and `progress` of `write_folder`.

    Returns:
        The folder.

    Raises:
        ConfigError: If an argument is out of range, or `out` cannot be written.
    """
    _check(scale, quadrants)
    refuse_below("rmat", ("edge factor", edge_factor, 0))
    refuse_unless(ids in IDS, "rmat: ids", f"one of {', '.join(IDS)}", repr(ids), "Choose one.")
    num_nodes = 1 << scale
    names = Permutation(1 << 63, seed, Purpose.GENERATE, step=2)

    def name(nodes: NDArray[np.int64]) -> pa.Array:
        if ids == "dense":
            return pa.array(nodes)
        shuffled = names.forward(nodes)
        return pa.array(shuffled) if ids == "int64" else _hexadecimal(shuffled)

    def edges(start: int, stop: int) -> pa.Table:
        ends = rmat_edges(
            start, stop, scale=scale, seed=seed, scramble=scramble, quadrants=quadrants
        )
        return pa.table(dict(zip(("src", "dst"), map(name, ends), strict=True)))

    def nodes(start: int, stop: int) -> pa.Table:
        return pa.table({"id": name(np.arange(start, stop))})

    # Measured: delta-packed dense ids take 6.3 bytes per edge at scale 24 and decode faster than
    # plain ones. Shuffled ids do not compress. For text, zstd halves the size at no cost.
    encoding = {"dense": "DELTA_BINARY_PACKED", "int64": "PLAIN"}.get(
        ids, "DELTA_LENGTH_BYTE_ARRAY"
    )
    written = {
        "use_dictionary": False,
        "compression": "zstd" if ids == "string" else "none",
        "column_encoding": encoding,
    }
    tables = [GeneratedTable("edges", num_nodes * edge_factor, edges, 64, written)]
    if with_nodes:
        tables.append(GeneratedTable("nodes", num_nodes, nodes, 64, written))
    about = {
        "generator": "rmat",
        "scale": scale,
        "edge_factor": edge_factor,
        "ids": ids,
        "scramble": scramble,
        "quadrants": quadrants,
        "seed": seed,
    }
    return write_folder(out, tables, about, **writing)


def rmat_edges(
    start: int,
    stop: int,
    *,
    scale: int,
    seed: int = 0,
    scramble: bool = True,
    quadrants: tuple[float, float, float, float] = GRAPH500,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return edges [start, stop) of the graph that `rmat` writes with dense ids.

    Shape:
        Returns src and dst, each (stop - start,) int64 in [0, 2^scale).

    Raises:
        ConfigError: If an argument is out of range.
    """
    _check(scale, quadrants)
    src, dst = (np.empty(stop - start, np.int64) for _ in range(2))
    node_order = Permutation(1 << scale, seed, Purpose.GENERATE, step=1)
    _edges(
        start,
        scale,
        _alias_table(quadrants),
        stream(Draw.ENDS),
        draw_key(seed),
        scramble,
        node_order.spec,
        src,
        dst,
    )
    return src, dst


def _check(scale: int, quadrants: tuple[float, ...]) -> None:
    refuse_unless(1 <= scale <= 40, "rmat: scale", "1 to 40", scale, "Choose a scale in between.")
    whole = len(quadrants) == 4 and min(quadrants) >= 0 and abs(sum(quadrants) - 1) < 1e-9
    remedy = "Correct the probabilities."
    refuse_unless(whole, "rmat: quadrants", "four that sum to 1", quadrants, remedy)


@cache
def _alias_table(quadrants: tuple[float, float, float, float]) -> NDArray[np.uint32]:
    """Return the alias table of six levels.

    An outcome is six bits of src and six bits of dst. It is drawn from 32 random bits w as follows.
    Column w >> 20 of the table contains a threshold in its upper 20 bits and another outcome in its
    lower 12. The result is the column itself if the lower 20 bits of w are less than the threshold,
    and the other outcome otherwise.

    Shape:
        Returns (4096,) uint32.
    """
    outcomes = np.arange(1 << (2 * _LEVELS))
    chance = np.ones(len(outcomes))
    for level in range(_LEVELS):
        src, dst = (outcomes >> (level + _LEVELS)) & 1, (outcomes >> level) & 1
        chance *= np.asarray(quadrants)[2 * src + dst]
    # Multiples of 2^-32 that sum to 1, by the method of largest remainders.
    exact = chance / chance.sum() * 2.0**32
    weight = np.floor(exact).astype(np.int64)
    short = (1 << 32) - int(weight.sum())
    weight[np.argsort(weight - exact, kind="stable")[:short]] += 1
    full = (1 << 32) // len(outcomes)
    threshold, other = np.zeros(len(outcomes), np.int64), outcomes.copy()
    light = [int(o) for o in np.flatnonzero(weight < full)]
    heavy = [int(o) for o in np.flatnonzero(weight > full)]
    while light:  # a heavy outcome fills the rest of a light column
        column, donor = light.pop(), heavy[-1]
        threshold[column], other[column] = weight[column], donor
        weight[donor] -= full - weight[column]
        if weight[donor] <= full:
            heavy.pop()
            if weight[donor] < full:
                light.append(donor)
    return (threshold << (2 * _LEVELS) | other).astype(np.uint32)


@jit
def _deeper(
    src: np.uint64, dst: np.uint64, word: np.uint32, table: NDArray[np.uint32]
) -> tuple[np.uint64, np.uint64]:
    """Return the ends of an edge six levels deeper."""
    column = word >> np.uint32(20)
    entry = table[column]
    below = (word & np.uint32(0xFFFFF)) < (entry >> np.uint32(12))
    outcome = np.uint64(column if below else entry & np.uint32(0xFFF))
    six, ones = np.uint64(_LEVELS), np.uint64((1 << _LEVELS) - 1)
    return (src << six) | (outcome >> six), (dst << six) | (outcome & ones)


@jit
def _edges(
    first: int,
    scale: int,
    table: NDArray[np.uint32],
    ends: np.uint32,
    key: NDArray[np.uint32],
    scramble: bool,
    node_order: NDArray[np.uint64],
    src_E: NDArray[np.int64],
    dst_E: NDArray[np.int64],
) -> None:
    blocks = (scale + 4 * _LEVELS - 1) // (4 * _LEVELS)
    surplus = np.uint64(blocks * 4 * _LEVELS - scale)
    words = np.empty((4, _BATCH), np.uint32)
    for start in range(0, src_E.shape[0], _BATCH):
        count = min(_BATCH, src_E.shape[0] - start)
        src, dst = src_E[start : start + count], dst_E[start : start + count]
        src[:] = 0
        dst[:] = 0
        for block in range(blocks):
            _draw(words, first + start, count, np.uint32(block), ends, key)
            for i in range(count):
                row, column = np.uint64(src[i]), np.uint64(dst[i])
                for word in range(4):
                    row, column = _deeper(row, column, words[word, i], table)
                src[i] = np.int64(row)
                dst[i] = np.int64(column)
        for i in range(count):
            # All levels have the same probabilities, so that surplus ones can be dropped.
            row, column = np.uint64(src[i]) >> surplus, np.uint64(dst[i]) >> surplus
            if scramble:
                row, column = permuted(row, node_order), permuted(column, node_order)
            src[i] = np.int64(row)
            dst[i] = np.int64(column)


@jit
def _draw(
    words: NDArray[np.uint32],
    first: int,
    count: int,
    block: np.uint32,
    ends: np.uint32,
    key: NDArray[np.uint32],
) -> None:
    # A separate loop over four arrays, which the compiler vectorises.
    w0, w1, w2, w3 = words[0], words[1], words[2], words[3]
    k0, k1 = key[0], key[1]
    for i in range(np.uint32(count)):
        e = np.uint64(first) + np.uint64(i)
        a, b, c, d = philox(block, np.uint32(e), np.uint32(e >> np.uint64(32)), ends, k0, k1)
        w0[i] = a
        w1[i] = b
        w2[i] = c
        w3[i] = d


@jit
def _digits(values: NDArray[np.int64], hexadecimal: NDArray[np.uint8], out: Any) -> None:
    for i in range(values.shape[0]):
        value = np.uint64(values[i])
        for digit in range(16):
            out[i, 15 - digit] = hexadecimal[value & np.uint64(15)]
            value >>= np.uint64(4)


def _hexadecimal(values: NDArray[np.int64]) -> pa.Array:
    digits = np.empty((len(values), 16), np.uint8)
    _digits(values, _HEX, digits)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(16)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(digits))
