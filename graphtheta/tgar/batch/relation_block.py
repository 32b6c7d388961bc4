"""Blocks of one relation: the part of a block that a layer of that relation computes on.

The edges of a relation have sources of one node type and destinations of one. A block of the
relation has only the rows that it reads and writes, and exchanges only the mirrors that it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import Adjacency
from graphtheta.data.types import Relation, positions_of_keys
from graphtheta.exchange.plan import Route
from graphtheta.exchange.rows import exchange_rows
from graphtheta.shard.shard import Shard
from graphtheta.tgar.batch.block import Active, Block, Degrees, whole_block
from graphtheta.tgar.batch.edge_columns import EdgeColumns

__all__ = ["RelationBlock", "kept_relation_blocks", "relation_blocks"]

_STAGE = "relations"

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class RelationBlock:
    """Block of one relation, which is a part of a block of all relations.

    Attributes:
        relation: The relation.
        block: The edges of the relation, with row numbers of their own.
        inputs: (I',) positions of its inputs among the inputs of the block of all relations.
        outputs: (O',) positions of its outputs, ascending: the outputs of the relation's
            destination type.
    """

    relation: Relation
    block: Block
    inputs: Ints
    outputs: Ints

    def edge_columns(self) -> EdgeColumns:
        """Return the columns of the relation's edges, those that other relations lack included."""
        return EdgeColumns(*self._columns)

    @cached_property
    def _columns(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """Columns of all edges of the relation, and the positions of the block's among them."""
        shard, edges = self.block.shard, self.block.edges
        assert edges is not None
        columns = shard.edge_columns_of(self.relation)
        if not columns:
            return columns, None
        every = shard.edges_of(self.relation)
        has_all = self.block.fanout is None and len(edges) == len(every)
        index = None if has_all else shard.to_device(np.searchsorted(every, edges))
        return columns, index

    @cached_property
    def degrees(self) -> Degrees:
        """In-degrees of its outputs over its edges."""
        return Degrees(self.block, self.edge_columns())


_kept: WeakKeyDictionary[Shard | Degrees, list[RelationBlock]] = WeakKeyDictionary()


def kept_relation_blocks(of: Shard | Degrees) -> list[RelationBlock]:
    """Return the blocks of all relations of a graph, or of the batch that degrees are counted in.

    They are kept as long as the shard or the degrees; collective when first used.
    """
    if of not in _kept:
        _kept[of] = relation_blocks(of.block if isinstance(of, Degrees) else whole_block(of))
    return _kept[of]


def relation_blocks(block: Block) -> list[RelationBlock]:
    """Return the block of each relation of the graph, in the order of relations; collective.

    Communication:
        A bit per relation for each mirror of the block, and one all-reduce of three counts per
        relation.
    """
    shard, edges = block.shard, block.in_edges
    relations = shard.relations
    relation_E = positions_of_keys(block.edge_key, shard.manifest.first_edge_keys)
    by_relation = np.argsort(relation_E, kind="stable")
    cuts = np.searchsorted(relation_E[by_relation], np.arange(1, len(relations)))
    row_E = np.repeat(np.arange(edges.num_rows), np.diff(edges.indptr))

    read = np.zeros((len(relations), block.num_inputs + block.sources.num_mirrors), np.bool_)
    written = np.zeros((len(relations), edges.num_rows), np.bool_)
    edges_of = np.split(by_relation, cuts)
    for number, some in enumerate(edges_of):
        read[number, edges.other[some]] = True
        written[number, row_E[some]] = True
    requested = _to_masters(read[:, block.num_inputs :], block.sources, shard)
    merged = _to_masters(written[:, block.num_outputs :], block.destinations, shard)
    for number, selected in enumerate(requested):
        read[number, block.sources.master_S[selected]] = True

    keys = block.node_key[: block.num_outputs]
    type_O = positions_of_keys(keys, shard.manifest.first_node_keys)
    found = []
    for number, relation in enumerate(relations):
        outputs = np.flatnonzero(type_O == shard.node_types.index(relation.destination))
        others = read[number, : block.num_inputs].copy()
        others[outputs] = False
        rows = _Rows(block, outputs, np.flatnonzero(others), read[number], written[number])
        found.append(
            rows.relation_block(
                relation, edges_of[number], row_E, requested[number], merged[number]
            )
        )
    counts = np.array([part.block.active for part in found], np.int64).reshape(-1, 3)
    shard.comm.all_reduce(counts, stage=_STAGE)
    return [
        replace(part, block=replace(part.block, active=Active(*count)))
        for part, count in zip(found, counts.tolist(), strict=True)
    ]


def _to_masters(mask_RH: Mask, route: Route, shard: Shard) -> Mask:
    """Send masks of mirrors to their masters: (relations, H) bool to (relations, S) bool."""
    sent = np.packbits(mask_RH[:, route.mirror_R], axis=0).T
    received = np.empty((len(route.master_S), sent.shape[1]), np.uint8)
    exchange_rows(shard.comm, sent, received, route, to_mirrors=False, stage=_STAGE)
    return np.unpackbits(received.T, axis=0, count=len(mask_RH)).astype(np.bool_)


class _Rows:
    """Row numbers of a relation's block: outputs, other inputs, mirrors of outputs, others.

    Args:
        block: Block of all relations.
        outputs: (O',) its outputs of the destination type.
        others: (I' - O',) its other inputs that the relation reads.
        read: (I + H,) which of its inputs and mirrors the relation reads.
        written: (rows,) which of its rows have an in-edge of the relation.
    """

    def __init__(
        self, block: Block, outputs: Ints, others: Ints, read: Mask, written: Mask
    ) -> None:
        self._block, self._outputs = block, outputs
        self._inputs = np.concatenate([outputs, others])
        mirrors_written = np.flatnonzero(written[block.num_outputs :])
        mirrors_read = np.flatnonzero(read[block.num_inputs :])
        # Mirrors of outputs are numbered like the first mirrors of the block of all relations.
        rest = np.setdiff1d(mirrors_read, mirrors_written)
        self._rows = np.concatenate([outputs, block.num_outputs + mirrors_written])
        mirrors = np.concatenate([mirrors_written, rest])
        self._num_written, self._num_mirrors = len(mirrors_written), len(mirrors)
        self._number = np.full(len(read), -1, np.int64)
        self._number[self._inputs] = np.arange(len(self._inputs))
        self._number[block.num_inputs + mirrors] = len(self._inputs) + np.arange(len(mirrors))
        self._mirrors_read = read[block.num_inputs :]
        self._mirrors_written = written[block.num_outputs :]

    def relation_block(
        self, relation: Relation, edges: Ints, row_E: Ints, requested: Mask, merged: Mask
    ) -> RelationBlock:
        """Return the block.

        Args:
            relation: The relation.
            edges: (E',) the relation's edges in the block of all relations, ascending.
            row_E: (E,) row of each edge of that block.
            requested: (S,) which of the masters in its route of sources peers read.
            merged: (S',) the same of its route of destinations.
        """
        block = self._block
        num_inputs, num_outputs = len(self._inputs), len(self._outputs)
        count = np.bincount(row_E[edges], minlength=block.in_edges.num_rows)[self._rows]
        in_edges = Adjacency(
            np.append(0, np.cumsum(count)),
            self._number[block.in_edges.other[edges]].astype(np.int32),
            border=int(np.searchsorted(self._rows[:num_outputs], block.in_edges.border)),
            leading=num_outputs,
            shift=num_inputs - num_outputs,
        )
        mirror_number = self._number[block.num_inputs :] - num_inputs
        inputs = self._inputs
        found = Block(
            shard=block.shard,
            num_inputs=num_inputs,
            num_outputs=num_outputs,
            sources=_part_of_route(
                block.sources,
                (num_inputs, self._num_mirrors),
                (requested, self._mirrors_read[block.sources.mirror_R]),
                (self._number, mirror_number),
            ),
            destinations=_part_of_route(
                block.destinations,
                (num_outputs, self._num_written),
                (merged, self._mirrors_written[block.destinations.mirror_R]),
                (self._number, mirror_number),
            ),
            in_edges=in_edges,
            rows=inputs if block.rows is None else block.rows[inputs],
            edges=edges if block.edges is None else block.edges[edges],
            active=Active(num_inputs, num_outputs, len(edges)),
            fanout=block.fanout,
        )
        return RelationBlock(relation, found, inputs, self._outputs)


def _part_of_route(
    route: Route, rows: tuple[int, int], selected: tuple[Mask, Mask], number: tuple[Ints, Ints]
) -> Route:
    """Return a route of some of the masters and mirrors of another one, with other row numbers.

    Args:
        route: The other route.
        rows: Number of master rows, and of mirror rows.
        selected: Which of its masters, and which of its mirrors.
        number: New row number by old one, of masters and of mirrors.
    """
    masters, mirrors = selected
    return Route(
        num_masters=rows[0],
        num_mirrors=rows[1],
        master_S=number[0][route.master_S[masters]],
        mirror_R=number[1][route.mirror_R[mirrors]],
        master_slices=_part_of_slices(route.master_slices, masters),
        mirror_slices=_part_of_slices(route.mirror_slices, mirrors),
    )


def _part_of_slices(slices: Mapping[int, slice], selected: Mask) -> dict[int, slice]:
    before = np.append(0, np.cumsum(selected))
    parts = {p: slice(int(before[s.start]), int(before[s.stop])) for p, s in slices.items()}
    return {peer: part for peer, part in parts.items() if part.stop > part.start}
