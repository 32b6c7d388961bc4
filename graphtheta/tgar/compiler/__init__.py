"""Compiler of `gather`: lowers, differentiates and compiles a layer's Gather and Sum."""

from graphtheta.tgar.compiler.executor import FusedGatherSum
from graphtheta.tgar.compiler.lowering.context import NotLowered
from graphtheta.tgar.compiler.passes.program import Program, program_of

__all__ = ["FusedGatherSum", "NotLowered", "Program", "program_of"]
