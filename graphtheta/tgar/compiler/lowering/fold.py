"""Folding: a product with a parameter that is summed away is a narrower product.

a . (W e) = (a W) e: where the result of a linear map is multiplied by a parameter and summed, torch
makes the folded weight once a step, and an edge no longer computes what the sum throws away.
"""

from __future__ import annotations

import math

from graphtheta.tgar.compiler.ir.terms import Term
from graphtheta.tgar.compiler.lowering.context import Lowering

__all__ = ["fold"]


def fold(low: Lowering, product: Term) -> Term | None:
    """Return the sum of `product` over its last dimension as a narrower linear map.

    Args:
        low: The lowering under way.
        product: What is summed.

    Returns:
        A term without the last dimension, or None where `product` is not a parameter times a
        linear map.
    """
    if product.op != "mul":
        return None
    for factor, mapped in (product.inputs, product.inputs[::-1]):
        parameter, linear = _base(factor), _base(mapped)
        if (
            parameter.op == "leaf"
            and parameter.leaf.space == "parameter"
            and linear.op == "contract"
            and len(linear.inputs[1].shape) == 1
            and mapped.shape == product.shape
        ):
            return _folded(low, parameter, factor, linear, mapped)
    return None


def _base(term: Term) -> Term:
    return term.inputs[0] if term.op == "reshape" else term


def _folded(low: Lowering, parameter: Term, factor: Term, linear: Term, mapped: Term) -> Term:
    weight, x = linear.inputs
    make_weight, make_factor = low.derivation(weight), low.derivation(parameter)
    inputs, shape, narrow = weight.shape[0], mapped.shape, mapped.shape[:-1]
    sizes = (inputs, *shape)
    folded = low.derive(
        lambda given: (
            (make_weight(given).reshape(sizes) * make_factor(given).reshape(factor.shape))
            .sum(-1)
            .reshape(inputs, -1)
        ),
        (inputs, math.prod(narrow)),
        low.dtype,
    )
    low.folded.append(
        f"{parameter!r} . ({weight!r} {x!r}): {weight.size} products an edge became {folded.size}"
    )
    return low.terms.reshape(low.terms.contract(folded, x), narrow)
