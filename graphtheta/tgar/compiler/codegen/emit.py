"""The emitter: one function of LLVM instructions from a kernel, whatever layer it came from.

The function takes chunks from a shared counter until none is left, so that any number of threads
may run it. Widths are constants, vectors have the machine's width, indices never wrap around, and
what a row's edges will read is prefetched. Values that several places read, sums and products with
parameters get a place on the stack, which LLVM turns into registers; all else is computed where it
is read.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from graphtheta.tgar.aggregators import NO_EDGE
from graphtheta.tgar.compiler.codegen.builder import I8, I32, I64, TYPES, At
from graphtheta.tgar.compiler.codegen.schedule import Schedule
from graphtheta.tgar.compiler.codegen.values import Values
from graphtheta.tgar.compiler.ir.kernel import Accumulator, Kernel, Pass, Save, Update
from graphtheta.tgar.compiler.ir.terms import BYTES, Leaf, Shape, Term
from graphtheta.tgar.compiler.operators import vector_math as vm

__all__ = ["emit"]

_PREFETCH_BYTES = 8192  # rows on their way to the cache at any time
_CACHE_LINE = 64
_NONE = -(1 << 31)  # the position of a winner that is not there yet


def emit(kernel: Kernel, vector_bytes: int) -> Any:
    """Return the LLVM module of a kernel; its function is called `kernel` and takes one pointer.

    Args:
        kernel: What to compute.
        vector_bytes: Width of the machine's vectors.
    """
    return _Emitter(kernel, vector_bytes).module


class _Emitter(Values):
    def __init__(self, kernel: Kernel, vector_bytes: int) -> None:
        saved = (s.leaf.name for p in kernel.passes for s in p.saves)
        super().__init__(kernel.storage, vector_bytes, saved)
        self.kernel = kernel
        self.schedule = Schedule(kernel)
        self._run()

    def argument(self, name: str, kind: Any) -> Any:
        number = self.kernel.arguments().index(name)
        at = self.b.gep(self.pointers, [I64(number)])
        return self.b.bitcast(self.b.load(at), kind.as_pointer())

    def _run(self) -> None:
        b, kernel = self.b, self.kernel
        self.pointers = b.bitcast(self.function.args[0], I8.as_pointer().as_pointer())
        names = kernel.arguments()
        counter, sizes, self.chunks, self.indptr = (
            self.argument(n, I64) for n in ("counter", "sizes", "chunks", "indptr")
        )
        self.other_of = self.argument("other", I32)
        if "position" in names:
            self.position_of = self.argument("position", I64 if kernel.wide_positions else I32)
        if kernel.reads_key:
            self.key_of = self.argument("key", I64)
            self.node_key = self.argument("node_key", I64)
        if "draws" in names:
            self.base["draws"] = self.argument("draws", I32)
        self.arrays = {
            t.leaf.name: self.argument(t.leaf.name, TYPES[t.leaf.storage])
            for t in kernel.leaves
            if t.leaf.space != "row" and t.leaf.name != "key"
        }
        self.mirrors = {
            t.leaf.name: self.argument(f"mirror_{t.leaf.name}", TYPES[t.leaf.storage])
            for t in kernel.leaves
            if t.leaf.has_mirrors
        }
        self.loop_arrays = {
            t.leaf.name: self.argument(f"loop_{t.leaf.name}", TYPES[t.leaf.storage])
            for t in kernel.leaves
            if f"loop_{t.leaf.name}" in names
        }
        self.saving = {name: self.argument(f"out_{name}", self.float) for name in self.saved}
        self.totals = {a.name: self.local(self.float, a.size, a.name) for a in kernel.collected}
        self.winners = {
            a.name: self.local(I32, a.size, f"{a.name}.winner")
            for a in kernel.accumulators
            if a.how.startswith("best")
        }
        num_chunks, self.num_edges, self.loop_rows, self.leading, self.shift = (
            self.load(sizes, n, 1) for n in range(5)
        )
        self.num_masters = {
            space: self.load(sizes, n, 1) for n, space in enumerate(("source", "destination"), 5)
        }
        if kernel.gradients:
            gradients = self.argument("gradients", self.float)
        for term in kernel.leaves:
            if term.leaf.space == "parameter":
                self.base[term.leaf.name] = self.arrays[term.leaf.name]

        head, done = (self.function.append_basic_block(n) for n in ("chunk", "done"))
        work = self.function.append_basic_block("work")
        b.branch(head)
        b.position_at_end(head)
        chunk = b.atomic_rmw("add", counter, I64(1), "monotonic")
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
        self.finish_locals()

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
            self.from_edge = b.sub(self.e0, b.zext(whole, I64))
        for term in kernel.leaves:
            if term.leaf.space == kernel.row_space:
                self._reach(term.leaf, self.row)
        for accumulator in kernel.collected:
            self._start(accumulator)
        for number, each in enumerate(kernel.passes):
            self.place(self.schedule.row_values(number))
            self._edges(each, number)
        if kernel.closing:
            self._close()
        self._write_row()
        self.buffers = {}

    def _reach(self, leaf: Leaf, row: Any) -> None:
        self.base[leaf.name] = self._row_of(leaf, row)

    def _row_of(self, leaf: Leaf, row: Any) -> Any:
        """Return where a row of a leaf's array is, or of that of the mirrors."""
        array = self.arrays[leaf.name]
        if leaf.has_mirrors:
            is_master = self.b.icmp_signed("<", row, self.num_masters[leaf.space])
            array = self.b.select(is_master, array, self.mirrors[leaf.name])
        return self.element(array, self.times(row, leaf.stride))

    def _start(self, accumulator: Accumulator) -> None:
        worst = {"sum": 0.0, "max": -math.inf, "best_max": -math.inf, "best_min": math.inf}
        value = worst[accumulator.how]
        total = self.totals[accumulator.name]

        def start(at: At) -> None:
            index = self.flat(at, accumulator.shape)
            self.store(vm.constant(self.floats(at.lanes), value), total, index)
            if accumulator.name in self.winners:
                kind = I32 if at.lanes == 1 else ir.VectorType(I32, at.lanes)
                self.store(vm.constant(kind, _NONE), self.winners[accumulator.name], index)

        self.nest(accumulator.shape, start)

    def _close(self) -> None:
        """Add what is made of moments; a row without edges adds nothing."""
        row_buffers = dict(self.buffers)
        with self.b.if_then(self.b.icmp_signed("<", self.from_edge, self.e1)):
            self.place(self.schedule.closing_values())
            for update in self.kernel.closing:
                self._update(update)
        self.buffers = row_buffers

    def _write_row(self) -> None:
        """Write a whole row's outputs; a segment writes what it has collected to side arrays."""
        b, kernel = self.b, self.kernel
        with b.if_else(b.icmp_signed("<", self.segment, I64(0))) as (whole, segment):
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
        keys = self.element(self.argument(f"{where}_{name}_winner", I64), self.times(number, size))
        with b.goto_block(self.entry):
            place = b.alloca(I64)
        with self.loop(0, size, "winner") as f:
            position = self.load(self.winners[name], f, 1)
            b.store(I64(NO_EDGE), place)
            with b.if_then(b.icmp_signed("==", position, I32(-1))):
                own = self.load(self.node_key, self.row, 1)
                b.store(b.sub(I64(-1), own), place)
            with b.if_then(b.icmp_signed(">=", position, I32(0))):
                edge = b.add(self.e0, b.sext(position, I64))
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
                    key = b.sub(I64(-1), self.load(self.node_key, self.row, 1))
                ways.append((self.row, b.add(self.num_edges, self.row), key, own))
                b.branch(resume)
                b.position_at_end(given)
            other = b.sext(self.load(self.other_of, edge, 1, invariant=True), I64)
            if number == 0:
                self._prefetch(edge)
            slot = edge
            if kernel.orientation == "out" and kernel.reads_edges:
                slot = self.load(self.position_of, edge, 1, invariant=True)
                slot = slot if kernel.wide_positions else b.sext(slot, I64)
            key = self.load(self.key_of, slot, 1, invariant=True) if kernel.reads_key else None
            ways.append((other, slot, key, b.block))
            if kernel.self_loops:
                near, far = self.row, other
                if kernel.orientation == "in":
                    near = self._node_of(near)
                else:
                    far = self._node_of(far)
                b.cbranch(b.icmp_signed("==", far, near), skip, resume)
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

    def _node_of(self, row: Any) -> Any:
        """Return where a destination's row stands among the sources."""
        leads = self.b.icmp_signed("<", row, self.leading)
        return self.b.add(row, self.b.select(leads, I64(0), self.shift))

    def _joined(self, ways: list[tuple[Any, Any, Any, Any]], n: int) -> Any:
        if ways[0][n] is None:
            return None
        if len(ways) == 1:
            return ways[0][n]
        value = self.b.phi(I64)
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
        size = sum(leaf.stride * BYTES[leaf.storage] for _, leaf in rows.values())
        distance = max(4, min(24, _PREFETCH_BYTES // max(1, size)))
        last = b.sub(self.num_edges, I64(1))
        later = b.add(edge, I64(distance))
        later = b.select(b.icmp_signed("<", later, last), later, last)
        index = {"other": b.sext(self.load(self.other_of, later, 1), I64)}
        if any(where == "slot" for where, _ in rows.values()):
            slot = self.load(self.position_of, later, 1)
            index["slot"] = slot if kernel.wide_positions else b.sext(slot, I64)
        for name, (where, leaf) in rows.items():
            row_bytes = leaf.stride * BYTES[leaf.storage]
            row = index[where]
            at = self.element(self.key_of, row) if name == "key" else self._row_of(leaf, row)
            at = b.bitcast(at, I8.as_pointer())
            for offset in range(0, min(row_bytes, 16 * _CACHE_LINE), _CACHE_LINE):
                b.call(_prefetch(self.module), [
                    self.element(at, offset), I32(0), I32(3), I32(1)
                ])  # fmt: skip

    def _save(self, save: Save) -> None:
        leaf, term = save.leaf, save.value
        row = self.element(self.saving[leaf.name], self.times(self.slot, leaf.stride))
        shape = term.shape or (1,)
        base = self.row_offset(save.at, shape)

        def write(at: At) -> None:
            value = self.vector(term, at)
            index = self.add(self.add(base, self.flat(at, shape)), leaf.offset)
            if save.adds:
                value = self.b.fadd(self.load(row, index, at.lanes), value, flags=vm.FLAGS)
            self.store(value, row, index)

        self.nest(shape, write)

    def _update(self, update: Update) -> None:
        kernel = self.kernel
        for accumulator in kernel.collected:
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
        base = self.row_offset(update.at, shape)
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
            position = b.trunc(b.sub(self.edge, self.e0), I32)
            here = vm.splat(b, position, at.lanes)
            self.store(b.select(better, value, total), place, index)
            self.store(b.select(better, here, winner), winners, index)

        self.nest(shape or (1,), step)


def _prefetch(module: Any) -> Any:
    name = "llvm.prefetch.p0"
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    return module.globals.get(name) or ir.Function(module, kind, name)
