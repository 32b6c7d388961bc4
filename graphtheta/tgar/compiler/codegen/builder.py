"""Builder of LLVM functions: indices, loops, and memory access.

Indices are Python integers while their value is known, so that short loops are unrolled and LLVM
can keep buffers on the stack in registers.
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

__all__ = ["TYPES", "UNROLL", "Builder", "Number", "Tile"]

I1, I8, I32, I64 = (ir.IntType(n) for n in (1, 8, 32, 64))
TYPES: dict[str, Any] = {
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    "bfloat16": ir.IntType(16),
    "bool": I8,
    **{f"int{n}": ir.IntType(n) for n in (8, 16, 32, 64)},
    "uint8": I8,
}
UNROLL = 32  # largest number of tiles that are unrolled

Number = Any  # a Python int, or an LLVM value of type i64


@dataclass(frozen=True)
class Tile:
    """Tile of a value: elements of one vector along the last dimension.

    Attributes:
        outer: Indices of all dimensions but the last.
        start: First index of the last dimension.
        lanes: Number of elements.
    """

    outer: tuple[Number, ...]
    start: Number
    lanes: int


class Builder:
    """LLVM function under construction.

    Args:
        storage: Type of arithmetic, float32 or float64.
        vector_bytes: Width of the machine's vector registers.
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
        """Move the block that reserves stack buffers to the start of the function."""
        blocks = self.function.basic_blocks
        blocks.remove(self.entry)
        blocks.insert(0, self.entry)
        with self.b.goto_block(self.entry):
            self.b.branch(blocks[1])

    def i64(self, n: Number) -> Any:
        """Return an index as an LLVM value."""
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

    def address(self, pointer: Any, index: Number) -> Any:
        """Return the address of element `index`."""
        return self.b.gep(pointer, [self.i64(index)])

    def local(self, kind: Any, count: int, name: str) -> Any:
        """Reserve a buffer of `count` elements on the stack."""
        with self.b.goto_block(self.entry):
            buffer = self.b.alloca(ir.ArrayType(kind, count), name=name)
            buffer.align = 64
            return self.b.bitcast(buffer, kind.as_pointer())

    def load(self, pointer: Any, index: Number, lanes: int, *, invariant: bool = False) -> Any:
        """Load one element or a vector.

        Args:
            pointer: Start of the array.
            index: First element.
            lanes: Number of elements.
            invariant: Whether the kernel never writes to the array.
        """
        address = self.address(pointer, index)
        scalar = pointer.type.pointee
        if lanes > 1:
            address = self.b.bitcast(address, ir.VectorType(scalar, lanes).as_pointer())
        value = self.b.load(address)
        value.align = scalar.width // 8 if isinstance(scalar, ir.IntType) else self.itemsize
        if invariant:
            value.set_metadata("invariant.load", self.invariant)
        return value

    def store(self, value: Any, pointer: Any, index: Number) -> None:
        """Store one element or a vector."""
        address = self.address(pointer, index)
        scalar = pointer.type.pointee
        if isinstance(value.type, ir.VectorType):
            address = self.b.bitcast(address, value.type.as_pointer())
        stored = self.b.store(value, address)
        stored.align = scalar.width // 8 if isinstance(scalar, ir.IntType) else self.itemsize

    @contextmanager
    def loop(self, first: Any, last: Any, name: str, step: int = 1) -> Any:
        """Loop over first, first + step, ... below last: a context that yields the index."""
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

    def nest(self, shape: Shape, body: Callable[[Tile], None], *, scalars: bool = False) -> None:
        """Emit `body` for every tile of a value, in loops or unrolled.

        Args:
            shape: Shape of the value.
            body: Emits the instructions of one tile.
            scalars: Whether tiles are single elements instead of vectors.
        """
        *outer, inner = shape or (1,)
        width = 1 if scalars else self.width
        tiles = -(-inner // width)
        self._nest(outer, (), inner, tiles, width, body)

    def _nest(
        self,
        outer: list[int],
        at: tuple[Number, ...],
        inner: int,
        tiles: int,
        width: int,
        body: Callable[[Tile], None],
    ) -> None:
        if outer:
            if math.prod(outer) * tiles <= UNROLL:
                for n in range(outer[0]):
                    self._nest(outer[1:], (*at, n), inner, tiles, width, body)
            else:
                with self.loop(0, outer[0], "outer") as n:
                    self._nest(outer[1:], (*at, n), inner, tiles, width, body)
            return
        whole = inner // width * width
        if tiles <= UNROLL:
            for start in range(0, whole, width):
                body(Tile(at, start, width))
        else:
            stride = 4 * width
            unrolled = inner // stride * stride
            with self.loop(0, unrolled, "inner", stride) as start:
                for k in range(0, stride, width):
                    body(Tile(at, self.add(start, k), width))
            for start in range(unrolled, whole, width):
                body(Tile(at, start, width))
        if whole < inner:
            body(Tile(at, whole, inner - whole))

    def flat(self, tile: Tile, shape: Shape) -> Number:
        """Return the offset of a tile's first element in row-major order."""
        offset: Number = 0
        for n, size in zip(tile.outer, shape[:-1], strict=True):
            offset = self.add(self.times(offset, size), n)
        return self.add(self.times(offset, shape[-1] if shape else 1), tile.start)

    @staticmethod
    def aligned(tile: Tile, shape: Shape) -> Tile:
        """Return the tile of an operand that a tile of the result is computed from."""
        if not shape:
            return Tile((), 0, 1)
        lead = len(tile.outer) - (len(shape) - 1)
        outer = tuple(
            0 if size == 1 else n for n, size in zip(tile.outer[lead:], shape[:-1], strict=True)
        )
        return Tile(outer, 0, 1) if shape[-1] == 1 else Tile(outer, tile.start, tile.lanes)

    def floats(self, lanes: int) -> Any:
        """Return the type of a float, or of a vector of floats."""
        return self.float if lanes == 1 else ir.VectorType(self.float, lanes)

    def zero(self, lanes: int) -> Any:
        """Return a new variable for a sum, set to zero."""
        with self.b.goto_block(self.entry):
            variable = self.b.alloca(self.floats(lanes))
        self.b.store(vm.constant(self.floats(lanes), 0.0), variable)
        return variable

    def add_to(self, variable: Any, value: Any) -> None:
        """Add a value to a variable."""
        self.b.store(self.b.fadd(self.b.load(variable), value, vm.FLAGS), variable)
