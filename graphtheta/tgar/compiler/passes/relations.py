"""Products by the matrix of an edge's relation, moved from edges to pairs of a node and a relation.

x_j W_r depends on the source and the relation only, so it is computed once for each such pair, and
an edge reads the row of its pair. Where messages are summed, there is another way:
sum_e f_e x_j W_r = (sum_e f_e x_j) W_r, with a sum for each pair of a destination and a relation.
Which is cheaper depends on how many pairs of either kind the edges of a block have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphtheta.tgar.compiler.ir.terms import Leaf, Shape, Term, TermFactory, broadcast, walk
from graphtheta.tgar.compiler.lowering.context import NotLowered
from graphtheta.tgar.compiler.lowering.lower import Lowered
from graphtheta.tgar.compiler.passes.program import Program

__all__ = ["PRODUCTS_PER_MOVE", "RelationProduct", "RelationProgram", "has_relations"]

PRODUCTS_PER_MOVE = 16  # multiplications of a matrix product that cost as much as a number moved


@dataclass(frozen=True)
class RelationProduct:
    """Product of a source field by the matrix of the edge's relation.

    Attributes:
        term: The product for one edge.
        source: Number of the source field.
        table: Name of the parameter argument: (relations, ..., A, O).
        shape: Shape of a row of the field as it is multiplied: (..., A).
    """

    term: Term
    source: int
    table: str
    shape: Shape


class RelationProgram:
    """Kernels of a `gather` with products by relation.

    Args:
        lowered: The gather as terms.
        aggregator: A key of `AGGREGATORS`.
        self_loops: Whether the layer adds self-loops.

    Attributes:
        lowered: The same terms.
        products: The products by relation.
        num_relations: Number of matrices of each.
        index: Number of the edge column that selects the matrix.
        hoisted: Kernels that read the products of (source, relation) pairs, as further sources.
        sums: Kernels that sum sources into (destination, relation) pairs, and kernels that sum the
            products of these pairs into destinations; None if a product cannot be moved out of the
            sum.
        factor: Kernels that compute, for one edge from each destination to itself, what the sum
            of a relation is multiplied by at a destination, where nothing else is between products
            and sums; otherwise None.
        sums_first: Whether the last call summed before multiplying.
        choice: Text that explains it.

    Raises:
        NotLowered: If something else than one field of the source is multiplied.
    """

    def __init__(self, lowered: Lowered, aggregator: str, *, self_loops: bool) -> None:
        if self_loops:
            raise NotLowered("a self-loop has no relation to multiply by")
        self.lowered, self.terms = lowered, lowered.terms
        found = _relations(lowered)
        columns = {t.inputs[1] for t in found}
        sizes = {t.inputs[0].shape[0] for t in found}
        (column, *others), (self.num_relations, *more) = columns, sizes
        if others or more or column.op != "leaf" or column.leaf.space != "edge":
            raise NotLowered("matrices are selected by something else than one edge column")
        self._column = column
        self.index = int(column.leaf.name.removeprefix("column"))
        self.products = tuple(map(_product, found))
        self.hoisted = self._hoisted(aggregator)
        self.factor: Program | None = None
        self.sums = self._sums(aggregator)
        self.sums_first, self.choice = False, ""

    def _program(self, message: Sequence[Term], aggregator: str) -> Program:
        read = {t.leaf.name for t in walk(message) if t.op == "leaf"}
        makers = {name: m for name, m in self.lowered.parameters.items() if name in read}
        lowered = replace(self.lowered, outputs=tuple(message), parameters=makers)
        return Program(lowered, aggregator, self_loops=False)

    def _pair_leaf(self, number: int, shape: Shape) -> Term:
        storage = str(self.lowered.dtype).removeprefix("torch.")
        name = f"source{number}"
        return self.terms.leaf(Leaf("source", name, storage, math.prod(shape)), shape)

    def _hoisted(self, aggregator: str) -> Program:
        rows = {
            p.term: self._pair_leaf(self.lowered.num_sources + n, p.term.shape)
            for n, p in enumerate(self.products)
        }
        return self._program(self.terms.substitute(self.lowered.outputs, rows), aggregator)

    def _sums(self, aggregator: str) -> tuple[Program, Program] | None:
        """Split a message into what is summed per pair, and what multiplies the sum of a pair."""
        if aggregator not in ("sum", "mean") or len(self.products) != 1:
            return None
        t, (message,), product = self.terms, self.lowered.outputs, self.products[0].term
        inner = message.inputs[0] if message.op == "reshape" else message
        factors = _factors(t, inner, product)
        (carrier, *others) = [f for f in factors if product in walk([f])]
        if others or _without_views(carrier) is not product:
            return None
        # What a factor may have beyond a number: one for each of several matrices.
        several = (*product.shape[:-1], 1) if carrier.shape == product.shape else ()
        row = self._pair_leaf(0, product.shape)
        summed, scaled = product.inputs[2], t.substitute([carrier], {product: row})[0]
        total: Term | None = t.const(1)
        for factor in factors:
            spaces = self._spaces(factor)
            if factor is carrier:
                continue
            if not spaces & {"source", "edge"}:
                scaled = t.mul(factor, scaled)
                if total is not None:
                    total = t.mul(t.reshape(factor, ()), total) if factor.size == 1 else None
                continue
            total = None
            narrow = t.reshape(factor, ()) if factor.size == 1 else factor
            if "destination" in spaces or not _fits(narrow.shape, several):
                return None
            summed = t.mul(narrow, summed)
        scaled = t.reshape(t.expand(scaled, inner.shape), message.shape)
        if total is not None and scaled.size == product.size:
            self.factor = self._program([self._of_sources(total)], "sum")
        return self._program([summed], "sum"), self._program([scaled], "sum")

    def _of_sources(self, factor: Term) -> Term:
        """Return a function of the destination as one of the source."""
        found = {
            x: self.terms.leaf(
                replace(x.leaf, space="source", name=x.leaf.name.replace("destination", "source")),
                x.shape,
                x.kind,
            )
            for x in walk([factor])
            if x.op == "leaf" and x.leaf.space == "destination"
        }
        return self.terms.substitute([factor], found)[0]

    def _spaces(self, factor: Term) -> set[str]:
        """Return what a factor depends on, except the relation: source, destination or edge."""
        order = walk([factor])
        spaces = {x.leaf.space for x in order if x.op == "leaf" and x is not self._column}
        return spaces | {"edge" for x in order if x.op == "keep"}

    def costs(self, num_edges: int, num_sources: int, num_destinations: int) -> tuple[float, float]:
        """Estimate the cost of hoisting, and that of summing first, in numbers that are moved.

        Args:
            num_edges: Number of edges.
            num_sources: Number of (source, relation) pairs.
            num_destinations: Number of (destination, relation) pairs.
        """
        hoisted = summed = 0.0
        for product in self.products:
            wide, narrow = math.prod(product.shape), product.term.size
            matrix = wide * product.term.shape[-1] / PRODUCTS_PER_MOVE + wide + narrow
            hoisted += num_sources * matrix + num_edges * narrow
            summed += num_destinations * (matrix + narrow) + num_edges * wide
        return hoisted, summed


def has_relations(lowered: Lowered) -> bool:
    """Return whether a gather multiplies by the matrix of a relation."""
    return bool(_relations(lowered))


def _relations(lowered: Lowered) -> list[Term]:
    return [t for t in walk(lowered.outputs) if t.op == "relate"]


def _product(term: Term) -> RelationProduct:
    table, _, x = term.inputs
    field = _without_views(x)
    if field.op != "leaf" or field.leaf.space != "source":
        raise NotLowered(
            "only a field of the source can be multiplied by the matrix of a relation; compute it "
            "in transform"
        )
    source = int(field.leaf.name.removeprefix("source"))
    return RelationProduct(term, source, table.leaf.name, x.shape)


def _without_views(term: Term) -> Term:
    while term.op in ("reshape", "float") or (
        term.op == "expand" and term.size == term.inputs[0].size
    ):
        term = term.inputs[0]
    return term


def _factors(t: TermFactory, term: Term, product: Term) -> list[Term]:
    """Return factors that `term` is the product of; no factor but that with `product` is a view."""
    if term is product:
        return [term]
    inputs = term.inputs
    if term.op == "mul":
        return [f for x in inputs for f in _factors(t, x, product)]
    if term.op == "neg":
        return [t.const(-1), *_factors(t, inputs[0], product)]
    if term.op == "div" and product not in walk([inputs[1]]):
        return [t.div(1, inputs[1]), *_factors(t, inputs[0], product)]
    if term.op in ("reshape", "expand") and term.size == inputs[0].size:
        inner = _factors(t, inputs[0], product)
        wide = [f for f in inner if f.size > 1 or product in walk([f])]
        if len(wide) <= 1 and all(f.size == term.size for f in wide):
            scalars = [t.reshape(f, ()) for f in inner if f not in wide]
            return [*(t.reshape(f, term.shape) for f in wide), *scalars]
    return [term]


def _fits(shape: Shape, wanted: Shape) -> bool:
    """Return whether a shape broadcasts to another."""
    return len(shape) <= len(wanted) and broadcast(shape, wanted) == wanted
