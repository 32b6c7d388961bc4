"""The schedule: which values of a kernel get a place, and whether a row or an edge computes them.

What depends on the row alone is computed once a row. A value is computed where it is read unless
it is a sum, a product with a parameter or a draw, or would be computed several times over: for
each number of a wider one, or for each of several readers.
"""

from __future__ import annotations

import math
from collections import defaultdict

from graphtheta.tgar.compiler.ir.kernel import Kernel
from graphtheta.tgar.compiler.ir.terms import LOOPS, VIEWS, Term, walk
from graphtheta.tgar.compiler.operators.elementwise import is_costly

__all__ = ["Schedule"]

_REPEATS = 3  # a cheap value is computed again for so many readers, less one


class Schedule:
    """Where the values of a kernel are computed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._order = kernel.terms()
        self._invariant = kernel.invariant(self._order)
        self._placed = self._choose()

    def _choose(self) -> set[Term]:
        """Go from results to operands, counting how many numbers of each would be computed."""
        computed: dict[Term, int] = defaultdict(int)
        must: set[Term] = set()
        sizes = {a.name: a.size for a in self._kernel.collected}
        sizes |= {g.leaf: math.prod(g.shape) for g in self._kernel.gradients}
        fixed = self._invariant
        for each in self._kernel.passes:
            for update in each.updates:
                wide = sizes[update.target]
                computed[update.value] += max(update.value.size, wide if update.at is None else 0)
                if update.value in fixed:
                    must.add(update.value)
            for save in each.saves:
                computed[save.value] += save.value.size
        for update in self._kernel.closing:
            computed[update.value] += max(update.value.size, sizes[update.target])
        for output in self._kernel.outputs:
            computed[output.value] += math.prod(output.shape)
        placed: set[Term] = set()
        for term in reversed(self._order):
            if self._has_place(term, computed[term], term in must):
                placed.add(term)
            count = term.size if term in placed else computed[term]
            for operand in term.inputs:
                if term.op == "sum":
                    computed[operand] += max(operand.size, count)
                elif term.op == "contract" and operand is term.inputs[1]:
                    computed[operand] += operand.size
                    if operand.op not in ("leaf", "const"):
                        must.add(operand)
                else:
                    computed[operand] += max(operand.size, count)
                if operand in fixed and term not in fixed:
                    must.add(operand)
                if term.op == "reshape" and not _only_units(term):
                    must.add(operand)
        return placed

    @staticmethod
    def _has_place(term: Term, computed: int, must: bool) -> bool:
        if term.kind == "bool" or term.op in ("leaf", "const"):
            return False
        if term.op in LOOPS or (must and term.op not in VIEWS):
            return True
        if term.op in VIEWS:
            return must and term.op == "expand"
        repeats = computed / max(1, term.size)
        return repeats > 1 if is_costly(term) else repeats >= _REPEATS

    def row_values(self, number: int) -> list[Term]:
        """Return the values that a row computes before its n-th pass, operands first."""
        return [t for t in self._needed(number) if t in self._invariant]

    def edge_values(self, number: int) -> list[Term]:
        """Return the values that each edge of the n-th pass computes, operands first."""
        return [t for t in self._needed(number) if t not in self._invariant]

    def closing_values(self) -> list[Term]:
        """Return the values that a row computes to close, operands first."""
        return [t for t in walk(self._kernel.at_end()) if t in self._placed]

    def final_values(self) -> list[Term]:
        """Return the values that a row computes when its edges are done, operands first."""
        return [t for t in walk(o.value for o in self._kernel.outputs) if t in self._placed]

    def _needed(self, number: int) -> list[Term]:
        return [t for t in walk(self._kernel.passes[number].roots()) if t in self._placed]


def _only_units(term: Term) -> bool:
    """Say whether a reshape only adds or drops dimensions of size one before the last index."""
    (x,) = term.inputs
    last = (x.shape or (1,))[-1]
    same = [n for n in x.shape if n != 1] == [n for n in term.shape if n != 1]
    return same and (last == (term.shape or (1,))[-1] or term.size == 1 or last != 1)
