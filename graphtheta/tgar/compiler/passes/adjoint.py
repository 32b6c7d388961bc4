"""Reverse mode on terms: cotangents of what `gather` returns become cotangents of its leaves.

Where a derivative can be had from the result of an operation it is (exp, relu, ...), so that a
score kept from the forward pass replaces all that it was computed from. Cotangents may lack the
dimensions along which they would only repeat: what is narrow stays narrow.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphtheta.tgar.compiler.ir.terms import UNARY, Shape, Term, Terms, walk

__all__ = ["LeafCotangent", "cotangents", "transposed"]


@dataclass(frozen=True)
class LeafCotangent:
    """What one edge adds to the gradient of a leaf.

    Attributes:
        leaf: The leaf.
        value: Broadcasts to the leaf's shape, or to that of a row of it.
        at: The row of the leaf that it goes to, or None for the whole of it.
    """

    leaf: Term
    value: Term
    at: Term | None


def _unbroadcast(terms: Terms, cotangent: Term, result: Shape, operand: Shape) -> Term:
    """Sum the cotangent of a broadcast `result` to what `operand` gets.

    The returned term broadcasts to `operand`; a cotangent that only repeats is multiplied.
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
        total = terms.mul(total, terms.const(copies))
    return terms.reshape(total, total.shape[lead:])


def _through_output(op: str, terms: Terms, y: Term, parameter: float) -> Term | None:
    """Return the derivative of a unary operation by its result, where that is enough."""
    one, zero = terms.const(1), terms.const(0)
    if op in ("exp", "neg", "sqrt", "expm1"):
        return {
            "exp": lambda: y,
            "neg": lambda: terms.const(-1),
            "sqrt": lambda: terms.binary("div", terms.const(0.5), y),
            "expm1": lambda: terms.add(y, one),
        }[op]()
    if op == "sigmoid":
        return terms.mul(y, terms.binary("sub", one, y))
    if op == "tanh":
        return terms.binary("sub", one, terms.mul(y, y))
    if op == "float":
        return None
    positive = terms.compare("gt", y, zero)
    if op == "relu":
        return terms.select(positive, one, zero)
    if op == "leaky_relu" and parameter > 0:
        return terms.select(positive, one, terms.const(parameter))
    if op == "elu" and parameter > 0:
        return terms.select(positive, one, terms.add(y, terms.const(parameter)))
    return None


def _through_input(op: str, terms: Terms, x: Term, parameter: float) -> Term:
    one, zero = terms.const(1), terms.const(0)
    positive = terms.compare("gt", x, zero)
    if op == "log":
        return terms.binary("div", one, x)
    if op == "log1p":
        return terms.binary("div", one, terms.add(x, one))
    if op == "abs":
        negative = terms.select(terms.compare("lt", x, zero), terms.const(-1), zero)
        return terms.select(positive, one, negative)
    if op == "leaky_relu":
        return terms.select(positive, one, terms.const(parameter))
    assert op == "elu", op
    below = terms.mul(terms.unary("exp", x), terms.const(parameter))
    return terms.select(positive, one, below)


def _unary(terms: Terms, term: Term, c: Term) -> Sequence[Term | None]:
    (x,) = term.inputs
    if term.op in ("detach", "not", "float"):
        return [None]
    parameter = 0.0 if term.detail is None else term.detail
    derivative = _through_output(term.op, terms, term, parameter)
    if derivative is None:
        derivative = _through_input(term.op, terms, x, parameter)
    if derivative.op == "const" and derivative.detail == -1:
        return [terms.unary("neg", c)]
    return [terms.mul(c, derivative)]


def _binary(terms: Terms, term: Term, c: Term) -> Sequence[Term | None]:
    a, b = term.inputs
    if term.op in ("add", "sub"):
        grads = [c, c if term.op == "add" else terms.unary("neg", c)]
    elif term.op == "mul":
        grads = [terms.mul(c, b), terms.mul(c, a)]
    elif term.op == "div":
        by_a = terms.binary("div", c, b)
        grads = [by_a, terms.unary("neg", terms.mul(by_a, term))]
    else:
        # As torch: equal operands share the cotangent.
        half = terms.mul(c, terms.const(0.5))
        zero = terms.const(0)
        less = terms.compare("lt" if term.op == "max" else "gt", a, b)
        equal = terms.compare("eq", a, b)
        grads = [
            terms.select(less, zero, terms.select(equal, half, c)),
            terms.select(less, c, terms.select(equal, half, zero)),
        ]
    return [
        _unbroadcast(terms, grad, term.shape, operand.shape)
        for grad, operand in zip(grads, term.inputs, strict=True)
    ]


