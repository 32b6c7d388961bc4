"""Pairs of a node and a relation that occur among the edges of a block.

What depends on one endpoint and on the edge's relation is the same for all edges of a pair, and is
computed once per pair. Pairs are ordered by relation, so that those of a relation are multiplied by
its matrix together; those that need no mirror come first, so that they can be computed during a
sync. Few of the nodes x relations pairs occur in a typical graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import Adjacency, transposed
from graphtheta.errors import ConfigError
from graphtheta.exchange.plan import Route
from graphtheta.tgar.batch.block import Block

__all__ = [
    "DestinationPairs",
    "PairBlock",
    "PairGroup",
    "Pairs",
    "SourcePairs",
    "count_pairs",
    "destination_pairs",
    "kept",
    "sorted_by_relation",
    "source_pairs",
]

Ints = NDArray[np.int64]
_jit = numba.njit(cache=True, nogil=True, boundscheck=False)


class PairGroup(NamedTuple):
    """Consecutive pairs of one relation.

    Attributes:
        relation: Number of the relation.
        first: First pair.
        last: End of the range of pairs.
    """

    relation: int
    first: int
    last: int


@dataclass(frozen=True)
class Pairs:
    """Pairs at one end of the edges of a block.

    Attributes:
        groups: Pairs of each relation that occurs: first of nodes below the border, then of others.
        node: (P,) int32 row of each pair's node.
        num_first: Number of pairs of nodes below the border.
        num_nodes: Number of rows.
        in_edges: Edges of the block with pairs at this end, by destination.
    """

    groups: tuple[PairGroup, ...]
    node: NDArray[np.int32]
    num_first: int
    num_nodes: int
    in_edges: Adjacency

    def __len__(self) -> int:
        return len(self.node)

    @cached_property
    def by_node(self) -> Adjacency:
        """The pairs of each node: a row per node, and `other` is the pair."""
        one_each = np.arange(len(self) + 1)
        return replace(transposed(one_each, self.node, self.num_nodes, 0), position=None, border=0)

    @cached_property
    def to_node(self) -> Adjacency:
        """The node of each pair: a row per pair, with its position in `by_node`."""
        position = np.empty(len(self), np.int32)
        position[self.by_node.other] = np.arange(len(self), dtype=np.int32)
        return Adjacency(np.arange(len(self) + 1), self.node, position)

    @cached_property
    def node_index(self) -> Tensor:
        """Row of each pair's node as a tensor: (P,) int32."""
        return torch.from_numpy(self.node)

    @cached_property
    def relation_by_node(self) -> Tensor:
        """Relation of each pair in the order of `by_node`: (P,) int64."""
        relations = np.array([g.relation for g in self.groups], np.int64)
        relation = np.repeat(relations, [g.last - g.first for g in self.groups])
        return torch.from_numpy(relation[self.by_node.other])


@dataclass(frozen=True)
class SourcePairs(Pairs):
    """Pairs of a source and a relation.

    Attributes:
        out_edges: Edges by pair.
    """

    out_edges: Adjacency


@dataclass(frozen=True)
class DestinationPairs(Pairs):
    """Pairs of a destination and a relation; `in_edges` has a row per pair.

    Attributes:
        order: (E,) int32 or int64 position of each edge among the edges of the block.
        num_masters: Number of sources that are masters.
        num_mirrors: Number of sources that are mirrors.
    """

    order: NDArray[Any]
    num_masters: int
    num_mirrors: int

    @cached_property
    def out_edges(self) -> Adjacency:
        """Edges by source."""
        indptr, other = self.in_edges.indptr, self.in_edges.other
        return transposed(indptr, other, self.num_masters, self.num_mirrors)

    @cached_property
    def order_index(self) -> Tensor:
        """`order` as a tensor."""
        return torch.from_numpy(self.order)


