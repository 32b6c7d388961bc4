"""Which part sends how much to which: mirrors by owner and holder, and bytes they cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LayerBytes", "Traffic", "predict_bytes"]


@dataclass(frozen=True, slots=True)
class Traffic:
    """Mirrors for each pair of parts that have some, sparse: K pairs, by owner, then by holder.

    Attributes:
        num_parts: Parts (P).
        owner: The part that has the masters.
        holder: The part that has the mirrors.
        mirrors: How many mirrors.
        sync: Those with out-edges (role 1 or 3), to which a layer sends the masters' values.
        merge: Those with in-edges (role 2 or 3), which send partial sums to the masters. None in an
            edge-cut.

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
        """Return values by owner (rows) and holder (columns), dense.

        With more than `max_size` parts a cell is the sum over a block of neighbouring parts.

        Shape:
            values_K: (K,). Returns (B, B) int64, B = ceil(P / block), `block` = `block_size`.
        """
        block = self.block_size(max_size)
        size = -(-self.num_parts // block)
        cells = np.zeros((size, size), np.int64)
        np.add.at(cells, (self.owner // block, self.holder // block), values_K)
        return cells

    def block_size(self, max_size: int = 256) -> int:
        """Return how many parts one row or column of `matrix` stands for."""
        return -(-self.num_parts // max_size)

    def as_json(self) -> dict[str, Any]:
        """Return it as lists."""
        names = ("owner", "holder", "mirrors", "sync", "merge")
        return {name: getattr(self, name).tolist() for name in names}


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """Payload that all parts together send for one layer, in bytes.

    Attributes:
        sync: Forward, masters to mirrors.
        merge: Forward, mirrors to masters.
        busiest: What the part that sends most sends forward.
        layer: Forward and backward of one layer.
        epoch: The same for all layers: one global-batch epoch of training, without the all-reduce
            of parameters, and without evaluation.
    """

    sync: int
    merge: int
    busiest: int
    layer: int
    epoch: int


def predict_bytes(
    traffic: Traffic, width: int, *, itemsize: int = 4, layers: int = 1, reads_dst: bool = False
) -> LayerBytes:
    """Predict what layers send when every part has a worker of its own and all nodes are active.

    With S mirrors with out-edges, D mirrors with in-edges, and rows of width * itemsize bytes:

        sync  = S * row            (reads_dst: (S + D) * row)
        merge = D * row
        layer = 2 * (sync + merge)
        epoch = layers * layer

    Backward is forward transposed: gradients of mirrors' values go to the masters, gradients of the
    masters' sums to the mirrors, each row as wide as forward. It is less where no gradient is
    needed: a first layer that sends the input features themselves sends nothing back.

    Args:
        traffic: The mirrors.
        width: Values that a layer sends for a node: of what its transform returns, those that its
            gather reads at the source; of partial sums as many. A softmax or mean sends one or two
            more for each head, which are not counted.
        itemsize: Bytes of a value: 4 for float32.
        layers: Layers of that width.
        reads_dst: Whether gather reads the destination, as attention does: then mirrors with
            in-edges get values, too.

    Units:
        Bytes of payload, sent; each is received once.
    """
    row = width * itemsize
    sync_K = traffic.sync + traffic.merge if reads_dst else traffic.sync
    sync, merge = (int(rows_K.sum()) * row for rows_K in (sync_K, traffic.merge))
    sent_P = np.zeros(traffic.num_parts, np.int64)
    np.add.at(sent_P, traffic.owner, sync_K)
    np.add.at(sent_P, traffic.holder, traffic.merge)
    layer = 2 * (sync + merge)
    return LayerBytes(sync, merge, int(sent_P.max()) * row, layer, layers * layer)
