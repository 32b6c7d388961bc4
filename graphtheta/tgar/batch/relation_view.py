"""View of one relation: what a layer sees that runs on the edges of that relation only."""

from __future__ import annotations

import torch
from torch import Tensor

from graphtheta.errors import ConfigError
from graphtheta.tgar.batch.relation_block import (
    RelationBlock,
    kept_relation_blocks,
    relation_blocks,
)
from graphtheta.tgar.batch.view import LayerView

__all__ = ["RelationView", "relation_views"]


def relation_views(view: LayerView) -> list[RelationView]:
    """Return the view of each relation of the graph, in the order of relations; collective.

    Communication:
        As for `relation_blocks`, once for a batch and once for the whole graph.
    """
    is_whole = view.view.blocks is None
    found = kept_relation_blocks(view.shard) if is_whole else relation_blocks(view.block)
    return [RelationView(view, part) for part in found]


class RelationView(LayerView):
    """Active nodes and edges of one relation in one layer of a batch.

    Args:
        whole: View of the layer with all relations.
        part: Block of the relation.

    Attributes:
        relation: The relation.
        number: Its position among the relations of the graph.
        inputs: (I',) int64 rows of its inputs among the inputs of the layer.
        outputs: (O',) int64 rows of its outputs among the outputs of the layer.
    """

    def __init__(self, whole: LayerView, part: RelationBlock) -> None:
        super().__init__(whole.view, whole.layer, part.block)
        self.relation = part.relation
        self.number = whole.shard.relations.index(part.relation)
        self.inputs = whole.shard.to_device(part.inputs)
        self.outputs = whole.shard.to_device(part.outputs)
        self.edge_columns = part.edge_columns()
        self._calls = whole._calls  # so that no two relations draw the same numbers

    def node_column(self, name: str, *, self_loops: bool) -> Tensor:
        """Return a node column of the inputs: (I', ...).

        `in_degree` and `in_weight` are over the edges of the relation in the whole graph, or in a
        renormalised view in the batch; they are 0 for nodes of another type than its destinations.

        Args:
            name: As for `LayerView.node_column`.
            self_loops: Whether `in_degree` and `in_weight` count one self-loop, the layer's own,
                instead of the graph's.

        Raises:
            ConfigError: If the graph has no such column.
        """
        if name not in ("in_degree", "in_weight"):
            return super().node_column(name, self_loops=self_loops)
        if name == "in_weight" and "weight" not in self.edge_columns:
            raise ConfigError(
                "view: the edges of the relation have no 'weight' column. Use layers with "
                "weighted=False."
            )
        degrees, shard = self.view.degrees, self.shard
        part = kept_relation_blocks(degrees or shard)[self.number]
        counted = part.degrees.column(f"loopless_{name}" if self_loops else name)
        rows = degrees.block.num_outputs if degrees else shard.num_masters
        total = counted.new_zeros(rows).index_copy(0, shard.to_device(part.outputs), counted)
        column = total[self.inputs] if degrees else self.block.of_inputs(total)
        return column + 1 if self_loops else column

    def edges_per_draw(self) -> Tensor | None:
        fanout = self.block.fanout
        if fanout is None or not isinstance(fanout.size, tuple):
            return super().edges_per_draw()
        size = fanout.size[self.number]
        degree = self.node_column("in_degree", self_loops=False)[: self.block.num_outputs]
        if size is None:
            return torch.ones_like(degree, dtype=torch.get_default_dtype())
        return self._edges_per_draw(degree, size, replace=fanout.replace)