@dataclass(frozen=True)
class PairBlock:
    """What kernels loop over where one end of the edges is a pair, not a node.

    Attributes:
        block: Block that the edges are from.
        in_edges: Edges by row.
        find_out_edges: Returns the same edges by source.
        sources: Route of the sources.
        num_outputs: Number of rows that are no mirrors.
        order: Position of each edge among those of the block. If None, the order is the same.
    """

    block: Block
    in_edges: Adjacency
    find_out_edges: Callable[[], Adjacency]
    sources: Route
    num_outputs: int
    order: NDArray[Any] | None = None

    @property
    def out_edges(self) -> Adjacency:
        """The same edges by source. Only backward reads them."""
        return self.find_out_edges()

    @property
    def node_key(self) -> Ints:
        """Keys of the block's inputs."""
        return self.block.node_key

    @cached_property
    def edge_key(self) -> Ints:
        """Keys of the edges: (E,) int64."""
        keys = self.block.edge_key
        return keys if self.order is None else keys[self.order]

    @classmethod
    def from_sources(cls, block: Block, pairs: SourcePairs) -> PairBlock:
        """Return the block with pairs in place of sources."""
        route = _route(len(pairs))
        return cls(block, pairs.in_edges, lambda: pairs.out_edges, route, block.num_outputs)

    @classmethod
    def to_destinations(cls, block: Block, pairs: DestinationPairs) -> PairBlock:
        """Return the block with pairs in place of destinations."""
        edges, order = pairs.in_edges, pairs.order
        return cls(block, edges, lambda: pairs.out_edges, block.sources, len(pairs), order)

    @classmethod
    def of_rows(cls, block: Block, edges: Adjacency, num_sources: int) -> PairBlock:
        """Return a block of other edges, whose sources and destinations have any rows."""
        return cls(block, edges, lambda: edges, _route(num_sources), edges.num_rows)

    @classmethod
    def of_pairs(cls, block: Block, pairs: Pairs) -> PairBlock:
        """Return a block with one edge from each pair to its node."""
        route = _route(len(pairs))
        return cls(block, pairs.by_node, lambda: pairs.to_node, route, block.num_outputs)


def source_pairs(block: Block, relation: Tensor, num_relations: int) -> SourcePairs:
    """Return the pairs of a source and a relation; found once for the edges of a block.

    Args:
        block: The block.
        relation: (E,) integers, in the order of the block's in-edges.
        num_relations: Number of relations.
    """

    def find() -> SourcePairs:
        out_edges = block.out_edges
        groups, node, indptr, order, num_first = sorted_by_relation(
            out_edges, relation, num_relations
        )
        assert out_edges.position is not None
        position = out_edges.position[order]
        pair = np.empty(len(order), np.int32)
        pair[position] = np.repeat(np.arange(len(node), dtype=np.int32), np.diff(indptr))
        in_edges = replace(block.in_edges, other=pair)
        edges = Adjacency(indptr, out_edges.other[order], position)
        return SourcePairs(groups, node, num_first, out_edges.num_rows, in_edges, edges)

    return kept(block.out_edges, "pairs", relation, find)


def destination_pairs(block: Block, relation: Tensor, num_relations: int) -> DestinationPairs:
    """Return the pairs of a destination and a relation; found once for the edges of a block.

    Args:
        block: The block.
        relation: (E,) integers, in the order of the block's in-edges.
        num_relations: Number of relations.
    """

    def find() -> DestinationPairs:
        edges, route = block.in_edges, block.sources
        groups, node, indptr, order, num_first = sorted_by_relation(edges, relation, num_relations)
        in_edges = Adjacency(indptr, edges.other[order], border=num_first)
        sizes = route.num_masters, route.num_mirrors
        return DestinationPairs(groups, node, num_first, edges.num_rows, in_edges, order, *sizes)

    return kept(block.in_edges, "pairs", relation, find)


def count_pairs(edges: Adjacency, relation: Tensor, num_relations: int) -> int:
    """Return the number of pairs of a row and a relation.

    Args:
        edges: In-edges or out-edges of a block.
        relation: (E,) integers, in the order of the in-edges.
        num_relations: Number of relations.
    """
    return kept(
        edges,
        "number of pairs",
        relation,
        lambda: int(_counts(edges, relation, num_relations)[1].sum()),
    )


_T = TypeVar("_T")


def kept(edges: Adjacency, name: str, relation: Tensor, find: Callable[[], _T]) -> _T:
    """Return a value that depends on the edges and their relations, computed if they are new."""
    kept = edges.derived.get(name)
    if kept is None or kept[0] is not relation or kept[1] != _version(relation):
        kept = edges.derived[name] = (relation, _version(relation), find())
    value: _T = kept[2]
    return value


def _version(column: Tensor) -> int:
    """Return a number that changes when a column is changed in place; 0 in inference mode."""
    return 0 if column.is_inference() else column._version


def _route(num_masters: int) -> Route:
    """Return a route without mirrors."""
    none = np.empty(0, np.int64)
    return Route(num_masters, 0, none, none, {}, {})


