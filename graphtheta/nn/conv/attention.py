"""Base class of attention layers with several heads."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphtheta.comm.timers import Stage
from graphtheta.errors import ConfigError
from graphtheta.exchange.autograd import fetch
from graphtheta.tgar import LayerView, TGARLayer, keep
from graphtheta.tgar.aggregators import aggregator
from graphtheta.tgar.chunked import GatherSum
from graphtheta.tgar.mixed_precision import without_autocast

__all__ = ["AttentionLayer", "AttentionWeights", "require_heads"]


class AttentionWeights(NamedTuple):
    """Share of each in-edge in the message of a node, one for each head.

    Attributes:
        edges: (E, K) of the active edges of this worker, in the order of `view.block.edge_key`. If
            the layer adds self-loops, those of the graph are left out and have 0.
        loops: (O, K) of the self-loops that the layer adds to the outputs, in the order of
            `view.node_keys`; None if it adds none.
    """

    edges: Tensor
    loops: Tensor | None


class AttentionLayer(TGARLayer):
    """Layer whose messages are weighted by a softmax over a node's in-edges, one for each head.

    Args:
        out_channels: Columns of each head (C).
        heads: Number of heads (K).
        concat: Whether to concatenate the heads; if False, they are averaged.
        dropout: Probability of dropping an attention coefficient.
        edge_dim: Columns of the edge column `attr`; if None, edge attributes are not read.
    """

    aggregator = "softmax"

    def __init__(
        self, out_channels: int, *, heads: int, concat: bool, dropout: float, edge_dim: int | None
    ) -> None:
        super().__init__()
        require_heads(type(self).__name__, heads)
        self.heads, self.channels, self.concat = heads, out_channels, concat
        self.dropout, self.edge_dim = dropout, edge_dim

    def by_head(self, x: Tensor) -> Tensor:
        """Return (R, K C) as (R, K, C)."""
        return x.view(-1, self.heads, self.channels)

    def join_heads(self, m: Tensor) -> Tensor:
        """Return (R, K, C) as (R, K C), or as (R, C) without concat."""
        return m.flatten(1) if self.concat else m.mean(1)

    def attention_weights(self, view: LayerView, h: Any) -> AttentionWeights:
        """Return the attention weights of the edges, without dropout or gradients; collective.

        Args:
            view: As for the call of the layer.
            h: As for the call of the layer.

        Communication:
            That of the layer, and in a vertex-cut 2 K numbers for each mirror with in-edges.
        """
        block, token = view.block, view.view.token
        with torch.no_grad(), without_autocast(view.shard.device.type):
            fields, output_fields = self._run_transform(view, h)
            expression = self._trace(view, fields)
            inputs, syncs = self._start_sync(view, expression, fields, output_fields)
            loops = block.num_outputs if self.self_loops else 0
            topology = block.loopless_topology if self.self_loops else block.topology
            reduce, stages = aggregator(self.aggregator), view.channel.stages
            job = GatherSum(
                expression, reduce, topology, block.node_key, loops, view.layer, None, stages
            )
            total, _, largest = columns = job(inputs, syncs)
            if view.shard.is_vertex_cut:
                total, _, largest = view.merge(columns, reduce)
                both, stage = torch.cat([total, largest], 1), Stage("sync", view.layer)
                _, both = fetch(both, token, view.channel, block.destinations, stage)
                total, largest = torch.split(both, self.heads, 1)
            inputs = inputs.joined()
            found = {
                False: total.new_zeros((block.num_edges, *total.shape[1:])),
                True: total.new_zeros((loops, *total.shape[1:])),
            }
            for chunk in job.chunks():
                rows = chunk.first + chunk.row_e
                score = job.evaluate(chunk, job.select(chunk, inputs), total)[0]
                weight = (score - largest[rows]).exp() / total[rows]
                found[chunk.is_loop][chunk.edge_e] = weight
        view.view.token = token  # no gradient runs through these exchanges
        return AttentionWeights(found[False], found[True] if self.self_loops else None)

    def drop_coefficients(self, message: Tensor) -> Tensor:
        """Drop attention coefficients, which are factors of the messages, per edge and head."""
        if not self.dropout:
            return message
        return message * keep(self.dropout, self.heads).unsqueeze(-1)


def require_heads(where: str, heads: int, channels: int | None = None) -> None:
    """Raise a ConfigError if there is no head, or the heads do not divide the channels.

    Args:
        where: Layer or model, for the message.
        heads: Number of heads.
        channels: Columns of all heads together, if they are given.
    """
    if heads < 1:
        raise ConfigError(f"{where}: expected heads >= 1, got {heads}. Give at least one.")
    if channels is not None and channels % heads:
        raise ConfigError(
            f"{where}: expected out_channels to be a multiple of heads = {heads}, got {channels}. "
            "Change one of them."
        )
