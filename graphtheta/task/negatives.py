"""Negatives: edges that are probably none, made of an edge by drawing another node for one end.

A draw is keyed by (seed, step), edge_key and its number, so that it does not depend on the workers.
What is drawn may be an edge of the graph after all, or the very edge: among many nodes that is
rare, and to look it up would cost more than it is worth.

Source: Bordes, Usunier, Garcia-Duran, Weston, Yakhnenko, "Translating embeddings for modeling
multi-relational data", NeurIPS 2013.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError
from graphtheta.rng.philox import Purpose, philox4x32, step_key, stream_id

__all__ = ["Corrupted", "check_negatives", "draw_negatives"]

Corrupted = Literal["dst", "src", "both"]


def check_negatives(number: int, corrupt: str) -> None:
    """Raise a ConfigError if these are no options of negatives."""
    if number < 1:
        raise ConfigError(f"link prediction: expected negatives >= 1, got {number}.")
    if corrupt not in get_args(Corrupted):
        raise ConfigError(
            f"link prediction: expected corrupt among {', '.join(get_args(Corrupted))}, got "
            f"'{corrupt}'."
        )


def draw_negatives(
    edge_keys: NDArray[np.int64],
    number: int,
    corrupt: Corrupted,
    bound: int,
    *,
    seed: int,
    step: int,
    evaluation: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw `number` nodes for each edge.

    Args:
        edge_keys: Of the edges.
        number: At least 1.
        corrupt: Which end they take the place of; "both" draws which.
        bound: Nodes to draw from.
        seed: Of the draws.
        step: The same.
        evaluation: Draws of a kind of their own, that training never sees.

    Shape:
        edge_keys: (T,). Returns (T, number) int64 in [0, bound), and whether it is at the source.
    """
    blocks = -(-number // 2)
    counters = np.empty((len(edge_keys), blocks, 4), np.uint32)
    counters[..., 0] = np.arange(blocks)
    counters[..., 1] = (edge_keys & 0xFFFFFFFF)[:, None]
    counters[..., 2] = (edge_keys >> 32)[:, None]
    counters[..., 3] = stream_id(Purpose.NEGATIVE, layer=int(evaluation))
    bits = philox4x32(counters.reshape(-1, 4), step_key(seed, step)).view(np.uint64)
    bits = bits.reshape(len(edge_keys), 2 * blocks)[:, :number]
    # Of 63 bits, and below 2^31 nodes no node is likelier than another by more than 2^-32.
    nodes = ((bits >> np.uint64(1)) % np.uint64(max(bound, 1))).astype(np.int64)
    if corrupt == "both":
        return nodes, (bits & np.uint64(1)).astype(np.bool_)
    return nodes, np.full(nodes.shape, corrupt == "src")
