"""Compiler of `gather`: lowers, differentiates and compiles a layer's Gather and Sum."""

from graphtheta.tgar.compiler.executor import FusedGatherSum
from graphtheta.tgar.compiler.lowering.context import NotLowered
from graphtheta.tgar.compiler.passes.build import program_of
from graphtheta.tgar.compiler.passes.program import Program
from graphtheta.tgar.compiler.passes.relations import RelationProgram
from graphtheta.tgar.compiler.relation_executor import RelationGatherSum

__all__ = [
    "FusedGatherSum",
    "NotLowered",
    "Program",
    "RelationGatherSum",
    "RelationProgram",
    "program_of",
]
