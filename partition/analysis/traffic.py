"""Traffic between parts: number of mirrors for each pair of parts, and the bytes they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LayerBytes", "Traffic", "predict_bytes"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Number of mirrors for each pair of parts that has any: K pairs, sorted by owner, then holder.

    Attributes:
        num_parts: Number of parts (P).
        owner: Part of the masters.
        holder: Part of the mirrors.
        mirrors: Number of mirrors.
        sync: Number of mirrors with out-edges (role 1 or 3), which receive the values of masters.
        merge: Number of mirrors with in-edges (role 2 or 3), which send partial sums to masters; 0
            in an edge-cut.

    Shape:
        owner, holder, mirrors, sync, merge: (K,) int64.
    """

    num_parts: int
    owner: NDArray[np.int64]
    holder: NDArray[np.int64]
    mirrors: NDArray[np.int64]
    sync: NDArray[np.int64]
    merge: NDArray[np.int64]

    def matrix(self, values_K: NDArray[np.int64], max_size: int = 256) -> NDArray[np.int64]:
        """Return a dense matrix of values by owner (row) and holder (column).

        With more than `max_size` parts, a cell sums the values of several consecutive parts.

        Shape:
            values_K: (K,). Returns (B, B) int64, with B = ceil(P / parts_per_cell(max_size)).
        """
        parts = self.parts_per_cell(max_size)
        size = -(-self.num_parts // parts)
        cells = np.zeros((size, size), np.int64)
        np.add.at(cells, (self.owner // parts, self.holder // parts), values_K)
        return cells

    def parts_per_cell(self, max_size: int = 256) -> int:
        """Return the number of parts that one row or column of `matrix` covers."""
        return -(-self.num_parts // max_size)

    def as_json(self) -> dict[str, Any]:
        """Return the columns as a dict of lists."""
        names = ("owner", "holder", "mirrors", "sync", "merge")
        return {name: getattr(self, name).tolist() for name in names}


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Bytes of payload that all parts together send.

    Attributes:
        sync: From masters to mirrors, in the forward pass of one layer.
        merge: From mirrors to masters, in the forward pass of one layer.
        busiest: From the part that sends most, in the forward pass of one layer.
        layer: Forward and backward pass of one layer.
        epoch: Forward and backward pass of all layers: one epoch of global-batch training, without
            the all-reduce of gradients and without evaluation.
    """

    sync: int
    merge: int
    busiest: int
    layer: int
    epoch: int


def predict_bytes(
    traffic: Traffic, width: int, *, itemsize: int = 4, layers: int = 1, reads_dst: bool = False
) -> LayerBytes:
    """Predict the bytes that layers send if each part has its own worker and all nodes are active.

    With S mirrors with out-edges, D mirrors with in-edges, and rows of width * itemsize bytes:

        sync  = S * row            (reads_dst: (S + D) * row)
        merge = D * row
        layer = 2 * (sync + merge)
        epoch = layers * layer

    The backward pass is the forward pass transposed: gradients of mirrors go to the masters, and
    gradients of sums go to the mirrors, in rows of the same width. It sends less where no gradient
    is needed: a first layer that sends the input features sends nothing back.

    Args:
        traffic: Mirrors for each pair of parts.
        width: Number of values that a layer sends for a node: those outputs of its transform that
            gather reads at the source. Partial sums are taken to have the same width. The one or
            two additional values per head of softmax and mean are not counted.
        itemsize: Bytes of a value: 4 for float32.
        layers: Number of layers of that width.
        reads_dst: Whether gather reads the destination, as attention does. Then mirrors with
            in-edges are synced, too.

    Returns:
        Bytes of payload sent. Each byte is received once.
    """
    row = width * itemsize
    sync_K = traffic.sync + traffic.merge if reads_dst else traffic.sync
    sync, merge = (int(rows_K.sum()) * row for rows_K in (sync_K, traffic.merge))
    sent_P = np.zeros(traffic.num_parts, np.int64)
    np.add.at(sent_P, traffic.owner, sync_K)
    np.add.at(sent_P, traffic.holder, traffic.merge)
    layer = 2 * (sync + merge)
    return LayerBytes(sync, merge, int(sent_P.max()) * row, layer, layers * layer)
