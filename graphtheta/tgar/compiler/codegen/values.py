"""Code of the values of terms: computed where they are read, or stored in buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir

from graphtheta.tgar.compiler.codegen.builder import I1, I32, I64, UNROLL, Builder, Number, Tile
from graphtheta.tgar.compiler.ir.terms import Shape, Term
from graphtheta.tgar.compiler.operators import vector_math as vm
from graphtheta.tgar.compiler.operators.elementwise import OPERATORS

__all__ = ["Values"]


class Values(Builder):
    """Builder that computes values of terms for the current row and edge.

    Attributes:
        base: Address of the current row of each array, by leaf name.
        totals: Buffers of the accumulators, by name.
        buffers: Buffers of the stored values.
        key: Key of the current edge, or None if the kernel does not read it.
        saved: Names of the arrays that the kernel writes per edge.
    """

    def __init__(self, storage: str, vector_bytes: int, saved: Iterable[str]) -> None:
        super().__init__(storage, vector_bytes)
        self.base: dict[str, Any] = {}
        self.totals: dict[str, Any] = {}
        self.buffers: dict[Term, Any] = {}
        self.key: Any = None
        self.saved = frozenset(saved)

    def vector(self, term: Term, tile: Tile) -> Any:
        """Return the elements of an operand for a tile of its result, with broadcasting."""
        value = self.value(term, self.aligned(tile, term.shape))
        if tile.lanes > 1 and not isinstance(value.type, ir.VectorType):
            return vm.splat(self.b, value, tile.lanes)
        return value

    def value(self, term: Term, tile: Tile) -> Any:
        """Return a tile of a term's elements."""
        if term in self.buffers:
            return self.load(self.buffers[term], self.flat(tile, term.shape), tile.lanes)
        if term.op == "leaf":
            return self._load_leaf(term, self.flat(tile, term.shape), tile.lanes)
        if term.op == "const":
            kind = {"float": self.float, "int": I64, "bool": I1}[term.kind]
            return vm.constant(_vector_of(kind, tile.lanes), term.detail)
        if term.op == "reshape":
            return self._reshape(term, tile)
        if term.op in ("expand", "detach"):
            return self.vector(term.inputs[0], tile)
        if term.op == "movedim":
            return self.value(term.inputs[0], Tile((*tile.outer[1:], tile.start), tile.outer[0], 1))
        if term.op == "lookup":
            return self._lookup(term, self.flat(tile, term.shape), tile.lanes)
        args = [self.vector(t, tile) for t in term.inputs]
        if term.op == "select":
            return self.b.select(*args)
        if term.op == "float":
            return self._convert(term.inputs[0], args[0])
        parameter = () if term.detail is None else (term.detail,)
        return OPERATORS[term.op].emit(self.b, *args, *parameter)

    def _lookup(self, term: Term, offset: Number, lanes: int) -> Any:
        """Load elements of the selected row of a table."""
        table, index = term.inputs
        row = self.row_offset(index, table.shape[1:])
        return self._load_leaf(table, self.add(row, offset), lanes)

    def row_offset(self, index: Term | None, shape: Shape) -> Number:
        """Return the offset of a row of that shape; None stands for the whole array."""
        if index is None:
            return 0
        number = index.detail if index.op == "const" else self.value(index, Tile((), 0, 1))
        return self.times(number, math.prod(shape))

    def _reshape(self, term: Term, tile: Tile) -> Any:
        """Return a tile of a reshaped value."""
        (x,) = term.inputs
        offset = self.flat(tile, term.shape)
        if x in self.buffers:
            return self.load(self.buffers[x], offset, tile.lanes)
        if x.op == "leaf":
            return self._load_leaf(x, offset, tile.lanes)
        if x.op == "lookup":
            return self._lookup(x, offset, tile.lanes)
        # Shapes differ only in dimensions of size one: the other dimensions keep their indices.
        indices = [*tile.outer, tile.start]
        rest = [n for n, size in zip(indices, term.shape or (1,), strict=True) if size != 1]
        full = [0 if size == 1 else rest.pop(0) for size in x.shape or (1,)]
        return self.value(x, Tile(tuple(full[:-1]), full[-1], tile.lanes))

    def _load_leaf(self, term: Term, offset: Number, lanes: int) -> Any:
        """Load elements of a leaf, and convert them to the type that the kernel computes in."""
        leaf = term.leaf
        if leaf.space == "row":
            return self.load(self.totals[leaf.name], offset, lanes)
        if leaf.name == "key":
            return self.key
        pointer = self.base[leaf.name]
        invariant = leaf.name not in self.saved
        value = self.load(pointer, self.add(offset, leaf.offset), lanes, invariant=invariant)
        if term.kind == "bool":
            return self.b.icmp_signed("!=", value, vm.constant(value.type, 0))
        if term.kind == "int":
            if leaf.storage == "int64":
                return value
            wide = _vector_of(I64, lanes)
            widen = self.b.zext if leaf.storage == "uint8" else self.b.sext
            return widen(value, wide)
        if leaf.storage == "bfloat16":
            wide = _vector_of(I32, lanes)
            bits = self.b.shl(self.b.zext(value, wide), vm.constant(wide, 16))
            return self.b.bitcast(bits, self.floats(lanes))
        return value

    def _convert(self, term: Term, x: Any) -> Any:
        """Convert an integer or a bool to a float."""
        lanes = x.type.count if isinstance(x.type, ir.VectorType) else 1
        convert = self.b.uitofp if term.kind == "bool" else self.b.sitofp
        return convert(x, self.floats(lanes))

    # -- stored values ----------------------------------------------------------------------------

    def compute(self, terms: Iterable[Term]) -> None:
        """Compute stored values into new buffers, in order."""
        loops = {"sum": self._sum, "contract": self._contract, "keep": self._keep}
        for term in terms:
            if term not in self.buffers:
                kind = I64 if term.kind == "int" else self.float
                buffer = self.local(kind, term.size, term.op)
                loops.get(term.op, self._fill)(term, buffer)
                self.buffers[term] = buffer

    def _fill(self, term: Term, buffer: Any) -> None:
        def fill(tile: Tile) -> None:
            self.store(self.vector(term, tile), buffer, self.flat(tile, term.shape))

        self.nest(term.shape, fill)

    def _sum(self, term: Term, buffer: Any) -> None:
        """Sum over dimensions."""
        (x,) = term.inputs
        last = len(x.shape) - 1
        reduced = [a for a in term.detail if a != last]

        def over(tile: Tile, body: Callable[[tuple[Number, ...]], None]) -> None:
            """Emit `body` for each index of the summed dimensions before the last."""

            def descend(axes: list[int], outer: tuple[Number, ...]) -> None:
                if not axes:
                    body(outer)
                    return
                axis = axes[0]

                def at_index(n: Number) -> None:
                    descend(axes[1:], (*outer[:axis], n, *outer[axis + 1 :]))

                if x.shape[axis] <= UNROLL:
                    for n in range(x.shape[axis]):
                        at_index(n)
                else:
                    with self.loop(0, x.shape[axis], "sum") as n:
                        at_index(n)

            descend(reduced, tile.outer)

        def along_last(tile: Tile) -> None:
            inner = x.shape[last]
            totals = {n: self.zero(n) for n in (self.width, inner % self.width) if 0 < n <= inner}

            def add(outer: tuple[Number, ...], part: Tile) -> None:
                value = self.vector(x, Tile(outer, part.start, part.lanes))
                self.add_to(totals[part.lanes], value)

            over(tile, lambda outer: self.nest((inner,), lambda part: add(outer, part)))
            parts = [self._sum_lanes(self.b.load(total)) for total in totals.values()]
            result = parts[0] if len(parts) == 1 else self.b.fadd(*parts, flags=vm.FLAGS)
            self.store(result, buffer, self.flat(tile, term.shape))

        def along_others(tile: Tile) -> None:
            total = self.zero(tile.lanes)

            def add(outer: tuple[Number, ...]) -> None:
                self.add_to(total, self.vector(x, Tile(outer, tile.start, tile.lanes)))

            over(tile, add)
            self.store(self.b.load(total), buffer, self.flat(tile, term.shape))

        if last in term.detail:
            self.nest(term.shape, along_last, scalars=True)
        else:
            self.nest(term.shape, along_others)

    def _sum_lanes(self, vector: Any) -> Any:
        """Return the sum of the lanes of a vector."""
        kind = vector.type
        if not isinstance(kind, ir.VectorType):
            return vector
        bits = "f32" if isinstance(kind.element, ir.FloatType) else "f64"
        name = f"llvm.vector.reduce.fadd.v{kind.count}{bits}"
        function = vm.declared(self.b, name, kind.element, [kind.element, kind])
        call = self.b.call(function, [vm.constant(kind.element, -0.0), vector])
        call.fastmath.update(vm.FLAGS)
        return call

    def _contract(self, term: Term, buffer: Any) -> None:
        """Multiply by a parameter: accumulate blocks of outputs in registers, input by input."""
        weight, x = term.inputs
        inputs, outputs = weight.shape[0], math.prod(weight.shape[1:])
        shape = (*x.shape[:-1], outputs)
        group = 8 * self.width

        def one(outer: tuple[Number, ...], first: int) -> None:
            blocks = [
                (start, min(self.width, outputs - start))
                for start in range(first, min(first + group, outputs), self.width)
            ]
            totals = [self.zero(lanes) for _, lanes in blocks]

            def step(a: Number) -> None:
                factor = self.value(x, Tile(outer, a, 1))
                for (start, lanes), total in zip(blocks, totals, strict=True):
                    index = self.add(self.times(a, outputs), start)
                    w = self._load_leaf(weight, index, lanes)
                    product = self.b.fmul(vm.splat(self.b, factor, lanes), w, vm.FLAGS)
                    self.add_to(total, product)

            if inputs * len(blocks) <= 8 * UNROLL:
                for a in range(inputs):
                    step(a)
            else:
                with self.loop(0, inputs, "contract") as a:
                    step(a)
            for (start, _), total in zip(blocks, totals, strict=True):
                index = self.flat(Tile(outer, start, 1), shape)
                self.store(self.b.load(total), buffer, index)

        def each(tile: Tile) -> None:
            for first in range(0, outputs, group):
                one(tile.outer, first)

        self.nest((*x.shape[:-1], 1), each, scalars=True)

    def _keep(self, term: Term, buffer: Any) -> None:
        """Draw a dropout mask by (edge_key, head), as `graphtheta.rng.philox.keep_mask` does."""
        p, call = term.detail
        b, draws = self.b, self.base["draws"]
        k0, k1, stream = (self.load(draws, n, 1) for n in (0, 1, 2 + call))
        low = b.trunc(self.key, I32)
        high = b.trunc(b.lshr(self.key, I64(32)), I32)
        width = max(1, term.size)
        blocks = (width + 3) // 4
        threshold, scale = I32(int(p * 2.0**32)), self.float(1.0 / (1.0 - p))
        for q in range(blocks):
            lanes = _philox(b, (I32(q), low, high, stream), k0, k1)
            for lane, draw in enumerate(lanes):
                column = lane * blocks + q
                if column < width:
                    kept = b.icmp_unsigned(">=", draw, threshold)
                    self.store(b.select(kept, scale, self.float(0.0)), buffer, column)


def _vector_of(kind: Any, lanes: int) -> Any:
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def _philox(b: Any, counter: tuple[Any, ...], k0: Any, k1: Any) -> tuple[Any, ...]:
    """Return the four 32-bit words that Philox4x32-10 draws (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0 = b.mul(b.zext(c0, I64), I64(0xD2511F53))
        p1 = b.mul(b.zext(c2, I64), I64(0xCD9E8D57))
        h0, h1 = (b.trunc(b.lshr(p, I64(32)), I32) for p in (p0, p1))
        c0, c1, c2, c3 = (
            b.xor(b.xor(h1, c1), k0),
            b.trunc(p1, I32),
            b.xor(b.xor(h0, c3), k1),
            b.trunc(p0, I32),
        )
        k0, k1 = b.add(k0, I32(0x9E3779B9)), b.add(k1, I32(0xBB67AE85))
    return c0, c1, c2, c3
