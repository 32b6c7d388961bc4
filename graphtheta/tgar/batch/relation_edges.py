"""Edges of a block by relation, between nodes that are numbered within the relation.

A relation's edges lead from its sources to its destinations, the nodes that have such an edge. Rows
of either are few, so that a computation for one relation after the other needs little memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.adjacency import Adjacency, transposed
from graphtheta.tgar.batch.block import Block
from graphtheta.tgar.batch.pairs import kept, sorted_by_relation

__all__ = ["EdgesByRelation", "RelationEdges", "edges_by_relation"]

_EDGES_PER_PRODUCT = 12  # reading so many rows takes as long as the products of one


@dataclass(frozen=True)
class RelationEdges:
    """Edges of one relation.

    Attributes:
        relation: Number of the relation.
        waits: Whether a destination reads mirrors. The edges of other destinations come first.
        by_sources: Whether rows of the sources are multiplied by the relation's matrix, because
            they are fewer, or sums of the destinations.
        sources: (S,) int32 rows of the sources, ascending.
        destinations: (D,) int32 rows of the destinations, ascending.
        in_edges: Edges by destination, from positions in `sources` if these are multiplied;
            otherwise from their rows.
        out_edges: Edges by source, from rows of the destinations if the sources are multiplied;
            otherwise from positions in `destinations`.
        each: An edge to each node that is multiplied, from its own position.
    """

    relation: int
    waits: bool
    by_sources: bool
    sources: NDArray[np.int32]
    destinations: NDArray[np.int32]
    in_edges: Adjacency
    out_edges: Adjacency
    each: Adjacency


@dataclass(frozen=True)
class EdgesByRelation:
    """Edges of all relations of a block.

    Attributes:
        relations: Edges of each relation that occurs. In a block of several workers, a relation may
            occur twice: for destinations that read no mirrors, and then for those that do.
        each_destination: An edge to each destination of each relation, from its row.
    """

    relations: tuple[RelationEdges, ...]
    each_destination: Adjacency

    def kinds(self, dtype: torch.dtype) -> Tensor:
        """Return the relation of each destination of each relation."""
        relations = [each.relation for each in self.relations]
        counts = [len(each.destinations) for each in self.relations]
        return torch.tensor(relations, dtype=dtype).repeat_interleave(torch.tensor(counts))

    def split(self, values: Tensor) -> Sequence[Tensor]:
        """Split values of each destination of each relation by relation."""
        return torch.split(values, [len(each.destinations) for each in self.relations])


def edges_by_relation(block: Block, relation: Tensor, num_relations: int) -> EdgesByRelation:
    """Return the edges of each relation that occurs; found once for the edges of a block.

    Args:
        block: The block.
        relation: (E,) integers, in the order of the block's in-edges.
        num_relations: Number of relations.
    """
    return kept(
        block.in_edges, "relations", relation, lambda: _find(block, relation, num_relations)
    )


def _find(block: Block, relation: Tensor, num_relations: int) -> EdgesByRelation:
    edges, route = block.in_edges, block.sources
    groups, node, indptr, order, num_first = sorted_by_relation(edges, relation, num_relations)
    number = np.full(route.num_masters + route.num_mirrors, -1, np.int32)
    most = max(len(number), edges.num_rows)
    ranges, numbers = np.arange(most + 1), np.arange(most, dtype=np.int32)
    found = []
    for kind, first, last in groups:
        start, stop = indptr[first], indptr[last]
        rows, destinations = indptr[first : last + 1] - start, node[first:last]
        other = edges.other[order[start:stop]]
        position = other.copy()
        sources = _renumber(position, number)
        out_edges = transposed(rows, position, len(sources), 0)
        by_sources = len(sources) <= len(destinations) + len(other) / _EDGES_PER_PRODUCT
        if by_sources:
            other, out_other = position, destinations[out_edges.other]
        else:
            out_other = out_edges.other
        count = len(sources if by_sources else destinations)
        each = Adjacency(ranges[: count + 1], numbers[:count])
        in_edges, out_edges = Adjacency(rows, other), Adjacency(out_edges.indptr, out_other)
        ends = sources, destinations, in_edges, out_edges
        found.append(RelationEdges(kind, first >= num_first, by_sources, *ends, each))
    return EdgesByRelation(tuple(found), Adjacency(np.arange(len(node) + 1), node))


@numba.njit(cache=True, nogil=True, boundscheck=False)
def _renumber(other: NDArray[np.int32], number: NDArray[np.int32]) -> Any:
    """Replace numbers by their positions among those that occur, which are returned.

    Args:
        other: (E,) numbers, changed.
        number: (N,) -1, work space.
    """
    count = 0
    for e in range(other.shape[0]):
        count += number[other[e]] < 0
        number[other[e]] = 0
    nodes = np.empty(count, np.int32)
    count = 0
    for i in range(number.shape[0]):
        if number[i] == 0:
            nodes[count] = i
            number[i] = count
            count += 1
    for e in range(other.shape[0]):
        other[e] = number[other[e]]
    for i in range(count):
        number[nodes[i]] = -1
    return nodes
