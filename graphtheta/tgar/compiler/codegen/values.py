"""Values: the numbers of a term, computed where they are read or kept on the stack."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir

from graphtheta.tgar.compiler.codegen.builder import I1, I32, I64, UNROLL, At, Builder, Number
from graphtheta.tgar.compiler.ir.terms import Shape, Term
from graphtheta.tgar.compiler.operators import vector_math as vm
from graphtheta.tgar.compiler.operators.elementwise import OPERATORS

__all__ = ["Values"]


class Values(Builder):
    """The values of terms for the row and the edge that are worked on.

    Attributes:
        base: By leaf name, where the row that is in reach starts.
        totals: By name, accumulators.
        buffers: Values with a place on the stack.
        key: Of the edge, where it is read.
        saved: Names of arrays that the function itself writes.
    """

    def __init__(self, storage: str, vector_bytes: int, saved: Iterable[str]) -> None:
        super().__init__(storage, vector_bytes)
        self.base: dict[str, Any] = {}
        self.totals: dict[str, Any] = {}
        self.buffers: dict[Term, Any] = {}
        self.key: Any = None
        self.saved = frozenset(saved)

    def vector(self, term: Term, at: At) -> Any:
        """Return an operand's numbers for a result's, repeated where it broadcasts."""
        value = self.value(term, self.aligned(at, term.shape))
        if at.lanes > 1 and not isinstance(value.type, ir.VectorType):
            return vm.splat(self.b, value, at.lanes)
        return value

    def value(self, term: Term, at: At) -> Any:
        """Return numbers of a term, at indices of its own shape."""
        if term in self.buffers:
            return self.load(self.buffers[term], self.flat(at, term.shape), at.lanes)
        if term.op == "leaf":
            return self.leaf(term, self.flat(at, term.shape), at.lanes)
        if term.op == "const":
            return self.constant(term, at.lanes)
        if term.op == "reshape":
            return self.reshaped(term, at)
        if term.op in ("expand", "detach"):
            return self.vector(term.inputs[0], at)
        if term.op == "movedim":
            return self.value(term.inputs[0], At((*at.outer[1:], at.start), at.outer[0], 1))
        if term.op == "lookup":
            return self.taken(term, self.flat(at, term.shape), at.lanes)
        args = [self.vector(t, at) for t in term.inputs]
        if term.op == "select":
            return self.b.select(*args)
        if term.op == "float":
            return self.converted(term.inputs[0], args[0])
        parameter = () if term.detail is None else (term.detail,)
        return OPERATORS[term.op].emit(self.b, *args, *parameter)

    def constant(self, term: Term, lanes: int) -> Any:
        """Return a number, repeated."""
        kind = {"float": self.float, "int": I64, "bool": I1}[term.kind]
        return vm.constant(kind if lanes == 1 else ir.VectorType(kind, lanes), term.detail)

    def taken(self, term: Term, offset: Number, lanes: int) -> Any:
        """Load numbers of the selected row of a table."""
        table, index = term.inputs
        row = self.row_offset(index, table.shape[1:])
        return self.leaf(table, self.add(row, offset), lanes)

    def row_offset(self, at: Term | None, shape: Shape) -> Number:
        """Return where the row that is selected starts; None selects the whole."""
        if at is None:
            return 0
        number = at.detail if at.op == "const" else self.value(at, At((), 0, 1))
        return self.times(number, math.prod(shape))

    def reshaped(self, term: Term, at: At) -> Any:
        """Return numbers of a value that has another shape."""
        (x,) = term.inputs
        offset = self.flat(at, term.shape)
        if x in self.buffers:
            return self.load(self.buffers[x], offset, at.lanes)
        if x.op == "leaf":
            return self.leaf(x, offset, at.lanes)
        if x.op == "lookup":
            return self.taken(x, offset, at.lanes)
        # Only dimensions of size one differ: the others keep their indices.
        indices = [*at.outer, at.start]
        rest = [n for n, size in zip(indices, term.shape or (1,), strict=True) if size != 1]
        full = [0 if size == 1 else rest.pop(0) for size in x.shape or (1,)]
        return self.value(x, At(tuple(full[:-1]), full[-1], at.lanes))

    def leaf(self, term: Term, offset: Number, lanes: int) -> Any:
        """Load numbers, and convert them to what kernels compute in."""
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
            wide = I64 if lanes == 1 else ir.VectorType(I64, lanes)
            widen = self.b.zext if leaf.storage == "uint8" else self.b.sext
            return widen(value, wide)
        if leaf.storage == "bfloat16":
            wide = I32 if lanes == 1 else ir.VectorType(I32, lanes)
            bits = self.b.shl(self.b.zext(value, wide), vm.constant(wide, 16))
            return self.b.bitcast(bits, self.floats(lanes))
        return value

    def converted(self, term: Term, x: Any) -> Any:
        """Convert an integer or a bool to a float."""
        lanes = x.type.count if isinstance(x.type, ir.VectorType) else 1
        convert = self.b.uitofp if term.kind == "bool" else self.b.sitofp
        return convert(x, self.floats(lanes))

    # -- values with a place on the stack ---------------------------------------------------------

    def place(self, terms: Iterable[Term]) -> None:
        """Compute values that have a place, in order."""
        for term in terms:
            if term in self.buffers:
                continue
            kind = I64 if term.kind == "int" else self.float
            room = self.local(kind, term.size, term.op)
            if term.op == "sum":
                self.summed(term, room)
            elif term.op == "contract":
                self.contracted(term, room)
            elif term.op == "keep":
                self.kept(term, room)
            else:
                self.nest(
                    term.shape,
                    lambda at, term=term, room=room: self.store(  # type: ignore[misc]
                        self.vector(term, at), room, self.flat(at, term.shape)
                    ),
                )
            self.buffers[term] = room

    def summed(self, term: Term, room: Any) -> None:
        """Sum over dimensions."""
        (x,) = term.inputs
        last = len(x.shape) - 1
        reduced = [a for a in term.detail if a != last]

        def over(at: At, blocks: Callable[[tuple[Number, ...]], None]) -> None:
            """Call `blocks` for each index of the summed dimensions before the last."""

            def descend(axes: list[int], outer: tuple[Number, ...]) -> None:
                if not axes:
                    blocks(outer)
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

            descend(reduced, at.outer)

        def along_last(at: At) -> None:
            inner = x.shape[last]
            totals = {n: self.zero(n) for n in (self.width, inner % self.width) if 0 < n <= inner}

            def add(outer: tuple[Number, ...], block: At) -> None:
                value = self.vector(x, At(outer, block.start, block.lanes))
                total = totals[block.lanes]
                self.b.store(self.b.fadd(self.b.load(total), value, vm.FLAGS), total)

            over(at, lambda outer: self.nest((inner,), lambda block: add(outer, block)))
            parts = [self.horizontal(self.b.load(place)) for place in totals.values()]
            result = parts[0] if len(parts) == 1 else self.b.fadd(*parts, flags=vm.FLAGS)
            self.store(result, room, self.flat(at, term.shape))

        def along_others(at: At) -> None:
            total = self.zero(at.lanes)

            def add(outer: tuple[Number, ...]) -> None:
                value = self.vector(x, At(outer, at.start, at.lanes))
                self.b.store(self.b.fadd(self.b.load(total), value, vm.FLAGS), total)

            over(at, add)
            self.store(self.b.load(total), room, self.flat(at, term.shape))

        if last in term.detail:
            self.nest(term.shape, along_last, scalars=True)
        else:
            self.nest(term.shape, along_others)

    def horizontal(self, vector: Any) -> Any:
        """Sum the lanes of a vector."""
        kind = vector.type
        if not isinstance(kind, ir.VectorType):
            return vector
        bits = "f32" if isinstance(kind.element, ir.FloatType) else "f64"
        name = f"llvm.vector.reduce.fadd.v{kind.count}{bits}"
        function = self.module.globals.get(name) or ir.Function(
            self.module, ir.FunctionType(kind.element, [kind.element, kind]), name
        )
        call = self.b.call(function, [vm.constant(kind.element, -0.0), vector])
        call.fastmath.update(vm.FLAGS)
        return call

    def contracted(self, term: Term, room: Any) -> None:
        """Multiply by a parameter: blocks of outputs in registers, inputs one by one."""
        weight, x = term.inputs
        inputs, outputs = weight.shape[0], math.prod(weight.shape[1:])
        shape = (*x.shape[:-1], outputs)
        group = 8 * self.width

        def one(at: tuple[Number, ...], first: int) -> None:
            blocks = [
                (start, min(self.width, outputs - start))
                for start in range(first, min(first + group, outputs), self.width)
            ]
            totals = [self.zero(lanes) for _, lanes in blocks]

            def step(a: Number) -> None:
                factor = self.value(x, At(at, a, 1))
                for (start, lanes), total in zip(blocks, totals, strict=True):
                    index = self.add(self.times(a, outputs), start)
                    w = self.leaf(weight, index, lanes)
                    product = self.b.fmul(vm.splat(self.b, factor, lanes), w, vm.FLAGS)
                    self.b.store(self.b.fadd(self.b.load(total), product, vm.FLAGS), total)

            if inputs * len(blocks) <= 8 * UNROLL:
                for a in range(inputs):
                    step(a)
            else:
                with self.loop(0, inputs, "contract") as a:
                    step(a)
            for (start, _), total in zip(blocks, totals, strict=True):
                index = self.flat(At(at, start, 1), shape)
                self.store(self.b.load(total), room, index)

        def each(at: At) -> None:
            for first in range(0, outputs, group):
                one(at.outer, first)

        self.nest((*x.shape[:-1], 1), each, scalars=True)

    def kept(self, term: Term, room: Any) -> None:
        """Draw a keep mask by (edge_key, head), as `graphtheta.rng.philox.keep_mask` does."""
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
                    self.store(b.select(kept, scale, self.float(0.0)), room, column)


def _philox(b: Any, counter: tuple[Any, ...], k0: Any, k1: Any) -> tuple[Any, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011)."""
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
