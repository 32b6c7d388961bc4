"""Executor of a `gather` with products by relation, in one of three ways.

*Hoisted*: the products of (source, relation) pairs, then Gather and Sum over edges that read pairs.
*Summed first*: Gather and Sum into (destination, relation) pairs, the products of their sums, then
the sum of each destination's pairs. *One by one*: either of these for one relation after the other,
if only factors of destinations are between products and sums. None has a tensor of edges x
features, nor one of nodes x relations x features. Mirrors receive the field that is multiplied, not
its products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.timers import StageTimers
from graphtheta.exchange.mirror_sync import MirrorSync
from graphtheta.tgar.aggregators import Aggregator, aggregator
from graphtheta.tgar.batch.block import Block
from graphtheta.tgar.batch.pairs import (
    PairBlock,
    count_pairs,
    destination_pairs,
    source_pairs,
)
from graphtheta.tgar.batch.relation_edges import edges_by_relation
from graphtheta.tgar.chunked import EdgeInputs
from graphtheta.tgar.compiler.executor import FusedGatherSum
from graphtheta.tgar.compiler.pair_products import PairRows, finish
from graphtheta.tgar.compiler.passes.program import Program
from graphtheta.tgar.compiler.passes.relations import RelationProgram
from graphtheta.tgar.compiler.relation_sums import RelationSums

__all__ = ["RelationGatherSum"]

_EDGES_PER_RELATION = 1 << 12  # from which on the calls for one more relation cost little


@dataclass(frozen=True)
class RelationGatherSum:
    """Gather and Sum of one layer on one worker, with products by relation.

    Attributes:
        program: Kernels of both ways.
        aggregator: Columns of the partials, and how they are merged.
        block: Active nodes and edges.
        layer: Index of the layer, for timers.
        draws: Result of `LayerView.edge_draws`, or None when not training.
        stages: Timers.
        own: (A, O) matrix that multiplies the row of each output as relations multiply those of its
            sources; None if there is none. Set only where relations run one by one.
    """

    program: RelationProgram
    aggregator: Aggregator
    block: Block
    layer: int
    draws: NDArray[np.uint32] | None
    stages: StageTimers
    own: Tensor | None = None

    def __call__(self, inputs: EdgeInputs, syncs: Sequence[MirrorSync] = ()) -> list[Tensor]:
        """Return the partial columns of every row, differentiable in all inputs.

        Args:
            inputs: Inputs of the gather.
            syncs: Mirror rows of the inputs in flight.
        """
        columns = self._run(inputs, syncs, lambda job, given: job(given))
        if self.aggregator.counts and len(columns) == 1:
            columns.append(torch.from_numpy(np.diff(self.block.in_edges.indptr)))
        return columns

    def message(self, inputs: EdgeInputs, syncs: Sequence[MirrorSync] = ()) -> Tensor:
        """Return the aggregated message of every row, from the same arguments."""
        if self.aggregator.counts:
            return self.aggregator.finish(self(inputs, syncs))
        return self._run(inputs, syncs, lambda job, given: [job.message(given)])[0]

    def _run(
        self,
        inputs: EdgeInputs,
        syncs: Sequence[MirrorSync],
        last_stage: Callable[[FusedGatherSum, EdgeInputs], list[Tensor]],
    ) -> list[Tensor]:
        relation = inputs.columns[self.program.index]
        if self.runs_one_by_one(inputs):
            return [self._one_by_one(inputs, syncs, relation)]
        self._choose(relation)
        if self.program.sums_first:
            return last_stage(*self._summed_first(inputs, syncs, relation))
        return last_stage(*self._hoisted(inputs, syncs, relation))

    def runs_one_by_one(self, inputs: EdgeInputs) -> bool:
        """Return whether relations run one by one: they may, and have enough edges for that.

        Gradients of factors are left to the other ways.
        """
        program, factor = self.program, self.program.factor
        if factor is None or self.block.num_edges < _EDGES_PER_RELATION * program.num_relations:
            return False
        read = self._factor_inputs(inputs, inputs.columns[program.index])
        fields = [x for x in read.sources if len(x)]
        fields += [make(inputs.parameters) for make in factor.lowered.parameters.values()]
        stored = inputs.sources[program.products[0].source].dtype
        return stored == factor.lowered.dtype and not any(x.requires_grad for x in fields)

    def _factor_inputs(self, inputs: EdgeInputs, relation: Tensor) -> EdgeInputs:
        """Return the inputs of the factors: destinations as sources."""
        assert self.program.factor is not None
        reads = self.program.factor.reads
        columns = [_nothing(c) for c in inputs.columns]
        columns[self.program.index] = relation

        def read(fields: Sequence[Tensor]) -> list[Tensor]:
            return [x if f"source{n}" in reads else _nothing(x) for n, x in enumerate(fields)]

        return EdgeInputs(
            read(inputs.destinations),
            [],
            inputs.parameters,
            columns,
            [],
            read(inputs.destination_mirrors),
        )

    def _one_by_one(
        self, inputs: EdgeInputs, syncs: Sequence[MirrorSync], relation: Tensor
    ) -> Tensor:
        """Return the sum of every row, computed for one relation after the other."""
        program, block = self.program, self.block
        assert program.factor is not None
        edges = edges_by_relation(block, relation, program.num_relations)
        program.sums_first = False
        before = sum(each.by_sources for each in edges.relations)
        program.choice = (
            f"one relation after the other: {before} by products of sources, "
            f"{len(edges.relations) - before} by products of sums"
        )
        if inputs.destination_mirrors:
            finish(list(syncs))
            syncs = ()
        factors: Sequence[Tensor] | None = None
        if program.factor.reads:
            each = edges.each_destination
            job = self._kernels(program.factor, PairBlock.of_rows(block, each, block.num_outputs))
            with torch.no_grad():
                kinds = edges.kinds(relation.dtype)
                factors = edges.split(job.message(self._factor_inputs(inputs, kinds)))
        (product,), (table,) = program.products, self._tables(inputs)
        fields = [x[product.source] for x in (inputs.sources, inputs.source_mirrors) if x]
        rows_of = [x.reshape(len(x), *product.shape) for x in fields]
        sums = RelationSums(block, edges.relations, factors, self.layer, self.stages)
        total = sums(table, self.own, *rows_of, syncs=syncs)
        shape = len(total), *program.lowered.outputs[0].shape
        return total if total.shape == shape else total.view(shape)

    def _choose(self, relation: Tensor) -> None:
        """Decide whether to sum before multiplying, and note the costs for `explain`."""
        program, block = self.program, self.block
        if program.sums is None:
            program.choice = "products of (source, relation) pairs, read by edges"
            return
        edges = block.in_edges, block.out_edges
        of_destinations, of_sources = (
            count_pairs(each, relation, program.num_relations) for each in edges
        )
        hoisted, summed = program.costs(block.num_edges, of_sources, of_destinations)
        of_edges = f"{of_sources:,} (source, relation) pairs, read by edges (cost {hoisted:.3g})"
        of_sums = f"{of_destinations:,} (destination, relation) pairs (cost {summed:.3g})"
        texts = [f"products of {of_edges}", f"products of sums of {of_sums}"]
        program.sums_first = summed < hoisted
        texts = texts[::-1] if program.sums_first else texts
        program.choice = ", rather than ".join(texts)

    def _kernels(
        self, program: Program, block: PairBlock, reduce: Aggregator | None = None
    ) -> FusedGatherSum:
        return FusedGatherSum(
            program, reduce or aggregator("sum"), block, self.layer, self.draws, self.stages
        )

    def _tables(self, inputs: EdgeInputs) -> list[Tensor]:
        makers = self.program.lowered.parameters
        return [makers[p.table](inputs.parameters) for p in self.program.products]

    def _hoisted(
        self, inputs: EdgeInputs, syncs: Sequence[MirrorSync], relation: Tensor
    ) -> tuple[FusedGatherSum, EdgeInputs]:
        """Compute the products of sources, and return what reads them."""
        program, block = self.program, self.block
        pairs = source_pairs(block, relation, program.num_relations)
        rows = PairRows(block, pairs, self.layer, self.stages)
        fields = list(zip(inputs.sources, inputs.source_mirrors, strict=True))
        products = []
        for product, table in zip(program.products, self._tables(inputs), strict=True):
            x = [x.reshape(len(x), *product.shape) for x in fields[product.source]]
            products.append(rows.products(table, *x, syncs=syncs))
            syncs = ()
        read = program.hoisted.reads
        selected = [
            rows.selected(*some) if f"source{n}" in read else _nothing(some[0])
            for n, some in enumerate(fields)
        ]
        given = replace(inputs, sources=[*selected, *products], source_mirrors=())
        job = self._kernels(program.hoisted, PairBlock.from_sources(block, pairs), self.aggregator)
        return job, given

    def _summed_first(
        self, inputs: EdgeInputs, syncs: Sequence[MirrorSync], relation: Tensor
    ) -> tuple[FusedGatherSum, EdgeInputs]:
        """Sum sources for each pair, multiply the sums, and return what adds them up."""
        program, block = self.program, self.block
        assert program.sums is not None
        before, after = program.sums
        (product,), (table,) = program.products, self._tables(inputs)
        pairs = destination_pairs(block, relation, program.num_relations)
        columns = [
            c.index_select(0, pairs.order_index) if f"column{n}" in before.reads else _nothing(c)
            for n, c in enumerate(inputs.columns)
        ]
        per_pair = replace(
            inputs,
            destinations=[_nothing(x) for x in inputs.destinations],
            destination_mirrors=[_nothing(x) for x in inputs.destination_mirrors],
            columns=columns,
        )
        total = self._kernels(before, PairBlock.to_destinations(block, pairs)).message(
            per_pair, syncs
        )
        rows = PairRows(block, pairs, self.layer, self.stages)
        multiplied = rows.products(table, total.reshape(len(total), *product.shape))
        columns = [_nothing(c) for c in inputs.columns]
        columns[program.index] = pairs.relation_by_node.to(relation.dtype)
        given = replace(inputs, sources=[multiplied], source_mirrors=(), columns=columns)
        return self._kernels(after, PairBlock.of_pairs(block, pairs)), given


def _nothing(x: Tensor) -> Tensor:
    """Return a tensor without rows in place of one that is not read."""
    return x.new_empty((0, *x.shape[1:]))
