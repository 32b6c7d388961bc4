"""From a traced `gather` to kernels, or to the reason why it has none."""

from __future__ import annotations

from graphtheta.tgar.aggregators import Aggregator
from graphtheta.tgar.chunked import EdgeInputs
from graphtheta.tgar.compiler.lowering.context import NotLowered
from graphtheta.tgar.compiler.lowering.lower import Signature, lower
from graphtheta.tgar.compiler.passes.program import Program
from graphtheta.tgar.compiler.passes.relations import RelationProgram, has_relations
from graphtheta.tgar.expression import Expression

__all__ = ["WITH_KERNELS", "program_of"]

WITH_KERNELS = ("sum", "mean", "max", "min", "softmax")  # aggregators


def program_of(
    expression: Expression,
    inputs: EdgeInputs,
    aggregator: str | Aggregator,
    *,
    self_loops: bool,
    training: bool,
) -> Program | RelationProgram | NotLowered:
    """Compile a traced gather for inputs of these types.

    Args:
        expression: The traced gather.
        inputs: Tensors of the types that it is called with.
        aggregator: A key of `AGGREGATORS`, or an aggregator.
        self_loops: Whether the layer adds self-loops.
        training: Whether dropout masks are drawn.

    Returns:
        The kernels, or the reason why there are none.
    """
    if any(t.device.type != "cpu" for t in inputs.flat()):
        return NotLowered("kernels run on CPUs only")
    if not isinstance(aggregator, str) or aggregator not in WITH_KERNELS:
        return NotLowered(f"the aggregator {aggregator} has no kernel")
    rows = [
        tuple((tuple(t.shape[1:]), t.dtype) for t in group)
        for group in (inputs.sources, inputs.destinations, inputs.columns)
    ]
    whole = tuple((tuple(t.shape), t.dtype) for t in inputs.parameters)
    try:
        lowered = lower(expression, Signature(rows[0], rows[1], whole, rows[2]), training=training)
        if has_relations(lowered):
            return RelationProgram(lowered, aggregator, self_loops=self_loops)
        return Program(lowered, aggregator, self_loops=self_loops)
    except NotLowered as reason:
        return reason
