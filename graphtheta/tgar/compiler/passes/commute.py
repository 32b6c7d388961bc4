"""Commuting: a row multiplies the sum of its edges by what its edges would each be multiplied by.

sum_e w_e (U e) = U (sum_e w_e e), and sum_e (w_e e) g' = (sum_e w_e e) g': where what edges add up
is a product with a parameter, or with what is the row's own, they add up the narrow factor alone,
its moments, and the row multiplies once, after its edges. In the same way <g, U e> = <U' g, e>,
of which U' g is computed once a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from graphtheta.tgar.compiler.ir.kernel import Accumulator, Kernel, Pass, Update
from graphtheta.tgar.compiler.ir.terms import VIEWS, Leaf, Shape, Term, TermFactory, broadcast, walk
from graphtheta.tgar.compiler.passes.adjoint import transposed

__all__ = ["commuted"]

_EDGES_A_ROW = 16  # of a usual graph: what a row computes once costs an edge so much less
_MOST = 8  # products that a value is multiplied out to


def commuted(terms: TermFactory, kernel: Kernel) -> Kernel:
    """Return a kernel of the same results whose edges multiply less, if there is one.

    Args:
        terms: Maker of its terms.
        kernel: As it was written.
    """
    found = _Commuting(terms, kernel).kernel()
    return found if _cost(found) < _cost(kernel) else kernel


def _cost(kernel: Kernel) -> float:
    """Return about how many numbers an edge computes."""
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
        edge += sum(sizes[u.target] for u in each.updates if u.at is None)
    row += sum(map(_work, walk(kernel.at_end()))) + sum(sizes[u.target] for u in kernel.closing)
    return edge + row / _EDGES_A_ROW


def _work(term: Term) -> int:
    if term.op in VIEWS:
        return 0
    if term.op == "contract":
        weight, x = term.inputs
        return weight.size * math.prod(x.shape[:-1])
    return max(1, term.size, *(t.size for t in term.inputs))


@dataclass(frozen=True)
class _Product:
    """Factors that broadcast to one another, sorted.

    Attributes:
        row: Those that depend on the row alone.
        edge: Those that do not.
        linear: One more that is a product with a parameter, or None.
    """

    row: tuple[Term, ...]
    edge: tuple[Term, ...]
    linear: Term | None

    @property
    def axes(self) -> int:
        """How many of the last dimensions the parameter gives."""
        return 0 if self.linear is None else len(self.linear.inputs[0].shape) - 1

    @property
    def vector(self) -> Term:
        """What the parameter is multiplied by."""
        assert self.linear is not None
        return self.linear.inputs[1]


class _Commuting:
    def __init__(self, terms: TermFactory, kernel: Kernel) -> None:
        self._terms, self._kernel = terms, kernel
        self._invariant = kernel.invariant(kernel.terms())
        self._moments: dict[Term, Accumulator] = {}  # by what an edge adds
        self._closing: list[Update] = []

    def kernel(self) -> Kernel:
        """Return the kernel with all that commutes commuted."""
        kernel = self._kernel
        passes = [self._with_sums(each) for each in kernel.passes]
        roots = [root for each in passes for root in each.roots()]
        self._invariant = kernel.invariant(walk(roots))
        read = {t.leaf.name for t in walk(roots) if t.op == "leaf" and t.leaf.space == "row"}
        fixed = read | {a.name for a in kernel.accumulators if a.how != "sum"}
        done = []
        for each in passes:
            before = len(self._moments)
            updates = [
                kept
                for u in each.updates
                for kept in ([u] if u.at is not None or u.target in fixed else self._update(u))
            ]
            new = list(self._moments.items())[before:]
            updates += [Update(moment.name, value) for value, moment in new]
            done.append(replace(each, updates=tuple(updates)))
        return replace(
            kernel,
            passes=tuple(done),
            moments=tuple(self._moments.values()),
            closing=tuple(self._closing),
        )

    # -- what is multiplied out -------------------------------------------------------------------

    def _products(self, term: Term) -> list[list[Term]]:
        """Return the products of factors that `term` is the sum of.

        What has one number for all of the last dimension is left as it is, a coefficient.
        """
        found = [[term]]
        if term in self._invariant or term.shape[-1:] in ((), (1,)):
            return found
        if term.op == "expand" or (term.op == "reshape" and _only_leads(term)):
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
        return found if len(found) <= _MOST else [[term]]

    def _sorted(self, factors: Iterable[Term]) -> _Product:
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
        """Multiply, narrow factors first."""
        return reduce(self._terms.mul, sorted(factors, key=lambda t: t.size), self._terms.const(1))

    def _widened(self, factors: Iterable[Term]) -> list[Term]:
        """Give factors one more dimension at the end."""
        return [self._terms.reshape(t, (*t.shape, 1)) for t in factors]

    def _vector(self, product: _Product) -> Term:
        """Return what the parameter is multiplied by, its dimension after those of the result."""
        x = product.vector
        return self._terms.reshape(x, (*x.shape[:-1], *(1,) * product.axes, x.shape[-1]))

    # -- sums of what an edge computes ------------------------------------------------------------

    def _with_sums(self, each: Pass) -> Pass:
        """Let a row multiply by a parameter what its edges multiply by the product and sum."""
        done: dict[Term, Term] = {}
        for term in walk(each.roots()):
            inputs = tuple(done[t] for t in term.inputs)
            again = self._terms.with_inputs(term, inputs)
            done[term] = self._sum(again) if term.op == "sum" else again
        return Pass(
            tuple(replace(u, value=done[u.value]) for u in each.updates),
            tuple(replace(s, value=done[s.value]) for s in each.saves),
        )

    def _sum(self, term: Term) -> Term:
        (x,) = term.inputs
        parts, rest = [], []
        for factors in self._products(x):
            part = self._inner(self._sorted(factors), x.shape, term.detail)
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
        """Return the sum of a product of `shape` over `axes`, its parameter multiplied a row."""
        if product.linear is None:
            return None
        t, first = self._terms, len(shape) - product.axes
        over = [a for a in axes if a >= first and shape[a] > 1]
        summed = tuple(1 if n in over else size for n, size in enumerate(shape))
        narrow = all(broadcast(f.shape, summed) == summed for f in product.edge)
        if not over or not narrow or product.linear.shape[-product.axes :] != shape[first:]:
            return None
        weight = transposed(t, product.linear.inputs[0])
        weight = t.reshape(weight, (*(1,) * first, *shape[first:], weight.shape[-1]))
        factor = t.sum(t.mul(self._product(self._widened(product.row)), weight), over)
        inner = t.sum(t.mul(factor, self._vector(product)), [len(shape)])
        value = self._product([*product.edge, t.reshape(inner, inner.shape[:-1])])
        return t.sum(t.expand(value, summed), [a for a in axes if a not in over])

    # -- sums over edges --------------------------------------------------------------------------

    def _update(self, update: Update) -> list[Update]:
        """Split what a row adds up into what its edges still add and what it adds itself."""
        rest, closing = [], []
        for factors in self._products(update.value):
            product = self._sorted(factors)
            value = self._outer(product) if product.linear is None else self._mapped(product)
            if value is not None:
                closing.append(value)
            else:
                rest.append(self._product(factors))
        if not closing:
            return [update]
        self._closing += [Update(update.target, value) for value in closing]
        return [Update(update.target, reduce(self._terms.add, rest))] if rest else []

    def _mapped(self, product: _Product) -> Term | None:
        """Return the sum over edges of a product with a parameter, multiplied once a row."""
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
        """Return the sum over edges of a product with what is the row's own, multiplied once."""
        if not product.row or not product.edge:
            return None
        narrow = broadcast(*(f.shape for f in product.edge))
        if math.prod(narrow) == math.prod(broadcast(narrow, *(f.shape for f in product.row))):
            return None
        turned = [self._turned(f, len(narrow)) for f in product.edge]
        sides = [f for f in turned if f is not None]
        if narrow[-1:] == (1,) and narrow[0] > 1 and len(sides) == len(turned):
            moment = self._terms.last_to_front(self._total(self._product(sides)))
        else:
            moment = self._total(self._product(product.edge))
        return self._product([*product.row, moment])

    def _turned(self, factor: Term, rank: int) -> Term | None:
        """Return a factor whose first of `rank` dimensions is the last: vectors lie along it."""
        first, *others = (*(1,) * (rank - len(factor.shape)), *factor.shape)
        if first > 1 and math.prod(others) > 1:
            return None
        return self._terms.reshape(factor, (*others, first))

    def _total(self, moment: Term) -> Term:
        """Return what a row has collected when its edges have each added a moment."""
        known = self._moments
        if moment not in known:
            known[moment] = Accumulator(f"moment{len(known)}", moment.shape)
        name, storage = known[moment].name, self._kernel.storage
        return self._terms.leaf(Leaf("row", name, storage, moment.size), moment.shape)


def _only_leads(term: Term) -> bool:
    """Say whether a reshape only adds or drops dimensions of size one at the front."""
    (x,) = term.inputs
    short, long = sorted((x.shape, term.shape), key=len)
    return long == (*(1,) * (len(long) - len(short)), *short)
