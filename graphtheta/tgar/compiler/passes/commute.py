"""Commuting: move products out of sums over edges, by the distributive law.

sum_e w_e (U e) = U (sum_e w_e e), and sum_e (w_e e) g' = (sum_e w_e e) g'. Where edges add up
products with a parameter U, or with a value g that is the same for all edges of a row, the loop
over edges accumulates the small factor only (a moment), and the row multiplies it once in the
kernel's epilogue. Similarly, <g, U e> = <U' g, e>, where U' g is computed once per row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from graphtheta.tgar.compiler.ir.kernel import Accumulator, Kernel, Pass, Update
from graphtheta.tgar.compiler.ir.terms import VIEWS, Leaf, Shape, Term, TermFactory, broadcast, walk

__all__ = ["commute"]

_EDGES_PER_ROW = 16  # of a typical graph: weighs work per row against work per edge
_MAX_PRODUCTS = 8  # products that a value is expanded into


def commute(terms: TermFactory, kernel: Kernel) -> Kernel:
    """Return a kernel with the same results and less work per edge, if there is one.

    Args:
        terms: Factory of the kernel's terms.
        kernel: The kernel to improve.
    """
    found = _Commuting(terms, kernel).run()
    return found if _cost(found) < _cost(kernel) else kernel


def _cost(kernel: Kernel) -> float:
    """Estimate how many elements are computed per edge."""
    edge, row = 0, 0
    invariant = kernel.invariant(kernel.terms())
    sizes = {a.name: a.size for a in kernel.collected}
    sizes |= {g.leaf: math.prod(g.shape) for g in kernel.gradients}
    for each in kernel.passes:
        for term in walk(each.roots()):
            if term in invariant:
                row += _work(term)
            else:
                edge += _work(term)
        edge += sum(sizes[u.target] for u in each.updates if u.index is None)
    row += sum(map(_work, walk(kernel.epilogue_terms()))) + sum(
        sizes[u.target] for u in kernel.epilogue
    )
    return edge + row / _EDGES_PER_ROW


def _work(term: Term) -> int:
    if term.op in VIEWS:
        return 0
    if term.op == "contract":
        weight, x = term.inputs
        return weight.size * math.prod(x.shape[:-1])
    return max(1, term.size, *(t.size for t in term.inputs))


@dataclass(frozen=True)
class _Product:
    """Factors of a product, which broadcast to one another.

    Attributes:
        row: Loop-invariant factors.
        edge: Factors that differ between edges.
        linear: One more factor that is a product with a parameter, or None.
    """

    row: tuple[Term, ...]
    edge: tuple[Term, ...]
    linear: Term | None

    @property
    def axes(self) -> int:
        """Number of trailing dimensions that come from the parameter."""
        return 0 if self.linear is None else len(self.linear.inputs[0].shape) - 1

    @property
    def vector(self) -> Term:
        """The value that the parameter is multiplied by."""
        assert self.linear is not None
        return self.linear.inputs[1]


class _Commuting:
    def __init__(self, terms: TermFactory, kernel: Kernel) -> None:
        self._terms, self._kernel = terms, kernel
        self._invariant = kernel.invariant(kernel.terms())
        self._moments: dict[Term, Accumulator] = {}  # by the term that each edge adds
        self._epilogue: list[Update] = []

    def run(self) -> Kernel:
        """Return the kernel with every possible product moved out of its sum."""
        kernel = self._kernel
        passes = [self._with_sums(each) for each in kernel.passes]
        roots = [root for each in passes for root in each.roots()]
        self._invariant = kernel.invariant(walk(roots))
        read = {t.leaf.name for t in walk(roots) if t.op == "leaf" and t.leaf.space == "row"}
        fixed = read | {a.name for a in kernel.accumulators if a.reduction != "sum"}
        done = []
        for each in passes:
            before = len(self._moments)
            updates = [
                part
                for u in each.updates
                for part in ([u] if u.index is not None or u.target in fixed else self._update(u))
            ]
            new = list(self._moments.items())[before:]
            updates += [Update(moment.name, value) for value, moment in new]
            done.append(replace(each, updates=tuple(updates)))
        return replace(
            kernel,
            passes=tuple(done),
            moments=tuple(self._moments.values()),
            epilogue=tuple(self._epilogue),
        )

    # -- expansion into products ------------------------------------------------------------------

    def _products(self, term: Term) -> list[list[Term]]:
        """Expand a term into a sum of products: a list of lists of factors.

        A value that is constant along the last dimension is a coefficient and is not expanded.
        """
        found = [[term]]
        if term in self._invariant or term.shape[-1:] in ((), (1,)):
            return found
        if term.op == "expand" or (term.op == "reshape" and _adds_leading_dims(term)):
            return self._products(term.inputs[0])
        if term.op == "mul":
            left, right = map(self._products, term.inputs)
            found = [a + b for a in left for b in right]
        elif term.op == "add":
            found = [p for t in term.inputs for p in self._products(t)]
        elif term.op == "sub":
            left, right = map(self._products, term.inputs)
            found = left + [[*p, self._terms.const(-1)] for p in right]
        elif term.op == "neg":
            found = [[*p, self._terms.const(-1)] for p in self._products(term.inputs[0])]
        return found if len(found) <= _MAX_PRODUCTS else [[term]]

    def _classify(self, factors: Iterable[Term]) -> _Product:
        row, edge, linear = [], [], None
        for factor in factors:
            if factor in self._invariant or factor.op == "const":
                row.append(factor)
            elif factor.op == "contract" and linear is None:
                linear = factor
            else:
                edge.append(factor)
        return _Product(tuple(row), tuple(edge), linear)

    def _product(self, factors: Iterable[Term]) -> Term:
        """Multiply factors, small ones first."""
        return reduce(self._terms.mul, sorted(factors, key=lambda t: t.size), self._terms.const(1))

    def _widened(self, factors: Iterable[Term]) -> list[Term]:
        """Append a dimension of size one to each factor."""
        return [self._terms.reshape(t, (*t.shape, 1)) for t in factors]

    def _vector(self, product: _Product) -> Term:
        """Return the vector of a linear map with its dimension after those of the result."""
        x = product.vector
        return self._terms.reshape(x, (*x.shape[:-1], *(1,) * product.axes, x.shape[-1]))

    # -- sums within an edge ----------------------------------------------------------------------

    def _with_sums(self, each: Pass) -> Pass:
        """Rewrite inner products <g, U e> as <U' g, e> in all terms of a pass."""
        done: dict[Term, Term] = {}
        for term in walk(each.roots()):
            inputs = tuple(done[t] for t in term.inputs)
            rebuilt = self._terms.with_inputs(term, inputs)
            done[term] = self._sum(rebuilt) if term.op == "sum" else rebuilt
        return Pass(
            tuple(replace(u, value=done[u.value]) for u in each.updates),
            tuple(replace(s, value=done[s.value]) for s in each.saves),
        )

    def _sum(self, term: Term) -> Term:
        (x,) = term.inputs
        parts, rest = [], []
        for factors in self._products(x):
            part = self._inner(self._classify(factors), x.shape, term.detail)
            if part is not None:
                parts.append(part)
            else:
                rest.append(self._product(factors))
        if not parts:
            return term
        t = self._terms
        if rest:
            parts.append(t.sum(t.expand(reduce(t.add, rest), x.shape), term.detail))
        return t.expand(reduce(t.add, parts), term.shape)

    def _inner(self, product: _Product, shape: Shape, axes: Sequence[int]) -> Term | None:
        """Return the sum of a product over `axes` with its parameter multiplied once per row.

        Returns None if the product has no parameter, or if that would not be less work.
        """
        if product.linear is None:
            return None
        t, first = self._terms, len(shape) - product.axes
        over = [a for a in axes if a >= first and shape[a] > 1]
        summed = tuple(1 if n in over else size for n, size in enumerate(shape))
        narrow = all(broadcast(f.shape, summed) == summed for f in product.edge)
        if not over or not narrow or product.linear.shape[-product.axes :] != shape[first:]:
            return None
        weight = t.transpose(product.linear.inputs[0])
        weight = t.reshape(weight, (*(1,) * first, *shape[first:], weight.shape[-1]))
        factor = t.sum(t.mul(self._product(self._widened(product.row)), weight), over)
        inner = t.sum(t.mul(factor, self._vector(product)), [len(shape)])
        value = self._product([*product.edge, t.reshape(inner, inner.shape[:-1])])
        return t.sum(t.expand(value, summed), [a for a in axes if a not in over])

    # -- sums over edges --------------------------------------------------------------------------

    def _update(self, update: Update) -> list[Update]:
        """Split an update into one for each edge, and updates of the epilogue."""
        rest, epilogue = [], []
        for factors in self._products(update.value):
            product = self._classify(factors)
            value = self._outer(product) if product.linear is None else self._mapped(product)
            if value is not None:
                epilogue.append(value)
            else:
                rest.append(self._product(factors))
        if not epilogue:
            return [update]
        self._epilogue += [Update(update.target, value) for value in epilogue]
        return [Update(update.target, reduce(self._terms.add, rest))] if rest else []

    def _mapped(self, product: _Product) -> Term | None:
        """Return the sum over edges of a product with a parameter, multiplied once per row."""
        t = self._terms
        assert product.linear is not None
        moment = self._product([*self._widened(product.edge), self._vector(product)])
        weight = product.linear.inputs[0]
        wide = broadcast(product.linear.shape, moment.shape[:-1])
        if moment.shape[-2:-1] != (1,) or wide[-1] == 1:
            return None
        inputs, *out = weight.shape
        lead = len(wide) - product.axes
        weight = t.reshape(weight, (inputs, *(1,) * lead, *out))
        mapped = t.sum(t.mul(weight, t.last_to_front(self._total(moment))), [0])
        return self._product([*product.row, t.reshape(mapped, mapped.shape[1:])])

    def _outer(self, product: _Product) -> Term | None:
        """Return the sum over edges of a product with loop-invariant factors, multiplied once."""
        if not product.row or not product.edge:
            return None
        narrow = broadcast(*(f.shape for f in product.edge))
        if math.prod(narrow) == math.prod(broadcast(narrow, *(f.shape for f in product.row))):
            return None
        moved = [self._first_to_last(f, len(narrow)) for f in product.edge]
        vectors = [f for f in moved if f is not None]
        if narrow[-1:] == (1,) and narrow[0] > 1 and len(vectors) == len(moved):
            moment = self._terms.last_to_front(self._total(self._product(vectors)))
        else:
            moment = self._total(self._product(product.edge))
        return self._product([*product.row, moment])

    def _first_to_last(self, factor: Term, dims: int) -> Term | None:
        """Move the first of `dims` dimensions to the end, where vector instructions apply.

        Returns None if the others are not all of size one.
        """
        first, *others = (*(1,) * (dims - len(factor.shape)), *factor.shape)
        if first > 1 and math.prod(others) > 1:
            return None
        return self._terms.reshape(factor, (*others, first))

    def _total(self, moment: Term) -> Term:
        """Return the leaf of the accumulator that each edge adds a moment to."""
        if moment not in self._moments:
            name = f"moment{len(self._moments)}"
            self._moments[moment] = Accumulator(name, moment.shape)
        name, storage = self._moments[moment].name, self._kernel.storage
        return self._terms.leaf(Leaf("row", name, storage, moment.size), moment.shape)


def _adds_leading_dims(term: Term) -> bool:
    """Return whether a reshape only adds or drops leading dimensions of size one."""
    (x,) = term.inputs
    short, long = sorted((x.shape, term.shape), key=len)
    return long == (*(1,) * (len(long) - len(short)), *short)
