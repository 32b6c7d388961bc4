"""Negative samples: edges in which a random node replaces one endpoint.

A draw depends on seed, step, edge_key and number of the negative, so that it is the same on any
number of workers. A negative may happen to be an edge of the graph, even the original one. With
many nodes this is rare, and looking it up would cost more than it gains.

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
    """Raise a ConfigError if the options of negatives are wrong."""
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
    bound: NDArray[np.int64] | int,
    *,
    seed: int,
    step: int,
    evaluation: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw `number` nodes for each edge.

    Args:
        edge_keys: Keys of the edges.
        number: Negatives for each edge, at least 1.
        corrupt: Endpoint that is replaced; "both" replaces one of them at random.
        bound: Number of nodes to draw from: one number, or for each edge the number of nodes that
            may replace its source and its destination.
        seed: Random seed.
        step: Number of the step.
        evaluation: Whether to draw from a random stream that training does not use.

    Shape:
        edge_keys: (T,). bound: (T, 2). Returns (T, number) int64 in [0, bound), and (T, number)
        bool: whether the node replaces the source.
    """
    blocks = -(-number // 2)
    counters = np.empty((len(edge_keys), blocks, 4), np.uint32)
    counters[..., 0] = np.arange(blocks)
    counters[..., 1] = (edge_keys & 0xFFFFFFFF)[:, None]
    counters[..., 2] = (edge_keys >> 32)[:, None]
    counters[..., 3] = stream_id(Purpose.NEGATIVE, layer=int(evaluation))
    bits = philox4x32(counters.reshape(-1, 4), step_key(seed, step)).view(np.uint64)
    bits = bits.reshape(len(edge_keys), 2 * blocks)[:, :number]
    at_source = np.full(bits.shape, corrupt == "src")
    if corrupt == "both":
        at_source = (bits & np.uint64(1)).astype(np.bool_)
    of_source, of_destination = np.broadcast_to(bound, (len(edge_keys), 2)).T[..., None]
    bounds = np.maximum(np.where(at_source, of_source, of_destination), 1).astype(np.uint64)
    # 63 bits: for fewer than 2^31 nodes, probabilities differ by a factor of at most 1 + 2^-32.
    return ((bits >> np.uint64(1)) % bounds).astype(np.int64), at_source
