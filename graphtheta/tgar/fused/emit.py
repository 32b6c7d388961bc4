"""The emitter: one function of LLVM instructions from a kernel, whatever layer it came from.

The function takes chunks from a shared counter until none is left, so that any number of threads
may run it. Widths are constants, vectors have the machine's width, indices never wrap around, and
what a row's edges will read is prefetched. Values that several places read, sums and products with
parameters get a place on the stack, which LLVM turns into registers; all else is computed where it
is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from graphtheta.tgar.fused import vector_math as vm
from graphtheta.tgar.fused.kernel import Accumulator, Kernel, Pass, Save, Update
from graphtheta.tgar.fused.schedule import Schedule
from graphtheta.tgar.fused.terms import Leaf, Shape, Term

__all__ = ["NO_WINNER", "emit"]

NO_WINNER = (1 << 63) - 1  # what `best` accumulators of an empty row hold, as the aggregators do

_I1, _I8, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 32, 64))
_TYPES: dict[str, Any] = {
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    "bfloat16": ir.IntType(16),
    "bool": _I8,
    **{f"int{n}": ir.IntType(n) for n in (8, 16, 32, 64)},
    "uint8": _I8,
}
_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "bool": 1, "uint8": 1} | {
    f"int{n}": n // 8 for n in (8, 16, 32, 64)
}
_UNROLL = 32  # blocks of a loop nest written out one by one
_PREFETCH_BYTES = 8192  # rows on their way to the cache at any time
_CACHE_LINE = 64
_NONE = -(1 << 31)  # the position of a winner that is not there yet

Number = Any  # a Python int, or an LLVM value of 64 bits


@dataclass(frozen=True)
class At:
    """Which numbers of a value: indices of all dimensions but the last, then some of the last."""

    outer: tuple[Number, ...]
    start: Number
    lanes: int


def emit(kernel: Kernel, vector_bytes: int) -> Any:
    """Return the LLVM module of a kernel; its function is called `kernel` and takes one pointer.

    Args:
        kernel: What to compute.
        vector_bytes: Width of the machine's vectors.
    """
    return _Emitter(kernel, vector_bytes).module


class _Emitter:
    def __init__(self, kernel: Kernel, vector_bytes: int) -> None:
        self.kernel = kernel
        self.float = _TYPES[kernel.storage]
        self.itemsize = _BYTES[kernel.storage]
        self.width = vector_bytes // self.itemsize
        self.schedule = Schedule(kernel)
        self.module = ir.Module("graphtheta")
        kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer()])
        self.function = ir.Function(self.module, kind, "kernel")
        self.b: Any = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.entry = self.function.append_basic_block("locals")
        self.invariant = self.module.add_metadata([])
        self.saved = {s.leaf.name for p in kernel.passes for s in p.saves}
        self.base: dict[str, Any] = {}  # leaf rows in reach: pointers to their first element
        self.buffers: dict[Term, Any] = {}
        self._run()

    # -- small things -----------------------------------------------------------------------------

    def i64(self, n: Number) -> Any:
        return _I64(n) if isinstance(n, int) else n

    def add(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if b == 0 and isinstance(b, int):
            return a
        if a == 0 and isinstance(a, int):
            return b
        return self.b.add(self.i64(a), self.i64(b))

    def times(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if isinstance(b, int) and b == 1:
            return a
        if isinstance(a, int) and a == 1:
            return b
        return self.b.mul(self.i64(a), self.i64(b))

    def element(self, pointer: Any, index: Number) -> Any:
        return self.b.gep(pointer, [self.i64(index)])

    def local(self, kind: Any, count: int, name: str) -> Any:
        """Reserve room on the stack, in the function's first block."""
        with self.b.goto_block(self.entry):
            room = self.b.alloca(ir.ArrayType(kind, count), name=name)
            room.align = 64
            return self.b.bitcast(room, kind.as_pointer())

    def load(self, pointer: Any, index: Number, lanes: int, *, invariant: bool = False) -> Any:
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
        index = self.b.phi(_I64, name)
        index.add_incoming(self.i64(first), before)
        self.b.cbranch(self.b.icmp_signed("<", index, self.i64(last)), body, done)
        self.b.position_at_end(body)
        yield index
        if not self.b.block.is_terminated:
            following = self.b.add(index, _I64(step))
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
            if math.prod(outer) * blocks <= _UNROLL:
                for n in range(outer[0]):
                    self._nest(outer[1:], (*at, n), inner, blocks, width, body)
            else:
                with self.loop(0, outer[0], "outer") as n:
                    self._nest(outer[1:], (*at, n), inner, blocks, width, body)
            return
        whole = inner // width * width
        if blocks <= _UNROLL:
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

    # -- values -----------------------------------------------------------------------------------

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
        if term.op == "expand":
            return self.vector(term.inputs[0], at)
        if term.op == "take":
            return self.taken(term, self.flat(at, term.shape), at.lanes)
        args = [self.vector(t, at) for t in term.inputs]
        return self.operation(term, args)

    def constant(self, term: Term, lanes: int) -> Any:
        kind = {"float": self.float, "int": _I64, "bool": _I1}[term.kind]
        return vm.constant(kind if lanes == 1 else ir.VectorType(kind, lanes), term.detail)

    def taken(self, term: Term, offset: Number, lanes: int) -> Any:
        table, index = term.inputs
        number = index.detail if index.op == "const" else self.value(index, At((), 0, 1))
        row = self.times(number, math.prod(table.shape[1:]))
        return self.leaf(table, self.add(row, offset), lanes)

    def reshaped(self, term: Term, at: At) -> Any:
        (x,) = term.inputs
        offset = self.flat(at, term.shape)
        if x in self.buffers:
            return self.load(self.buffers[x], offset, at.lanes)
        if x.op == "leaf":
            return self.leaf(x, offset, at.lanes)
        if x.op == "take":
            return self.taken(x, offset, at.lanes)
        # Only dimensions of size one differ: the others keep their indices.
        indices = [*at.outer, at.start]
        rest = [n for n, size in zip(indices, term.shape or (1,), strict=True) if size != 1]
        full = [0 if size == 1 else rest.pop(0) for size in x.shape or (1,)]
        return self.value(x, At(tuple(full[:-1]), full[-1], at.lanes))

    def leaf(self, term: Term, offset: Number, lanes: int) -> Any:
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
            wide = _I64 if lanes == 1 else ir.VectorType(_I64, lanes)
            widen = self.b.zext if leaf.storage == "uint8" else self.b.sext
            return widen(value, wide)
        if leaf.storage == "bfloat16":
            wide = _I32 if lanes == 1 else ir.VectorType(_I32, lanes)
            bits = self.b.shl(self.b.zext(value, wide), vm.constant(wide, 16))
            return self.b.bitcast(bits, self.floats(lanes))
        return value

    def operation(self, term: Term, args: list[Any]) -> Any:
        b, op = self.b, term.op
        if op in ("add", "sub", "mul", "div"):
            return getattr(b, "f" + op)(*args, flags=vm.FLAGS)
        if op in ("max", "min"):
            x, y = args
            compare = b.fcmp_ordered(">" if op == "max" else "<", x, y)
            return b.select(b.or_(compare, b.fcmp_unordered("uno", x, x)), x, y)
        if op in ("lt", "le", "gt", "ge", "eq", "ne"):
            sign = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}[op]
            if term.inputs[0].kind == "float":
                compare = b.fcmp_unordered if op == "ne" else b.fcmp_ordered
                return compare(sign, *args)
            return b.icmp_signed(sign, *args)
        if op == "and":
            return b.and_(*args)
        if op == "or":
            return b.or_(*args)
        if op == "select":
            return b.select(*args)
        (x,) = args
        if op == "detach":
            return x
        if op == "not":
            return b.not_(x)
        if op == "float":
            lanes = x.type.count if isinstance(x.type, ir.VectorType) else 1
            kind = self.floats(lanes)
            convert = b.uitofp if term.inputs[0].kind == "bool" else b.sitofp
            return convert(x, kind)
        return self.function_of(term, x)

    def function_of(self, term: Term, x: Any) -> Any:
        b, op = self.b, term.op
        zero, one = vm.constant(x.type, 0.0), vm.constant(x.type, 1.0)
        if op == "neg":
            return b.fneg(x)
        if op == "exp":
            return vm.exp(b, x)
        if op == "sqrt":
            return vm.sqrt(b, x)
        if op == "sigmoid":
            return b.fdiv(one, b.fadd(one, vm.exp(b, b.fneg(x))))
        if op == "abs":
            return b.select(b.fcmp_ordered("<", x, zero), b.fneg(x), x)
        if op == "relu":
            return b.select(b.fcmp_ordered("<", x, zero), zero, x)
        if op == "leaky_relu":
            slope = b.fmul(x, vm.constant(x.type, term.detail))
            return b.select(b.fcmp_ordered(">", x, zero), x, slope)
        if op == "elu":
            below = b.fmul(vm.library(b, "expm1", x), vm.constant(x.type, term.detail))
            return b.select(b.fcmp_ordered(">", x, zero), x, below)
        return vm.library(b, op, x)

    # -- values with a place on the stack ---------------------------------------------------------

    def place(self, terms: Iterable[Term]) -> None:
        """Compute values that have a place, in order."""
        for term in terms:
            if term in self.buffers:
                continue
            kind = _I64 if term.kind == "int" else self.float
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
                        self.broadcast_value(term, at), room, self.flat(at, term.shape)
                    ),
                )
            self.buffers[term] = room

    def broadcast_value(self, term: Term, at: At) -> Any:
        value = self.value(term, at)
        if at.lanes > 1 and not isinstance(value.type, ir.VectorType):
            return vm.splat(self.b, value, at.lanes)
        return value

    def summed(self, term: Term, room: Any) -> None:
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

                if x.shape[axis] <= _UNROLL:
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
                value = self.broadcast_value(x, At(outer, block.start, block.lanes))
                total = totals[block.lanes]
                self.b.store(self.b.fadd(self.b.load(total), value, vm.FLAGS), total)

            over(at, lambda outer: self.nest((inner,), lambda block: add(outer, block)))
            parts = [self.horizontal(self.b.load(place)) for place in totals.values()]
            result = parts[0] if len(parts) == 1 else self.b.fadd(*parts, flags=vm.FLAGS)
            self.store(result, room, self.flat(at, term.shape))

        def along_others(at: At) -> None:
            total = self.zero(at.lanes)

            def add(outer: tuple[Number, ...]) -> None:
                value = self.broadcast_value(x, At(outer, at.start, at.lanes))
                self.b.store(self.b.fadd(self.b.load(total), value, vm.FLAGS), total)

            over(at, add)
            self.store(self.b.load(total), room, self.flat(at, term.shape))

        if last in term.detail:
            self.nest(term.shape, along_last, scalars=True)
        else:
            self.nest(term.shape, along_others)

    def floats(self, lanes: int) -> Any:
        """Return the type of so many floats."""
        return self.float if lanes == 1 else ir.VectorType(self.float, lanes)

    def zero(self, lanes: int) -> Any:
        """Return a place of its own for a sum, set to zero."""
        with self.b.goto_block(self.entry):
            place = self.b.alloca(self.floats(lanes))
        self.b.store(vm.constant(self.floats(lanes), 0.0), place)
        return place

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
        inputs, outputs = weight.shape
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

            if inputs * len(blocks) <= 8 * _UNROLL:
                for a in range(inputs):
                    step(a)
            else:
                with self.loop(0, inputs, "contract") as a:
                    step(a)
            for (start, _), total in zip(blocks, totals, strict=True):
                index = self.flat(At(at, start, 1), term.shape)
                self.store(self.b.load(total), room, index)

        def each(at: At) -> None:
            for first in range(0, outputs, group):
                one(at.outer, first)

        self.nest((*x.shape[:-1], 1), each, scalars=True)

    def kept(self, term: Term, room: Any) -> None:
        """Draw a keep mask by (edge_key, head), as `graphtheta.random.keep_mask` does."""
        p, call = term.detail
        b, draws = self.b, self.base["draws"]
        k0, k1, stream = (self.load(draws, n, 1) for n in (0, 1, 2 + call))
        low = b.trunc(self.key, _I32)
        high = b.trunc(b.lshr(self.key, _I64(32)), _I32)
        width = max(1, term.size)
        blocks = (width + 3) // 4
        threshold, scale = _I32(int(p * 2.0**32)), self.float(1.0 / (1.0 - p))
        for q in range(blocks):
            lanes = _philox(b, (_I32(q), low, high, stream), k0, k1)
            for lane, draw in enumerate(lanes):
                column = lane * blocks + q
                if column < width:
                    kept = b.icmp_unsigned(">=", draw, threshold)
                    self.store(b.select(kept, scale, self.float(0.0)), room, column)

    # -- the walk over chunks, rows and edges -----------------------------------------------------

    def argument(self, name: str, kind: Any) -> Any:
        number = self.kernel.arguments().index(name)
        at = self.b.gep(self.pointers, [_I64(number)])
        return self.b.bitcast(self.b.load(at), kind.as_pointer())

    def _run(self) -> None:
        b, kernel = self.b, self.kernel
        self.pointers = b.bitcast(self.function.args[0], _I8.as_pointer().as_pointer())
        names = kernel.arguments()
        counter, sizes, self.chunks, self.indptr = (
            self.argument(n, _I64) for n in ("counter", "sizes", "chunks", "indptr")
        )
        self.other_of = self.argument("other", _I32)
        if "position" in names:
            self.position_of = self.argument("position", _I64 if kernel.wide_positions else _I32)
        if kernel.reads_key:
            self.key_of = self.argument("key", _I64)
            self.node_key = self.argument("node_key", _I64)
        if "draws" in names:
            self.base["draws"] = self.argument("draws", _I32)
        self.arrays = {
            t.leaf.name: self.argument(t.leaf.name, _TYPES[t.leaf.storage])
            for t in kernel.leaves
            if t.leaf.space != "row" and t.leaf.name != "key"
        }
        self.loop_arrays = {
            t.leaf.name: self.argument(f"loop_{t.leaf.name}", _TYPES[t.leaf.storage])
            for t in kernel.leaves
            if f"loop_{t.leaf.name}" in names
        }
        self.saving = {name: self.argument(f"out_{name}", self.float) for name in self.saved}
        self.totals = {a.name: self.local(self.float, a.size, a.name) for a in kernel.accumulators}
        self.winners = {
            a.name: self.local(_I32, a.size, f"{a.name}.winner")
            for a in kernel.accumulators
            if a.how.startswith("best")
        }
        num_chunks, self.num_edges, self.loop_rows = (self.load(sizes, n, 1) for n in range(3))
        if kernel.gradients:
            gradients = self.argument("gradients", self.float)
        for term in kernel.leaves:
            if term.leaf.space == "parameter":
                self.base[term.leaf.name] = self.arrays[term.leaf.name]

        head, done = (self.function.append_basic_block(n) for n in ("chunk", "done"))
        work = self.function.append_basic_block("work")
        b.branch(head)
        b.position_at_end(head)
        chunk = b.atomic_rmw("add", counter, _I64(1), "monotonic")
        b.cbranch(b.icmp_signed("<", chunk, num_chunks), work, done)
        b.position_at_end(done)
        b.ret_void()
        b.position_at_end(work)
        first, last, self.edge_first, self.edge_last, self.segment = (
            self.load(self.chunks, self.add(self.times(chunk, 5), n), 1) for n in range(5)
        )
        if kernel.gradients:
            offset = self.times(chunk, kernel.gradient_size)
            self.gradients = self.element(gradients, offset)
        with self.loop(first, last, "row") as row:
            self.row = row
            self._row()
        b.branch(head)
        # Room on the stack was collected in a block of its own: make it the first.
        blocks = self.function.basic_blocks
        blocks.remove(self.entry)
        blocks.insert(0, self.entry)
        with b.goto_block(self.entry):
            b.branch(blocks[1])

    def _row(self) -> None:
        b, kernel = self.b, self.kernel
        start = self.load(self.indptr, self.row, 1)
        stop = self.load(self.indptr, self.add(self.row, 1), 1)
        self.e0 = b.select(b.icmp_signed(">", self.edge_first, start), self.edge_first, start)
        self.e1 = b.select(b.icmp_signed("<", self.edge_last, stop), self.edge_last, stop)
        self.from_edge = self.e0
        if kernel.self_loops:
            inside = b.icmp_signed("<", self.row, self.loop_rows)
            whole = b.and_(inside, b.icmp_signed("==", self.e0, start))
            self.from_edge = b.sub(self.e0, b.zext(whole, _I64))
        for term in kernel.leaves:
            if term.leaf.space == kernel.row_space:
                self._reach(term.leaf, self.row)
        for accumulator in kernel.accumulators:
            self._start(accumulator)
        for number, each in enumerate(kernel.passes):
            self.place(self.schedule.row_values(number))
            self._edges(each, number)
        self._write_row()
        self.buffers = {}

    def _reach(self, leaf: Leaf, row: Any) -> None:
        pointer = self.element(self.arrays[leaf.name], self.times(row, leaf.stride))
        self.base[leaf.name] = pointer

    def _start(self, accumulator: Accumulator) -> None:
        worst = {"sum": 0.0, "max": -math.inf, "best_max": -math.inf, "best_min": math.inf}
        value = worst[accumulator.how]
        total = self.totals[accumulator.name]

        def start(at: At) -> None:
            index = self.flat(at, accumulator.shape)
            self.store(vm.constant(self.floats(at.lanes), value), total, index)
            if accumulator.name in self.winners:
                kind = _I32 if at.lanes == 1 else ir.VectorType(_I32, at.lanes)
                self.store(vm.constant(kind, _NONE), self.winners[accumulator.name], index)

        self.nest(accumulator.shape, start)

    def _write_row(self) -> None:
        """Write a whole row's outputs; a segment writes what it has collected to side arrays."""
        b, kernel = self.b, self.kernel
        with b.if_else(b.icmp_signed("<", self.segment, _I64(0))) as (whole, segment):
            with whole:
                self.place(self.schedule.final_values())
                for output in kernel.outputs:
                    out = self.element(
                        self.argument(f"out_{output.name}", self.float),
                        self.times(self.row, math.prod(output.shape)),
                    )
                    self._store_value(output.value, output.shape, out)
                for name in self.winners:
                    self._write_winner(name, "out", self.row)
            with segment:
                for accumulator in kernel.accumulators:
                    out = self.element(
                        self.argument(f"side_{accumulator.name}", self.float),
                        self.times(self.segment, accumulator.size),
                    )
                    self._copy(self.totals[accumulator.name], accumulator.shape, out)
                for name in self.winners:
                    self._write_winner(name, "side", self.segment)

    def _store_value(self, term: Term, shape: Shape, out: Any) -> None:
        def write(at: At) -> None:
            self.store(self.vector(term, at), out, self.flat(at, shape))

        self.nest(shape, write)

    def _copy(self, total: Any, shape: Shape, out: Any) -> None:
        def write(at: At) -> None:
            index = self.flat(at, shape)
            self.store(self.load(total, index, at.lanes), out, index)

        self.nest(shape, write)

    def _write_winner(self, name: str, where: str, number: Any) -> None:
        """Turn the positions of winners into edge keys."""
        b = self.b
        size = next(a.size for a in self.kernel.accumulators if a.name == name)
        keys = self.element(
            self.argument(f"{where}_{name}_winner", _I64), self.times(number, size)
        )
        with b.goto_block(self.entry):
            place = b.alloca(_I64)
        with self.loop(0, size, "winner") as f:
            position = self.load(self.winners[name], f, 1)
            b.store(_I64(NO_WINNER), place)
            with b.if_then(b.icmp_signed("==", position, _I32(-1))):
                own = self.load(self.node_key, self.row, 1)
                b.store(b.sub(_I64(-1), own), place)
            with b.if_then(b.icmp_signed(">=", position, _I32(0))):
                edge = b.add(self.e0, b.sext(position, _I64))
                b.store(self.load(self.key_of, edge, 1), place)
            self.store(b.load(place), keys, f)

    def _edges(self, each: Pass, number: int) -> None:
        b, kernel = self.b, self.kernel
        row_buffers = dict(self.buffers)
        with self.loop(self.from_edge, self.e1, "edge") as edge:
            self.edge = edge
            resume = self.function.append_basic_block("compute")
            skip = self.function.append_basic_block("next")
            ways: list[tuple[Any, Any, Any, Any]] = []
            if kernel.self_loops:
                own, given = (self.function.append_basic_block(n) for n in ("own", "given"))
                self.is_loop = b.icmp_signed("<", edge, self.e0)
                b.cbranch(self.is_loop, own, given)
                b.position_at_end(own)
                key = None
                if kernel.reads_key:
                    key = b.sub(_I64(-1), self.load(self.node_key, self.row, 1))
                ways.append((self.row, b.add(self.num_edges, self.row), key, own))
                b.branch(resume)
                b.position_at_end(given)
            other = b.sext(self.load(self.other_of, edge, 1, invariant=True), _I64)
            if number == 0:
                self._prefetch(edge)
            slot = edge
            if kernel.orientation == "out" and kernel.reads_edges:
                slot = self.load(self.position_of, edge, 1, invariant=True)
                slot = slot if kernel.wide_positions else b.sext(slot, _I64)
            key = self.load(self.key_of, slot, 1, invariant=True) if kernel.reads_key else None
            ways.append((other, slot, key, b.block))
            if kernel.self_loops:
                b.cbranch(b.icmp_signed("==", other, self.row), skip, resume)
            else:
                b.branch(resume)
            b.position_at_end(resume)
            self.other, self.slot, self.key = (self._joined(ways, n) for n in range(3))
            self._reach_edges()
            self.place(self.schedule.edge_values(number))
            for save in each.saves:
                self._save(save)
            for update in each.updates:
                self._update(update)
            self.buffers = dict(row_buffers)
            b.branch(skip)
            b.position_at_end(skip)

    def _joined(self, ways: list[tuple[Any, Any, Any, Any]], n: int) -> Any:
        if ways[0][n] is None:
            return None
        if len(ways) == 1:
            return ways[0][n]
        value = self.b.phi(_I64)
        for way in ways:
            value.add_incoming(way[n], way[3])
        return value

    def _reach_edges(self) -> None:
        b, kernel = self.b, self.kernel
        far = "source" if kernel.orientation == "in" else "destination"
        for term in kernel.leaves:
            leaf = term.leaf
            if leaf.space == far:
                self._reach(leaf, self.other)
            elif leaf.space == "edge" and leaf.name != "key":
                self._reach(leaf, self.slot)
                if leaf.name in self.loop_arrays:
                    own = self.element(
                        self.loop_arrays[leaf.name], self.times(self.row, leaf.stride)
                    )
                    self.base[leaf.name] = b.select(self.is_loop, own, self.base[leaf.name])

    def _prefetch(self, edge: Any) -> None:
        """Ask for the rows that an edge some steps ahead will read."""
        b, kernel = self.b, self.kernel
        far = "source" if kernel.orientation == "in" else "destination"
        ahead = [(t, "other") for t in kernel.leaves if t.leaf.space == far]
        if kernel.orientation == "out":
            ahead += [(t, "slot") for t in kernel.leaves if t.leaf.space == "edge"]
        if not ahead:
            return
        rows: dict[str, tuple[str, Leaf]] = {t.leaf.name: (w, t.leaf) for t, w in ahead}
        size = sum(leaf.stride * _BYTES[leaf.storage] for _, leaf in rows.values())
        distance = max(4, min(24, _PREFETCH_BYTES // max(1, size)))
        last = b.sub(self.num_edges, _I64(1))
        later = b.add(edge, _I64(distance))
        later = b.select(b.icmp_signed("<", later, last), later, last)
        index = {"other": b.sext(self.load(self.other_of, later, 1), _I64)}
        if any(where == "slot" for where, _ in rows.values()):
            slot = self.load(self.position_of, later, 1)
            index["slot"] = slot if kernel.wide_positions else b.sext(slot, _I64)
        for name, (where, leaf) in rows.items():
            array = self.key_of if name == "key" else self.arrays[name]
            row_bytes = leaf.stride * _BYTES[leaf.storage]
            at = b.bitcast(
                self.element(array, self.times(index[where], leaf.stride)), _I8.as_pointer()
            )
            for offset in range(0, min(row_bytes, 16 * _CACHE_LINE), _CACHE_LINE):
                b.call(_prefetch(self.module), [
                    self.element(at, offset), _I32(0), _I32(3), _I32(1)
                ])  # fmt: skip

    def _save(self, save: Save) -> None:
        leaf, term = save.leaf, save.value
        row = self.element(self.saving[leaf.name], self.times(self.slot, leaf.stride))
        shape = term.shape or (1,)
        base = self._offset(save.at, shape)

        def write(at: At) -> None:
            value = self.vector(term, at)
            index = self.add(self.add(base, self.flat(at, shape)), leaf.offset)
            if save.adds:
                value = self.b.fadd(self.load(row, index, at.lanes), value, flags=vm.FLAGS)
            self.store(value, row, index)

        self.nest(shape, write)

    def _offset(self, at: Term | None, shape: Shape) -> Number:
        """Return where the selected row of a value starts."""
        if at is None:
            return 0
        number = at.detail if at.op == "const" else self.value(at, At((), 0, 1))
        return self.times(number, math.prod(shape))

    def _update(self, update: Update) -> None:
        kernel = self.kernel
        for accumulator in kernel.accumulators:
            if accumulator.name == update.target:
                self._into(update, accumulator.shape, self.totals[accumulator.name], accumulator)
        for gradient in kernel.gradients:
            if gradient.leaf == update.target:
                place = self.element(self.gradients, gradient.offset)
                self._into(update, gradient.shape, place, None)

    def _into(
        self, update: Update, shape: Shape, place: Any, accumulator: Accumulator | None
    ) -> None:
        shape = shape if update.at is None else shape[1:]
        base = self._offset(update.at, shape)
        how = accumulator.how if accumulator is not None else "sum"
        b = self.b

        def step(at: At) -> None:
            index = self.add(base, self.flat(at, shape or (1,)))
            value, total = self.vector(update.value, at), self.load(place, index, at.lanes)
            if how == "sum":
                self.store(b.fadd(total, value, flags=vm.FLAGS), place, index)
                return
            sign = "<" if how == "best_min" else ">"
            better = b.fcmp_ordered(sign, value, total)
            missing = b.fcmp_unordered("uno", value, value)
            if how == "max":
                self.store(b.select(b.or_(better, missing), value, total), place, index)
                return
            assert accumulator is not None
            winners = self.winners[accumulator.name]
            winner = self.load(winners, index, at.lanes)
            better = b.or_(better, b.and_(missing, b.fcmp_ordered("ord", total, total)))
            better = b.or_(better, b.icmp_signed("==", winner, vm.constant(winner.type, _NONE)))
            position = b.trunc(b.sub(self.edge, self.e0), _I32)
            here = vm.splat(b, position, at.lanes)
            self.store(b.select(better, value, total), place, index)
            self.store(b.select(better, here, winner), winners, index)

        self.nest(shape or (1,), step)


def _prefetch(module: Any) -> Any:
    name = "llvm.prefetch.p0"
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    return module.globals.get(name) or ir.Function(module, kind, name)


def _philox(b: Any, counter: tuple[Any, ...], k0: Any, k1: Any) -> tuple[Any, ...]:
    """Philox4x32-10 (Salmon et al., SC 2011)."""
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0 = b.mul(b.zext(c0, _I64), _I64(0xD2511F53))
        p1 = b.mul(b.zext(c2, _I64), _I64(0xCD9E8D57))
        h0, h1 = (b.trunc(b.lshr(p, _I64(32)), _I32) for p in (p0, p1))
        c0, c1, c2, c3 = (
            b.xor(b.xor(h1, c1), k0),
            b.trunc(p1, _I32),
            b.xor(b.xor(h0, c3), k1),
            b.trunc(p0, _I32),
        )
        k0, k1 = b.add(k0, _I32(0x9E3779B9)), b.add(k1, _I32(0xBB67AE85))
    return c0, c1, c2, c3
