"""Code generator: turns a kernel into one LLVM function.

The function takes chunks of rows from a shared counter until none is left, so that any number of
threads may run it. Widths are constants, vectors have the width of the machine's registers, indices
never wrap around, and the rows that later edges will read are prefetched. Buffers are on the stack,
where LLVM turns them into registers.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from graphtheta.tgar.aggregators import NO_EDGE
from graphtheta.tgar.compiler.codegen.builder import I8, I32, I64, TYPES, Tile
from graphtheta.tgar.compiler.codegen.schedule import Schedule
from graphtheta.tgar.compiler.codegen.values import Values
from graphtheta.tgar.compiler.ir.kernel import Accumulator, Kernel, Pass, Save, Update
from graphtheta.tgar.compiler.ir.terms import BYTES, Leaf, Shape, Term
from graphtheta.tgar.compiler.operators import vector_math as vm

__all__ = ["emit"]

_PREFETCH_BYTES = 8192  # data on its way to the cache at any time
_CACHE_LINE = 64
_NO_WINNER = -(1 << 31)  # position of the winner of a row that has seen no edge


def emit(kernel: Kernel, vector_bytes: int) -> Any:
    """Return an LLVM module whose function `kernel` takes one pointer, to an array of pointers.

    Args:
        kernel: What to compute.
        vector_bytes: Width of the machine's vector registers.
    """
    return _Emitter(kernel, vector_bytes).module


class _Emitter(Values):
    def __init__(self, kernel: Kernel, vector_bytes: int) -> None:
        super().__init__(kernel.storage, vector_bytes, (s.leaf.name for s in kernel.saves))
        self.kernel = kernel
        self.schedule = Schedule(kernel)
        self._load_arguments()
        self._chunks()

    # -- arguments --------------------------------------------------------------------------------

    def _argument(self, name: str, kind: Any) -> Any:
        number = self.kernel.arguments().index(name)
        at = self.b.gep(self.pointers, [I64(number)])
        return self.b.bitcast(self.b.load(at), kind.as_pointer())

    def _load_arguments(self) -> None:
        kernel = self.kernel
        self.pointers = self.b.bitcast(self.function.args[0], I8.as_pointer().as_pointer())
        names = kernel.arguments()
        self.counter, sizes, self.chunks, self.indptr = (
            self._argument(n, I64) for n in ("counter", "sizes", "chunks", "indptr")
        )
        self.other_of = self._argument("other", I32)
        if "position" in names:
            self.position_of = self._argument("position", I64 if kernel.wide_positions else I32)
        if kernel.reads_key:
            self.key_of = self._argument("key", I64)
            self.node_key = self._argument("node_key", I64)
        if "draws" in names:
            self.base["draws"] = self._argument("draws", I32)
        if kernel.adds:
            self.result_row = self._argument("rows", I32)
        leaves = [t.leaf for t in kernel.leaves if t.leaf.space != "row" and t.leaf.name != "key"]
        self.arrays, self.mirrors, self.loop_arrays = (
            {
                leaf.name: self._argument(prefix + leaf.name, TYPES[leaf.storage])
                for leaf in leaves
                if prefix + leaf.name in names
            }
            for prefix in ("", "mirror_", "loop_")
        )
        self.saving = {
            s.leaf.name: self._argument(f"out_{s.leaf.name}", self.float) for s in kernel.saves
        }
        self.totals = {a.name: self.local(self.float, a.size, a.name) for a in kernel.collected}
        self.winners = {
            a.name: self.local(I32, a.size, f"{a.name}.winner")
            for a in kernel.accumulators
            if a.has_winner
        }
        self.num_chunks, self.num_edges, self.loop_rows, self.leading, self.shift = (
            self.load(sizes, n, 1) for n in range(5)
        )
        self.num_masters = {
            space: self.load(sizes, n, 1) for n, space in enumerate(("source", "destination"), 5)
        }
        if kernel.gradients:
            self.all_gradients = self._argument("gradients", self.float)
        for term in kernel.leaves:
            if term.leaf.space == "parameter":
                self.base[term.leaf.name] = self.arrays[term.leaf.name]

    # -- loops over chunks and rows ---------------------------------------------------------------

    def _chunks(self) -> None:
        b, kernel = self.b, self.kernel
        head, done = (self.function.append_basic_block(n) for n in ("chunk", "done"))
        work = self.function.append_basic_block("work")
        b.branch(head)
        b.position_at_end(head)
        chunk = b.atomic_rmw("add", self.counter, I64(1), "monotonic")
        b.cbranch(b.icmp_signed("<", chunk, self.num_chunks), work, done)
        b.position_at_end(done)
        b.ret_void()
        b.position_at_end(work)
        first, last, self.chunk_start, self.chunk_stop, self.segment = (
            self.load(self.chunks, self.add(self.times(chunk, 5), n), 1) for n in range(5)
        )
        if kernel.gradients:
            offset = self.times(chunk, kernel.gradient_size)
            self.gradients = self.address(self.all_gradients, offset)
        with self.loop(first, last, "row") as row:
            self.row = row
            self._row()
        b.branch(head)
        self.finish_locals()

    def _row(self) -> None:
        b, kernel = self.b, self.kernel
        start = self.load(self.indptr, self.row, 1)
        stop = self.load(self.indptr, self.add(self.row, 1), 1)
        self.start = b.select(b.icmp_signed(">", self.chunk_start, start), self.chunk_start, start)
        self.stop = b.select(b.icmp_signed("<", self.chunk_stop, stop), self.chunk_stop, stop)
        self.first_edge = self.start
        if kernel.self_loops:  # the first segment of a row has its self-loop, as edge start - 1
            inside = b.icmp_signed("<", self.row, self.loop_rows)
            whole = b.and_(inside, b.icmp_signed("==", self.start, start))
            self.first_edge = b.sub(self.start, b.zext(whole, I64))
        for term in kernel.leaves:
            if term.leaf.space == kernel.row_space:
                self._select_row(term.leaf, self.row)
        for accumulator in kernel.collected:
            self._initialise(accumulator)
        for number, each in enumerate(kernel.passes):
            self.compute(self.schedule.row_values(number))
            self._edges(each, number)
        if kernel.epilogue:
            self._epilogue()
        self._write_row()
        self.buffers = {}

    def _select_row(self, leaf: Leaf, row: Any) -> None:
        self.base[leaf.name] = self._row_address(leaf, row)

    def _row_address(self, leaf: Leaf, row: Any) -> Any:
        """Return the address of a row of a leaf's array, or of the array of mirrors."""
        array = self.arrays[leaf.name]
        if leaf.has_mirrors:
            is_master = self.b.icmp_signed("<", row, self.num_masters[leaf.space])
            array = self.b.select(is_master, array, self.mirrors[leaf.name])
        return self.address(array, self.times(row, leaf.stride))

    def _initialise(self, accumulator: Accumulator) -> None:
        initial = {"sum": 0.0, "max": -math.inf, "argmax": -math.inf, "argmin": math.inf}
        value = initial[accumulator.reduction]
        total = self.totals[accumulator.name]

        def fill(tile: Tile) -> None:
            index = self.flat(tile, accumulator.shape)
            self.store(vm.constant(self.floats(tile.lanes), value), total, index)
            if accumulator.has_winner:
                kind = I32 if tile.lanes == 1 else ir.VectorType(I32, tile.lanes)
                self.store(vm.constant(kind, _NO_WINNER), self.winners[accumulator.name], index)

        self.nest(accumulator.shape, fill)

    def _epilogue(self) -> None:
        """Make the updates that follow the edges; a row without edges makes none."""
        row_buffers = dict(self.buffers)
        with self.b.if_then(self.b.icmp_signed("<", self.first_edge, self.stop)):
            self.compute(self.schedule.epilogue_values())
            for update in self.kernel.epilogue:
                self._update(update)
        self.buffers = row_buffers

    # -- results of a row -------------------------------------------------------------------------

    def _write_row(self) -> None:
        """Write the outputs of a whole row, or the accumulators of a segment of a row."""
        b, kernel = self.b, self.kernel
        with b.if_else(b.icmp_signed("<", self.segment, I64(0))) as (whole, segment):
            with whole:
                self.compute(self.schedule.output_values())
                row = self.row
                if kernel.adds:
                    row = b.sext(self.load(self.result_row, row, 1), I64)
                for output in kernel.outputs:
                    out = self._row_of_result(f"out_{output.name}", row, output.shape)
                    self._write(output.value, output.shape, out)
                for name in self.winners:
                    self._write_winner(name, "out", self.row)
            with segment:
                for accumulator in kernel.accumulators:
                    name, shape = accumulator.name, accumulator.shape
                    out = self._row_of_result(f"partial_{name}", self.segment, shape)
                    self._copy(self.totals[name], shape, out)
                for name in self.winners:
                    self._write_winner(name, "partial", self.segment)

    def _row_of_result(self, name: str, row: Any, shape: Shape) -> Any:
        return self.address(self._argument(name, self.float), self.times(row, math.prod(shape)))

    def _write(self, term: Term, shape: Shape, out: Any) -> None:
        def write(tile: Tile) -> None:
            index, value = self.flat(tile, shape), self.vector(term, tile)
            if self.kernel.adds:
                value = self.b.fadd(self.load(out, index, tile.lanes), value, flags=vm.FLAGS)
            self.store(value, out, index)

        self.nest(shape, write)

    def _copy(self, total: Any, shape: Shape, out: Any) -> None:
        def write(tile: Tile) -> None:
            index = self.flat(tile, shape)
            self.store(self.load(total, index, tile.lanes), out, index)

        self.nest(shape, write)

    def _write_winner(self, name: str, prefix: str, row: Any) -> None:
        """Write the edge keys of winners, from their positions among the row's edges."""
        b = self.b
        size = next(a.size for a in self.kernel.accumulators if a.name == name)
        array = self._argument(f"{prefix}_{name}_winner", I64)
        keys = self.address(array, self.times(row, size))
        with b.goto_block(self.entry):
            key = b.alloca(I64)
        with self.loop(0, size, "winner") as f:
            position = self.load(self.winners[name], f, 1)
            b.store(I64(NO_EDGE), key)
            with b.if_then(b.icmp_signed("==", position, I32(-1))):
                b.store(self._loop_key(), key)
            with b.if_then(b.icmp_signed(">=", position, I32(0))):
                edge = b.add(self.start, b.sext(position, I64))
                b.store(self.load(self.key_of, edge, 1), key)
            self.store(b.load(key), keys, f)

    def _loop_key(self) -> Any:
        """Return the key of the row's self-loop."""
        return self.b.sub(I64(-1), self.load(self.node_key, self.row, 1))

    # -- loop over edges --------------------------------------------------------------------------

    def _edges(self, each: Pass, number: int) -> None:
        b, kernel = self.b, self.kernel
        row_buffers = dict(self.buffers)
        with self.loop(self.first_edge, self.stop, "edge") as edge:
            self.edge = edge
            compute = self.function.append_basic_block("compute")
            skip = self.function.append_basic_block("next")
            # (other endpoint, row of edge arrays, key, the block that they come from)
            incoming: list[tuple[Any, Any, Any, Any]] = []
            if kernel.self_loops:
                added, stored = (self.function.append_basic_block(n) for n in ("own", "given"))
                self.is_loop = b.icmp_signed("<", edge, self.start)
                b.cbranch(self.is_loop, added, stored)
                b.position_at_end(added)
                key = self._loop_key() if kernel.reads_key else None
                incoming.append((self.row, b.add(self.num_edges, self.row), key, added))
                b.branch(compute)
                b.position_at_end(stored)
            other = b.sext(self.load(self.other_of, edge, 1, invariant=True), I64)
            if number == 0:
                self._prefetch(edge)
            edge_row = edge
            if kernel.orientation == "out" and kernel.reads_edges:
                edge_row = self.load(self.position_of, edge, 1, invariant=True)
                edge_row = edge_row if kernel.wide_positions else b.sext(edge_row, I64)
            key = self.load(self.key_of, edge_row, 1, invariant=True) if kernel.reads_key else None
            incoming.append((other, edge_row, key, b.block))
            if kernel.self_loops:  # skip those of the graph
                row, end = self.row, other
                if kernel.orientation == "in":
                    row = self._source_row(row)
                else:
                    end = self._source_row(end)
                b.cbranch(b.icmp_signed("==", end, row), skip, compute)
            else:
                b.branch(compute)
            b.position_at_end(compute)
            self.other, self.edge_row, self.key = (self._phi(incoming, n) for n in range(3))
            self._select_edge()
            self.compute(self.schedule.edge_values(number))
            for save in each.saves:
                self._save(save)
            for update in each.updates:
                self._update(update)
            self.buffers = dict(row_buffers)
            b.branch(skip)
            b.position_at_end(skip)

    def _source_row(self, row: Any) -> Any:
        """Return the row among sources of a destination."""
        leads = self.b.icmp_signed("<", row, self.leading)
        return self.b.add(row, self.b.select(leads, I64(0), self.shift))

    def _phi(self, incoming: list[tuple[Any, Any, Any, Any]], n: int) -> Any:
        if len(incoming) == 1 or incoming[0][n] is None:
            return incoming[0][n]
        value = self.b.phi(I64)
        for values in incoming:
            value.add_incoming(values[n], values[3])
        return value

    def _select_edge(self) -> None:
        """Select the rows of the other endpoint and of the edge."""
        for term in self.kernel.leaves:
            leaf = term.leaf
            if leaf.space == self.kernel.other_space:
                self._select_row(leaf, self.other)
            elif leaf.space == "edge" and leaf.name != "key":
                self._select_row(leaf, self.edge_row)
                if leaf.name in self.loop_arrays:
                    row = self.times(self.row, leaf.stride)
                    loop = self.address(self.loop_arrays[leaf.name], row)
                    self.base[leaf.name] = self.b.select(self.is_loop, loop, self.base[leaf.name])

    def _prefetch(self, edge: Any) -> None:
        """Prefetch the rows that an edge some steps ahead will read."""
        b, kernel = self.b, self.kernel
        spaces = [kernel.other_space, *(["edge"] if kernel.orientation == "out" else [])]
        leaves = {t.leaf.name: t.leaf for s in spaces for t in kernel.leaves if t.leaf.space == s}
        if not leaves:
            return
        size = sum(leaf.stride * BYTES[leaf.storage] for leaf in leaves.values())
        distance = max(4, min(24, _PREFETCH_BYTES // max(1, size)))
        last = b.sub(self.num_edges, I64(1))
        later = b.add(edge, I64(distance))
        later = b.select(b.icmp_signed("<", later, last), later, last)
        rows = {kernel.other_space: b.sext(self.load(self.other_of, later, 1), I64)}
        if any(leaf.space == "edge" for leaf in leaves.values()):
            position = self.load(self.position_of, later, 1)
            rows["edge"] = position if kernel.wide_positions else b.sext(position, I64)
        types = [I8.as_pointer(), I32, I32, I32]
        prefetch = vm.declared(b, "llvm.prefetch.p0", ir.VoidType(), types)
        for name, leaf in leaves.items():
            row, row_bytes = rows[leaf.space], leaf.stride * BYTES[leaf.storage]
            is_key = name == "key"
            start = self.address(self.key_of, row) if is_key else self._row_address(leaf, row)
            start = b.bitcast(start, I8.as_pointer())
            for offset in range(0, min(row_bytes, 16 * _CACHE_LINE), _CACHE_LINE):
                arguments = [self.address(start, offset), I32(0), I32(3), I32(1)]
                b.call(prefetch, arguments)

    # -- what an edge writes ----------------------------------------------------------------------

    def _save(self, save: Save) -> None:
        leaf, term = save.leaf, save.value
        row = self.address(self.saving[leaf.name], self.times(self.edge_row, leaf.stride))
        shape = term.shape or (1,)
        base = self.row_offset(save.index, shape)

        def write(tile: Tile) -> None:
            value = self.vector(term, tile)
            index = self.add(self.add(base, self.flat(tile, shape)), leaf.offset)
            if save.accumulate:
                value = self.b.fadd(self.load(row, index, tile.lanes), value, flags=vm.FLAGS)
            self.store(value, row, index)

        self.nest(shape, write)

    def _update(self, update: Update) -> None:
        for accumulator in self.kernel.collected:
            if accumulator.name == update.target:
                total = self.totals[accumulator.name]
                self._accumulate(update, accumulator.shape, total, accumulator.reduction)
        for gradient in self.kernel.gradients:
            if gradient.leaf == update.target:
                total = self.address(self.gradients, gradient.offset)
                self._accumulate(update, gradient.shape, total, "sum")

    def _accumulate(self, update: Update, shape: Shape, array: Any, reduction: str) -> None:
        shape = shape if update.index is None else shape[1:]
        base = self.row_offset(update.index, shape)
        b = self.b

        def step(tile: Tile) -> None:
            index = self.add(base, self.flat(tile, shape or (1,)))
            value, total = self.vector(update.value, tile), self.load(array, index, tile.lanes)
            if reduction == "sum":
                self.store(b.fadd(total, value, flags=vm.FLAGS), array, index)
                return
            sign = "<" if reduction == "argmin" else ">"
            better = b.fcmp_ordered(sign, value, total)
            missing = b.fcmp_unordered("uno", value, value)
            if reduction == "max":
                self.store(b.select(b.or_(better, missing), value, total), array, index)
                return
            winners = self.winners[update.target]
            winner = self.load(winners, index, tile.lanes)
            better = b.or_(better, b.and_(missing, b.fcmp_ordered("ord", total, total)))
            better = b.or_(
                better, b.icmp_signed("==", winner, vm.constant(winner.type, _NO_WINNER))
            )
            position = b.trunc(b.sub(self.edge, self.start), I32)
            here = vm.splat(b, position, tile.lanes)
            self.store(b.select(better, value, total), array, index)
            self.store(b.select(better, here, winner), winners, index)

        self.nest(shape or (1,), step)
