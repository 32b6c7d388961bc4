"""Compiled Gather and Sum: lowering, differentiation, kernels and their executor."""

from graphtheta.tgar.compiler.executor import FusedGatherSum
from graphtheta.tgar.compiler.lowering.context import NotLowered
from graphtheta.tgar.compiler.passes.program import Program, program_of

__all__ = ["FusedGatherSum", "NotLowered", "Program", "program_of"]
