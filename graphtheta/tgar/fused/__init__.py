"""Compiled Gather and Sum: lowering, differentiation, kernels and their executor."""

from graphtheta.tgar.fused.executor import FusedGatherSum
from graphtheta.tgar.fused.lowering import NotLowered
from graphtheta.tgar.fused.program import Program, program_of

__all__ = ["FusedGatherSum", "NotLowered", "Program", "program_of"]
