"""Weight folding: a . (W e) becomes (a W) . e.

Where a linear map's result is multiplied by a parameter and summed, torch computes the product of
both parameters once per step, and each edge multiplies by the smaller folded weight.
"""

from __future__ import annotations

import math

from graphtheta.tgar.compiler.ir.terms import Term
from graphtheta.tgar.compiler.lowering.context import LoweringContext
from graphtheta.wording import counted

__all__ = ["fold"]


def fold(ctx: LoweringContext, product: Term) -> Term | None:
    """Return the sum of `product` over its last dimension as a smaller linear map.

    Args:
        ctx: State of the lowering.
        product: What is summed.

    Returns:
        A term without the last dimension, or None if `product` is not a parameter times a linear
        map.
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
            return _folded(ctx, parameter, factor, linear, mapped)
    return None


def _base(term: Term) -> Term:
    return term.inputs[0] if term.op == "reshape" else term


def _folded(
    ctx: LoweringContext, parameter: Term, factor: Term, linear: Term, mapped: Term
) -> Term:
    weight, x = linear.inputs
    make_weight, make_factor = ctx.makers[weight.leaf.name], ctx.makers[parameter.leaf.name]
    inputs, shape, narrow = weight.shape[0], mapped.shape, mapped.shape[:-1]
    sizes = (inputs, *shape)
    folded = ctx.parameter(
        lambda given: (
            (make_weight(given).reshape(sizes) * make_factor(given).reshape(factor.shape))
            .sum(-1)
            .reshape(inputs, -1)
        ),
        (inputs, math.prod(narrow)),
        ctx.dtype,
    )
    ctx.folded.append(
        f"{parameter!r} . ({weight!r} {x!r}): "
        f"{counted(folded.size, 'product')} per edge instead of {weight.size}"
    )
    return ctx.terms.reshape(ctx.terms.contract(folded, x), narrow)
