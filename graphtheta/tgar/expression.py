"""Expression graph of a traced `gather`, and its evaluation.

An expression is a list of nodes in the order they were recorded. A leaf reads a field of the
source or the destination, an edge column, a keep mask or a parameter; an operation calls one torch
function on earlier nodes. Every node records which endpoints it depends on, which decides where it
runs: sub-expressions of one endpoint (and parameters) run once per node, those of parameters only
run once, and the rest runs on edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag
from typing import Any

from torch import Tensor, nn

__all__ = ["Expression", "Keep", "Leaf", "Operation", "Origin", "Ref", "map_structure"]


class Origin(Flag):
    """Endpoints that a value depends on; NONE for a value of parameters only."""

    NONE = 0
    SOURCE = 1
    DESTINATION = 2
    EDGE = 4


@dataclass(frozen=True)
class Ref:
    """Reference to the value of node `index`, among an operation's arguments."""

    index: int


@dataclass(frozen=True)
class Keep:
    """Keep mask of dropout: one draw per edge and head, or one per edge if `heads` is None.

    Attributes:
        p: Probability of dropping.
        heads: Number of columns of the mask.
        call: Index of this call of `keep` in the layer.
    """

    p: float
    heads: int | None
    call: int


@dataclass(frozen=True)
class Leaf:
    """Input value of an expression.

    Attributes:
        origin: SOURCE, DESTINATION or EDGE, or NONE for a parameter.
        name: Name of the field, column or (dotted) parameter.
        keep: The mask, if the leaf is a keep mask.
        constant: The value, if it is neither a parameter nor a buffer of the layer.
    """

    origin: Origin
    name: str
    keep: Keep | None = None
    constant: Tensor | None = None


@dataclass(frozen=True)
class Operation:
    """Call of a torch function on earlier nodes, which are `Ref`s in its arguments."""

    origin: Origin
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def map_structure(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply `change` to every value inside nested tuples, lists, dicts and slices."""
    if isinstance(value, tuple):  # also named tuples: torch accepts a tuple in their place
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
    arguments = (operation.args, dict(operation.kwargs))
    map_structure(arguments, lambda v: found.append(v.index) if isinstance(v, Ref) else None)
    return found


class Expression:
    """Traced `gather`, split by the endpoints that each part depends on.

    Attributes:
        nodes: Leaves and operations in recorded order.
        outputs: Indices of the outputs of `gather`: (message,) or (score, message).
        sources: Indices of the maximal sub-expressions of the source that edges read.
        destinations: Indices of those of the destination.
        parameters: Indices of those of parameters only.
        edge_columns: Index and name of each edge column read.
        keeps: Index and mask of each call of `keep`.
        edge_order: Indices of the nodes that are evaluated on edges, in order.
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

        args, kwargs = map_structure((node.args, dict(node.kwargs)), read)
        return node.function(*args, **kwargs)

    def in_node_space(
        self, targets: Sequence[int], layer: nn.Module, fields: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """Evaluate sub-expressions of one endpoint, or of parameters only, with plain torch.

        Args:
            targets: Indices to evaluate: `sources`, `destinations` or `parameters`.
            layer: Layer whose parameters and buffers are read by name.
            fields: Fields of the endpoint, one row per node.
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
        """Evaluate the rest of the expression on a chunk of edges.

        Args:
            given: Values of `sources` and `destinations` (one row per edge), `parameters`,
                `edge_columns` and `keeps`, by index.

        Returns:
            The outputs of `gather` for these edges.
        """
        values: dict[int, Any] = dict(given)
        for i in self.edge_order:
            if i not in values:
                values[i] = self._call(i, values)
        return tuple(values[i] for i in self.outputs)