def _counts(edges: Adjacency, relation: Tensor, num_relations: int) -> tuple[Ints, Ints]:
    """Return the numbers of edges and pairs by relation, below the border and from it on.

    Raises:
        ConfigError: If a relation is out of range.
    """
    column = relation.numpy()
    if len(column) and not 0 <= column.min() <= column.max() < num_relations:
        raise ConfigError(
            f"gather: expected edge values in [0, {num_relations}) to index a parameter of "
            f"{num_relations} rows, got {column.min()} to {column.max()}. Make the parameter "
            "larger."
        )
    num_edges, num_pairs = np.zeros((2, 2, num_relations), np.int64)
    last = np.full((2, num_relations), -1, np.int64)
    slots = _no_slots if edges.position is None else edges.position
    _count(edges.indptr, edges.border, column, slots, num_edges, num_pairs, last)
    return num_edges, num_pairs


_no_slots = np.empty(0, np.int32)


def sorted_by_relation(
    edges: Adjacency, relation: Tensor, num_relations: int
) -> tuple[tuple[PairGroup, ...], NDArray[np.int32], Ints, NDArray[Any], int]:
    """Sort edges by relation, and within a relation by row.

    Returns:
        The groups of pairs, the row of each pair, the edges of each pair as ranges, the position of
        each of these edges in `edges`, and the number of pairs below the border.
    """
    num_edges, num_pairs = _counts(edges, relation, num_relations)
    edge_ends, pair_ends = np.cumsum(num_edges), np.cumsum(num_pairs)
    total_edges, total_pairs = edges.num_edges, int(pair_ends[-1]) if len(pair_ends) else 0
    node, indptr = np.empty(total_pairs, np.int32), np.empty(total_pairs + 1, np.int64)
    indptr[-1] = total_edges
    order = np.empty(total_edges, np.int32 if total_edges < 2**31 else np.int64)
    slots = _no_slots if edges.position is None else edges.position
    _sort(
        *(edges.indptr, edges.border, relation.numpy(), slots),
        (edge_ends - num_edges.ravel()).reshape(num_edges.shape),
        (pair_ends - num_pairs.ravel()).reshape(num_pairs.shape),
        np.full(num_edges.shape, -1, np.int64),
        *(node, indptr, order),
    )
    starts = pair_ends - num_pairs.ravel()
    groups = tuple(
        PairGroup(int(k) % num_relations, int(starts[k]), int(pair_ends[k]))
        for k in np.flatnonzero(num_pairs)
    )
    return groups, node, indptr, order, int(num_pairs[0].sum())


@_jit
def _count(
    indptr: Ints,
    border: int,
    relation: NDArray[Any],
    position: NDArray[Any],
    num_edges: Ints,
    num_pairs: Ints,
    last: Ints,
) -> None:
    """Count edges and pairs by relation.

    Args:
        indptr: (rows + 1,) edges of each row.
        border: Rows below it are counted separately.
        relation: (E,) relation by position.
        position: (E,) position of each edge, or empty if it is the edge's number.
        num_edges: (2, relations) zeros, written.
        num_pairs: (2, relations) zeros, written.
        last: (2, relations) -1, work space.
    """
    given = position.shape[0] > 0
    for row in range(indptr.shape[0] - 1):
        half = 0 if row < border else 1
        for e in range(indptr[row], indptr[row + 1]):
            kind = relation[position[e]] if given else relation[e]
            num_edges[half, kind] += 1
            if last[half, kind] != row:
                last[half, kind] = row
                num_pairs[half, kind] += 1


@_jit
def _sort(
    indptr: Ints,
    border: int,
    relation: NDArray[Any],
    position: NDArray[Any],
    next_edge: Ints,
    next_pair: Ints,
    last: Ints,
    node: NDArray[np.int32],
    pair_indptr: Ints,
    order: NDArray[Any],
) -> None:
    """Sort edges by relation.

    Args:
        indptr: As for `_count`, like the next three and `last`.
        border: Rows below it come first.
        relation: (E,) relation by position.
        position: (E,) or empty.
        next_edge: (2, relations) first edge of each relation, changed.
        next_pair: (2, relations) first pair of each relation, changed.
        last: (2, relations) -1, work space.
        node: (P,) row of each pair, written.
        pair_indptr: (P + 1,) first edge of each pair, written but for the last.
        order: (E,) number of each edge in the rows, written.
    """
    given = position.shape[0] > 0
    for row in range(indptr.shape[0] - 1):
        half = 0 if row < border else 1
        for e in range(indptr[row], indptr[row + 1]):
            kind = relation[position[e]] if given else relation[e]
            if last[half, kind] != row:
                last[half, kind] = row
                pair = next_pair[half, kind]
                next_pair[half, kind] = pair + 1
                node[pair] = row
                pair_indptr[pair] = next_edge[half, kind]
            order[next_edge[half, kind]] = e
            next_edge[half, kind] += 1
