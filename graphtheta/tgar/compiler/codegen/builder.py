"""What the emitter is built of: numbers that may be known, loops, and memory.

Indices are Python's own numbers as long as they are known, so that loops of few steps are written
out and what stands on the stack becomes registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from graphtheta.tgar.compiler.ir.terms import BYTES, Shape
from graphtheta.tgar.compiler.operators import vector_math as vm

__all__ = ["TYPES", "UNROLL", "At", "Builder", "Number"]

I1, I8, I32, I64 = (ir.IntType(n) for n in (1, 8, 32, 64))
TYPES: dict[str, Any] = {
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    "bfloat16": ir.IntType(16),
    "bool": I8,
    **{f"int{n}": ir.IntType(n) for n in (8, 16, 32, 64)},
    "uint8": I8,
}
UNROLL = 32  # blocks of a loop nest written out one by one

Number = Any  # a Python int, or an LLVM value of 64 bits


@dataclass(frozen=True)
class At:
    """Which numbers of a value: indices of all dimensions but the last, then some of the last."""

    outer: tuple[Number, ...]
    start: Number
    lanes: int


class Builder:
    """A function under construction.

    Args:
        storage: Type of its arithmetic, float32 or float64.
        vector_bytes: Width of the machine's vectors.
    """

    def __init__(self, storage: str, vector_bytes: int) -> None:
        self.float = TYPES[storage]
        self.itemsize = BYTES[storage]
        self.width = vector_bytes // self.itemsize
        self.module = ir.Module("graphtheta")
        kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer()])
        self.function = ir.Function(self.module, kind, "kernel")
        self.b: Any = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.entry = self.function.append_basic_block("locals")
        self.invariant = self.module.add_metadata([])

    def finish_locals(self) -> None:
        """Make the block in which room on the stack was collected the function's first."""
        blocks = self.function.basic_blocks
        blocks.remove(self.entry)
        blocks.insert(0, self.entry)
        with self.b.goto_block(self.entry):
            self.b.branch(blocks[1])

    def i64(self, n: Number) -> Any:
        """Return a number as an LLVM value."""
        return I64(n) if isinstance(n, int) else n

    def add(self, a: Number, b: Number) -> Number:
        """Return a + b."""
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if b == 0 and isinstance(b, int):
            return a
        if a == 0 and isinstance(a, int):
            return b
        return self.b.add(self.i64(a), self.i64(b))

    def times(self, a: Number, b: Number) -> Number:
        """Return a * b."""
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if isinstance(b, int) and b == 1:
            return a
        if isinstance(a, int) and a == 1:
            return b
        return self.b.mul(self.i64(a), self.i64(b))

    def element(self, pointer: Any, index: Number) -> Any:
        """Return where the n-th element is."""
        return self.b.gep(pointer, [self.i64(index)])

    def local(self, kind: Any, count: int, name: str) -> Any:
        """Reserve room on the stack, in the function's first block."""
        with self.b.goto_block(self.entry):
            room = self.b.alloca(ir.ArrayType(kind, count), name=name)
            room.align = 64
            return self.b.bitcast(room, kind.as_pointer())

    def load(self, pointer: Any, index: Number, lanes: int, *, invariant: bool = False) -> Any:
        """Load one element or a vector; `invariant` where nothing ever writes there."""
        at = self.element(pointer, index)
        scalar = pointer.type.pointee
        if lanes > 1:
            at = self.b.bitcast(at, ir.VectorType(scalar, lanes).as_pointer())
        value = self.b.load(at)
        value.align = scalar.width // 8 if isinstance(scalar, ir.IntType) else self.itemsize
        if invariant:
            value.set_metadata("invariant.load", self.invariant)
        return value

    def store(self, value: Any, pointer: Any, index: Number) -> None:
        """Store one element or a vector."""
        at = self.element(pointer, index)
        scalar = pointer.type.pointee
        if isinstance(value.type, ir.VectorType):
            at = self.b.bitcast(at, value.type.as_pointer())
        stored = self.b.store(value, at)
        stored.align = scalar.width // 8 if isinstance(scalar, ir.IntType) else self.itemsize

    @contextmanager
    def loop(self, first: Any, last: Any, name: str, step: int = 1) -> Any:
        """Run the body for first, first + step, ... below last; yields the index."""
        head = self.function.append_basic_block(f"{name}.head")
        body = self.function.append_basic_block(f"{name}.body")
        done = self.function.append_basic_block(f"{name}.done")
        before = self.b.block
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(I64, name)
        index.add_incoming(self.i64(first), before)
        self.b.cbranch(self.b.icmp_signed("<", index, self.i64(last)), body, done)
        self.b.position_at_end(body)
        yield index
        if not self.b.block.is_terminated:
            following = self.b.add(index, I64(step))
            index.add_incoming(following, self.b.block)
            self.b.branch(head)
        self.b.position_at_end(done)

    def nest(self, shape: Shape, body: Callable[[At], None], *, scalars: bool = False) -> None:
        """Call `body` for every block of a value; short nests are written out."""
        *outer, inner = shape or (1,)
        width = 1 if scalars else self.width
        blocks = -(-inner // width)
        self._nest(outer, (), inner, blocks, width, body)

    def _nest(
        self,
        outer: list[int],
        at: tuple[Number, ...],
        inner: int,
        blocks: int,
        width: int,
        body: Callable[[At], None],
    ) -> None:
        if outer:
            if math.prod(outer) * blocks <= UNROLL:
                for n in range(outer[0]):
                    self._nest(outer[1:], (*at, n), inner, blocks, width, body)
            else:
                with self.loop(0, outer[0], "outer") as n:
                    self._nest(outer[1:], (*at, n), inner, blocks, width, body)
            return
        whole = inner // width * width
        if blocks <= UNROLL:
            for start in range(0, whole, width):
                body(At(at, start, width))
        else:
            stride = 4 * width
            together = inner // stride * stride
            with self.loop(0, together, "inner", stride) as start:
                for k in range(0, stride, width):
                    body(At(at, self.add(start, k), width))
            for start in range(together, whole, width):
                body(At(at, start, width))
        if whole < inner:
            body(At(at, whole, inner - whole))

    def flat(self, at: At, shape: Shape) -> Number:
        """Return the offset of a value's number in row-major order."""
        offset: Number = 0
        for n, size in zip(at.outer, shape[:-1], strict=True):
            offset = self.add(self.times(offset, size), n)
        return self.add(self.times(offset, shape[-1] if shape else 1), at.start)

    @staticmethod
    def aligned(at: At, shape: Shape) -> At:
        """Return where an operand of that shape is read for a result's numbers."""
        if not shape:
            return At((), 0, 1)
        lead = len(at.outer) - (len(shape) - 1)
        outer = tuple(
            0 if size == 1 else n for n, size in zip(at.outer[lead:], shape[:-1], strict=True)
        )
        return At(outer, 0, 1) if shape[-1] == 1 else At(outer, at.start, at.lanes)

    def floats(self, lanes: int) -> Any:
        """Return the type of so many floats."""
        return self.float if lanes == 1 else ir.VectorType(self.float, lanes)

    def zero(self, lanes: int) -> Any:
        """Return a place of its own for a sum, set to zero."""
        with self.b.goto_block(self.entry):
            place = self.b.alloca(self.floats(lanes))
        self.b.store(vm.constant(self.floats(lanes), 0.0), place)
        return place
