"""Schedule: which values of a kernel are stored in a buffer, and where each is computed.

Loop-invariant values are computed once per row, before the loop over its edges. Other values are
computed where they are read. A value gets a buffer if it needs a loop of its own (a sum, a product
with a parameter, a draw), or if it would otherwise be computed several times: for each element of a
larger value, or for each of several readers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from graphtheta.tgar.compiler.ir.kernel import Kernel
from graphtheta.tgar.compiler.ir.terms import LOOPS, VIEWS, Term, walk
from graphtheta.tgar.compiler.operators.elementwise import is_costly

__all__ = ["Schedule"]

_CHEAP_REPEATS = 3  # a cheap value is stored if it would be computed this many times


class Schedule:
    """Where the values of a kernel are computed."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._order = kernel.terms()
        self._invariant = kernel.invariant(self._order)
        self._stored = self._choose()

    def _choose(self) -> set[Term]:
        """Choose the stored values, from results to operands, by counting computed elements."""
        computed: dict[Term, int] = defaultdict(int)  # elements, if the value is not stored
        must: set[Term] = set()
        sizes = {a.name: a.size for a in self._kernel.collected}
        sizes |= {g.leaf: math.prod(g.shape) for g in self._kernel.gradients}
        fixed = self._invariant
        for each in self._kernel.passes:
            for update in each.updates:
                wide = sizes[update.target]
                size = update.value.size
                computed[update.value] += max(size, wide if update.index is None else 0)
                if update.value in fixed:
                    must.add(update.value)
            for save in each.saves:
                computed[save.value] += save.value.size
        for update in self._kernel.epilogue:
            computed[update.value] += max(update.value.size, sizes[update.target])
        for output in self._kernel.outputs:
            computed[output.value] += math.prod(output.shape)
        stored: set[Term] = set()
        for term in reversed(self._order):
            if self._is_stored(term, computed[term], term in must):
                stored.add(term)
            count = term.size if term in stored else computed[term]
            for operand in term.inputs:
                if term.op == "contract" and operand is term.inputs[1]:
                    computed[operand] += operand.size
                    if operand.op not in ("leaf", "const"):
                        must.add(operand)
                else:
                    computed[operand] += max(operand.size, count)
                if operand in fixed and term not in fixed:
                    must.add(operand)
                if term.op == "reshape" and not _keeps_last_index(term):
                    must.add(operand)
        return stored

    @staticmethod
    def _is_stored(term: Term, computed: int, must: bool) -> bool:
        if term.kind == "bool" or term.op in ("leaf", "const"):
            return False
        if term.op in LOOPS or (must and term.op not in VIEWS):
            return True
        if term.op in VIEWS:
            return must and term.op == "expand"
        repeats = computed / max(1, term.size)
        return repeats > 1 if is_costly(term) else repeats >= _CHEAP_REPEATS

    def row_values(self, number: int) -> list[Term]:
        """Return the stored values of pass `number` that a row computes before its edges."""
        return [t for t in self._pass_values(number) if t in self._invariant]

    def edge_values(self, number: int) -> list[Term]:
        """Return the stored values that each edge of pass `number` computes."""
        return [t for t in self._pass_values(number) if t not in self._invariant]

    def epilogue_values(self) -> list[Term]:
        """Return the stored values of the epilogue."""
        return self._among(self._kernel.epilogue_terms())

    def output_values(self) -> list[Term]:
        """Return the stored values that the outputs of a row are computed from."""
        return self._among(o.value for o in self._kernel.outputs)

    def _pass_values(self, number: int) -> list[Term]:
        return self._among(self._kernel.passes[number].roots())

    def _among(self, roots: Iterable[Term]) -> list[Term]:
        """Return the stored values below `roots`, each after its operands."""
        return [t for t in walk(roots) if t in self._stored]


def _keeps_last_index(term: Term) -> bool:
    """Return whether a reshape only adds or drops dimensions of size one before the last."""
    (x,) = term.inputs
    last = (x.shape or (1,))[-1]
    same = [n for n in x.shape if n != 1] == [n for n in term.shape if n != 1]
    return same and (last == (term.shape or (1,))[-1] or term.size == 1 or last != 1)