def _select(terms: Terms, term: Term, c: Term) -> Sequence[Term | None]:
    condition, a, b = term.inputs
    zero = terms.const(0)
    return [
        None,
        _unbroadcast(terms, terms.select(condition, c, zero), term.shape, a.shape),
        _unbroadcast(terms, terms.select(condition, zero, c), term.shape, b.shape),
    ]


def _reshape(terms: Terms, term: Term, c: Term) -> Sequence[Term | None]:
    (x,) = term.inputs
    narrow = _same_but_units(terms, c, term.shape, x.shape)
    if narrow is not None:
        return [narrow]
    return [terms.reshape(terms.expand(c, term.shape), x.shape)]


def _same_but_units(terms: Terms, c: Term, have: Shape, want: Shape) -> Term | None:
    """Carry a repeating cotangent over a reshape that only adds or drops dimensions of one."""
    if [n for n in have if n != 1] != [n for n in want if n != 1]:
        return None
    sizes = (1,) * (len(have) - len(c.shape)) + c.shape
    rest = [got for got, n in zip(sizes, have, strict=True) if n != 1]
    shape = tuple(1 if n == 1 else rest.pop(0) for n in want)
    return terms.reshape(c, shape)


def _expand(terms: Terms, term: Term, c: Term) -> Sequence[Term | None]:
    return [_unbroadcast(terms, c, term.shape, term.inputs[0].shape)]


def _sum(terms: Terms, term: Term, c: Term) -> Sequence[Term | None]:
    return [c]  # repeats along the summed dimensions


def transposed(terms: Terms, weight: Term) -> Term:
    """Return the leaf of a parameter's transpose, (O, A) for (A, O) or (A, ...)."""
    leaf = weight.leaf
    name = leaf.name.removesuffix("^T") if leaf.name.endswith("^T") else leaf.name + "^T"
    shape = (math.prod(weight.shape[1:]), weight.shape[0])
    return terms.leaf(type(leaf)(leaf.space, name, leaf.storage, leaf.stride), shape)


def _contract(terms: Terms, term: Term, c: Term) -> Sequence[Term | None]:
    weight, x = term.inputs
    c = terms.expand(c, term.shape)
    lead, out = x.shape[:-1], weight.shape[1:]
    outer = terms.mul(
        terms.reshape(x, (*x.shape, *(1,) * len(out))), terms.reshape(c, (*lead, 1, *out))
    )
    flat = terms.reshape(c, (*lead, math.prod(out)))
    return [
        _unbroadcast(terms, outer, outer.shape, weight.shape),
        terms.contract(transposed(terms, weight), flat),
    ]


_RULES: dict[str, Callable[[Terms, Term, Term], Sequence[Term | None]]] = {
    "select": _select,
    "reshape": _reshape,
    "expand": _expand,
    "sum": _sum,
    "contract": _contract,
    **dict.fromkeys(("add", "sub", "mul", "div", "max", "min"), _binary),
    **dict.fromkeys(UNARY, _unary),
}


def cotangents(
    terms: Terms, outputs: Sequence[tuple[Term, Term]], wanted: Callable[[Term], bool]
) -> list[LeafCotangent]:
    """Differentiate.

    Args:
        terms: Maker of the terms.
        outputs: Pairs of a term and its cotangent.
        wanted: Whether the cotangent of a leaf is asked for; paths to others are not followed.

    Returns:
        What each edge adds, by leaf; a leaf that is selected from by several indices has several.
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
        elif term.op == "take":
            table, index = term.inputs
            found.append(LeafCotangent(table, total, index))
        elif term.op in _RULES:
            for operand, grad in zip(term.inputs, _RULES[term.op](terms, term, total), strict=True):
                if grad is not None and operand in needed:
                    grads[operand].append(grad)
    return found
