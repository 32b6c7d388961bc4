"""Edge columns over the edges of all relations of a shard, each made when it is first read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphtheta.data.types import positions_of_keys
from graphtheta.partition.store.manifest import Manifest

__all__ = ["EdgeColumns"]

Column = NDArray[Any]


class EdgeColumns(Mapping[str, Column]):
    """Mapping from the name of an edge column to its values in CSC order.

    It has `src`, `edge_key`, `in_position`, and in a graph of one relation the columns of that. In
    a graph of several, it has `type`, the position of the relation; `attr` and `weight` if every
    relation has them; and for each label and split of edges `label:<name>`, `known:<name>` and
    `split:<name>`, with qualified names: 0 and unknown for edges of other relations.

    Args:
        ends: `src`, `edge_key` and `in_position` of all edges.
        of_relations: The columns of each relation, for its edges in CSC order.
        manifest: Description of the graph.
    """

    def __init__(
        self,
        ends: Mapping[str, Column],
        of_relations: Sequence[Mapping[str, Column]],
        manifest: Manifest,
    ) -> None:
        self._ends, self._of_relations = ends, of_relations
        self._first_keys = manifest.first_edge_keys
        self._found: dict[str, Column] = {}
        self._rows: dict[int, NDArray[np.int64]] = {}
        self._compute: dict[str, Callable[[], Column]]
        if len(of_relations) == 1:
            columns = of_relations[0]
            self._compute = {name: partial(columns.__getitem__, name) for name in columns}
            return
        self._compute = {"type": self._types}
        for name in set(manifest.edge_columns) - {"type"}:
            self._compute[name] = self._joined(name)
        for position, spec in enumerate(manifest.relations):
            prefix = f"{spec.relation.text}."
            for name in spec.labels:
                self._compute[f"label:{prefix}{name}"] = self._only(position, f"label:{name}")
                self._compute[f"known:{prefix}{name}"] = self._known(position, name)
            for name in spec.splits:
                self._compute[f"split:{prefix}{name}"] = self._only(position, f"split:{name}")

    def __getitem__(self, name: str) -> Column:
        if name in self._ends:
            return self._ends[name]
        if name not in self._found:
            self._found[name] = self._compute[name]()
        return self._found[name]

    def __contains__(self, name: object) -> bool:  # Mapping's own would compute the column
        return name in self._ends or name in self._compute

    def __iter__(self) -> Iterator[str]:
        yield from self._ends
        yield from self._compute

    def __len__(self) -> int:
        return len(self._ends) + len(self._compute)

    def rows(self, position: int) -> NDArray[np.int64]:
        """Return the positions in CSC order of the edges of a relation, ascending."""
        if len(self._of_relations) == 1:
            return np.arange(len(self["edge_key"]))
        if position not in self._rows:  # kept, because every batch reads them
            self._rows[position] = np.flatnonzero(self["type"] == position)
        return self._rows[position]

    def kept(
        self, kept: NDArray[np.bool_]
    ) -> tuple[dict[str, Column], tuple[dict[str, Column], ...]]:
        """Return the ends and the columns of each relation of some edges, given by a mask."""
        ends = {name: column[kept] for name, column in self._ends.items()}
        if len(self._of_relations) == 1:
            masks = [kept]
        else:
            masks = [kept[self.rows(position)] for position in range(len(self._of_relations))]
        of_relations = (
            {name: column[mask] for name, column in columns.items()}
            for mask, columns in zip(masks, self._of_relations, strict=True)
        )
        return ends, tuple(of_relations)

    def _types(self) -> Column:
        return positions_of_keys(self["edge_key"], self._first_keys)

    def _joined(self, name: str) -> Callable[[], Column]:
        def join() -> Column:
            of_relations = [columns[name] for columns in self._of_relations]
            joined = self._zeros(of_relations[0])
            for position, values in enumerate(of_relations):
                joined[self.rows(position)] = values
            return joined

        return join

    def _only(self, position: int, name: str) -> Callable[[], Column]:
        def scatter() -> Column:
            values = self._of_relations[position][name]
            column = self._zeros(values)
            column[self.rows(position)] = values
            return column

        return scatter

    def _known(self, position: int, name: str) -> Callable[[], Column]:
        def scatter() -> Column:
            known = np.zeros(len(self["edge_key"]), np.bool_)
            known[self.rows(position)] = self._of_relations[position].get(f"known:{name}", True)
            return known

        return scatter

    def _zeros(self, like: Column) -> Column:
        return np.zeros((len(self["edge_key"]), *like.shape[1:]), like.dtype)
