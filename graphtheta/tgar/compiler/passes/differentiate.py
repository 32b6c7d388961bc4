"""Reverse-mode differentiation: cotangents of outputs become cotangents of leaves, as terms.

Derivatives are computed from the result of an operation where possible (exp, relu, ...), so that a
score saved in forward replaces everything that it was computed from. A cotangent is not expanded
along dimensions in which its values would only repeat.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphtheta.tgar.compiler.ir.terms import Shape, Term, TermFactory, walk
from graphtheta.tgar.compiler.operators.elementwise import OPERATORS

__all__ = ["LeafCotangent", "cotangents"]


@dataclass(frozen=True)
class LeafCotangent:
    """Value that one edge adds to the gradient of a leaf.

    Attributes:
        leaf: The leaf.
        value: Broadcasts to the leaf's shape, or to that of one of its rows.
        index: Row of the leaf that it is added to, or None to add to all of it.
    """

    leaf: Term
    value: Term
    index: Term | None


def _unbroadcast(terms: TermFactory, cotangent: Term, result: Shape, operand: Shape) -> Term:
    """Sum a cotangent over the dimensions in which an operand was broadcast.

    Args:
        terms: Factory of the terms.
        cotangent: Cotangent of the result; broadcasts to `result`.
        result: Shape of the result.
        operand: Shape of the operand.

    Returns:
        A term that broadcasts to `operand`. Sums over repeated values are products.
    """
    lead = len(result) - len(operand)
    have = (1,) * (len(result) - len(cotangent.shape)) + cotangent.shape
    cotangent = terms.reshape(cotangent, have)
    want = (1,) * lead + operand
    copies = 1
    for got, whole, wanted in zip(have, result, want, strict=True):
        if wanted == 1 and whole != 1 and got == 1:
            copies *= whole
    axes = [n for n, (got, wanted) in enumerate(zip(have, want, strict=True)) if wanted < got]
    total = terms.sum(cotangent, axes)
    if copies != 1:
        total = terms.mul(total, copies)
    return terms.reshape(total, total.shape[lead:])


def _elementwise(terms: TermFactory, term: Term, c: Term) -> Sequence[Term | None]:
    gradient = OPERATORS[term.op].gradient
    if gradient is None:
        return [None] * len(term.inputs)
    grads = gradient(terms, c, term, *term.inputs)
    if len(grads) == 1:
        return grads
    return [
        _unbroadcast(terms, grad, term.shape, operand.shape)
        for grad, operand in zip(grads, term.inputs, strict=True)
    ]


def _select(terms: TermFactory, term: Term, c: Term) -> Sequence[Term | None]:
    condition, a, b = term.inputs
    return [
        None,
        _unbroadcast(terms, terms.select(condition, c, 0), term.shape, a.shape),
        _unbroadcast(terms, terms.select(condition, 0, c), term.shape, b.shape),
    ]


def _reshape(terms: TermFactory, term: Term, c: Term) -> Sequence[Term | None]:
    (x,) = term.inputs
    narrow = _reshape_narrow(terms, c, term.shape, x.shape)
    if narrow is not None:
        return [narrow]
    return [terms.reshape(terms.expand(c, term.shape), x.shape)]


def _reshape_narrow(terms: TermFactory, c: Term, have: Shape, want: Shape) -> Term | None:
    """Reshape a cotangent without expanding it, if only dimensions of size one differ."""
    if [n for n in have if n != 1] != [n for n in want if n != 1]:
        return None
    sizes = (1,) * (len(have) - len(c.shape)) + c.shape
    rest = [got for got, n in zip(sizes, have, strict=True) if n != 1]
    shape = tuple(1 if n == 1 else rest.pop(0) for n in want)
    return terms.reshape(c, shape)


def _expand(terms: TermFactory, term: Term, c: Term) -> Sequence[Term | None]:
    return [_unbroadcast(terms, c, term.shape, term.inputs[0].shape)]


def _sum(terms: TermFactory, term: Term, c: Term) -> Sequence[Term | None]:
    return [c]  # broadcasts along the summed dimensions


def _contract(terms: TermFactory, term: Term, c: Term) -> Sequence[Term | None]:
    weight, x = term.inputs
    c = terms.expand(c, term.shape)
    lead, out = x.shape[:-1], weight.shape[1:]
    outer = terms.mul(
        terms.reshape(x, (*x.shape, *(1,) * len(out))), terms.reshape(c, (*lead, 1, *out))
    )
    flat = terms.reshape(c, (*lead, math.prod(out)))
    return [
        _unbroadcast(terms, outer, outer.shape, weight.shape),
        terms.contract(terms.transpose(weight), flat),
    ]


_RULES: dict[str, Callable[[TermFactory, Term, Term], Sequence[Term | None]]] = {
    "select": _select,
    "reshape": _reshape,
    "expand": _expand,
    "sum": _sum,
    "contract": _contract,
}


def cotangents(
    terms: TermFactory, outputs: Sequence[tuple[Term, Term]], wanted: Callable[[Term], bool]
) -> list[LeafCotangent]:
    """Differentiate outputs with respect to leaves.

    Args:
        terms: Factory of the terms.
        outputs: Pairs of a term and its cotangent.
        wanted: Whether the cotangent of a leaf is needed; paths to other leaves are not followed.

    Returns:
        Cotangents of the leaves. A leaf whose rows are looked up has one for each lookup.
    """
    order = walk(t for t, _ in outputs)
    needed: set[Term] = set()
    for term in order:
        if (term.op == "leaf" and term.kind == "float" and wanted(term)) or any(
            t in needed for t in term.inputs
        ):
            needed.add(term)
    grads: dict[Term, list[Term]] = defaultdict(list)
    for term, cotangent in outputs:
        grads[term].append(cotangent)
    found: list[LeafCotangent] = []
    for term in reversed(order):
        if term not in grads or term not in needed:
            continue
        total = grads[term][0]
        for more in grads[term][1:]:
            total = terms.add(total, more)
        if term.op == "leaf":
            found.append(LeafCotangent(term, total, None))
        elif term.op == "lookup":
            table, index = term.inputs
            found.append(LeafCotangent(table, total, index))
        elif term.op in _RULES or term.op in OPERATORS:
            rule = _RULES.get(term.op, _elementwise)
            for operand, grad in zip(term.inputs, rule(terms, term, total), strict=True):
                if grad is not None and operand in needed:
                    grads[operand].append(grad)
    return found
