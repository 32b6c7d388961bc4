"""Expressions: what tracing a `gather` yields, and how it is evaluated again.

An expression is a list of nodes in the order they were recorded. A leaf reads a field of the
source or the destination, an edge column, a keep mask or a parameter; an operation calls one torch
function on earlier nodes. Every node knows which endpoints it depends on, which is all that is
needed to split it: sub-expressions of one endpoint (and parameters) run in node space, those of
parameters alone run once, and the rest runs on edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag
from typing import Any

from torch import Tensor, nn

__all__ = ["Expression", "Keep", "Leaf", "Operation", "Origin", "Ref", "map_structure"]


class Origin(Flag):
    """Endpoints that a value depends on; a value of none is one of parameters alone."""

    NONE = 0
    SOURCE = 1
    DESTINATION = 2
    EDGE = 4


@dataclass(frozen=True)
class Ref:
    """The value of node `index`, standing in an operation's arguments."""

    index: int


@dataclass(frozen=True)
class Keep:
    """A keep mask: drop with probability p, one draw a head (or one an edge)."""

    p: float
    heads: int | None
    call: int


@dataclass(frozen=True)
class Leaf:
    """A value that enters the expression.

    Attributes:
        origin: SOURCE, DESTINATION or EDGE, or NONE for a parameter.
        name: Field, column or dotted parameter name.
        keep: Set for a keep mask.
        constant: Set for a tensor that is no parameter or buffer of the layer.
    """

    origin: Origin
    name: str
    keep: Keep | None = None
    constant: Tensor | None = None


@dataclass(frozen=True)
class Operation:
    """One torch call on earlier nodes (as `Ref`s anywhere in its arguments)."""

    origin: Origin
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def map_structure(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to everything inside tuples, lists, dicts and slices."""
    if isinstance(value, tuple):  # named ones too: torch takes them wherever it takes a tuple
        return tuple(map_structure(v, change) for v in value)
    if isinstance(value, list):
        return [map_structure(v, change) for v in value]
    if isinstance(value, dict):
        return {k: map_structure(v, change) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(map_structure(v, change) for v in (value.start, value.stop, value.step)))
    return change(value)


def _refs(operation: Operation) -> Iterable[int]:
    found: list[int] = []

    def note(value: Any) -> Any:
        if isinstance(value, Ref):
            found.append(value.index)
        return value

    map_structure(operation.args, note)
    map_structure(dict(operation.kwargs), note)
    return found


class Expression:
    """A traced `gather`, split by what each part depends on.

    Attributes:
        nodes: Leaves and operations in recorded order.
        outputs: Indices of what `gather` returned: (message,) or (score, message).
        sources: Indices of the maximal sub-expressions of the source that edges read.
        destinations: The same of the destination.
        parameters: The same of parameters alone.
        edge_columns: Names of the edge columns read.
        keeps: Indices of the keep masks.
        edge_order: Indices of what is evaluated on edges, in order.
    """

    def __init__(self, nodes: Sequence[Leaf | Operation], outputs: Sequence[int]) -> None:
        self.nodes = tuple(nodes)
        self.outputs = tuple(outputs)
        self._inputs = [_refs(n) if isinstance(n, Operation) else () for n in self.nodes]
        needed = self._ancestors(self.outputs, lambda _: True)
        on_edges = {i for i in needed if self._mixes(self.nodes[i].origin)}
        read = set(self.outputs) - on_edges
        for i in on_edges:
            read.update(j for j in self._inputs[i] if j not in on_edges)
        self.sources = self._of(read, Origin.SOURCE)
        self.destinations = self._of(read, Origin.DESTINATION)
        self.parameters = self._of(read, Origin.NONE)
        self.edge_order = sorted(on_edges)
        leaves = [(i, n) for i in self.edge_order if isinstance(n := self.nodes[i], Leaf)]
        self.edge_columns = [(i, n.name) for i, n in leaves if n.keep is None]
        self.keeps = [(i, n.keep) for i, n in leaves if n.keep is not None]

    @staticmethod
    def _mixes(origin: Origin) -> bool:
        return bool(origin & Origin.EDGE) or origin == Origin.SOURCE | Origin.DESTINATION

    def _of(self, indices: Iterable[int], origin: Origin) -> list[int]:
        return sorted(i for i in indices if self.nodes[i].origin == origin)

    def _ancestors(self, targets: Iterable[int], within: Callable[[int], bool]) -> set[int]:
        seen: set[int] = set()
        stack = list(targets)
        while stack:
            i = stack.pop()
            if i not in seen and within(i):
                seen.add(i)
                stack.extend(self._inputs[i])
        return seen

    def _call(self, index: int, values: Mapping[int, Any]) -> Any:
        node = self.nodes[index]
        assert isinstance(node, Operation)

        def read(value: Any) -> Any:
            return values[value.index] if isinstance(value, Ref) else value

        args = map_structure(node.args, read)
        return node.function(*args, **map_structure(dict(node.kwargs), read))

    def in_node_space(
        self, targets: Sequence[int], layer: nn.Module, fields: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Evaluate sub-expressions of one endpoint, or of parameters alone, by plain torch.

        Args:
            targets: `sources`, `destinations` or `parameters`.
            layer: The layer whose parameters and buffers are read by name.
            fields: What the endpoint offers: one row a node.
        """
        values: dict[int, Any] = {}
        for i in sorted(self._ancestors(targets, lambda _: True)):
            node = self.nodes[i]
            if isinstance(node, Operation):
                values[i] = self._call(i, values)
            elif node.constant is not None:
                values[i] = node.constant
            elif node.origin == Origin.NONE:
                owner, _, name = node.name.rpartition(".")
                values[i] = getattr(layer.get_submodule(owner), name)
            else:
                values[i] = fields[node.name]
        return [values[i] for i in targets]

    def on_edges(self, given: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        """Evaluate what mixes endpoints, on a block of edges.

        Args:
            given: Values of `sources`, `destinations` (rows selected per edge), `parameters`,
                `edge_columns` and `keeps`, by index.

        Returns:
            What `gather` returns for these edges.
        """
        values: dict[int, Any] = dict(given)
        for i in self.edge_order:
            if i not in values:
                values[i] = self._call(i, values)
        return tuple(values[i] for i in self.outputs)
