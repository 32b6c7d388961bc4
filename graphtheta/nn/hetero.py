"""Layers of typed graphs that are made of other layers, one for each relation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphtheta.data.types import Relation
from graphtheta.errors import ConfigError
from graphtheta.nn.init import seeded
from graphtheta.shard.shard import Shard
from graphtheta.tgar import LayerView, TGARLayer, ViewModule
from graphtheta.tgar.batch.relation_view import RelationView, relation_views

__all__ = ["HeteroConv", "join_relations", "run_by_relation", "to_hetero"]

_JOINS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(0),
    "mean": lambda x: x.mean(0),
    "min": lambda x: x.amin(0),
    "max": lambda x: x.amax(0),
}


class HeteroConv(ViewModule):
    """Layer of a typed graph that runs a layer of its own on the edges of each relation.

    The results of the relations that end in a type are joined. Types in which no relation of this
    layer ends keep their rows (or, if the widths differ, get zeros), where PyG's `HeteroConv` drops
    them. The degrees that a layer sees are those of its relation.

    Args:
        convs: Layer of each relation, by (source type, name, destination type) or by text, as in
            `"author-writes-paper"`. Relations without a layer send no messages. Between two types,
            a layer must not add self-loops, as in `GATConv(8, 8, add_self_loops=False)`, nor divide
            by the in-degrees of both ends, as `GCNConv` does without `normalize=False`.
        aggr: How the results for a type are joined: "sum", "mean", "min" or "max".

    Shape:
        h: (I, in_channels). Returns (O, out_channels).

    Raises:
        ConfigError: If a relation is not one of the graph, a layer does not fit a relation between
            two types, or layers return rows of different widths.

    Communication:
        That of the layers, each for the nodes of its relation only.
    """

    is_graph_layer = True

    def __init__(self, convs: Mapping[Any, TGARLayer], aggr: str = "sum") -> None:
        super().__init__()
        if aggr not in _JOINS:
            raise ConfigError(
                f"HeteroConv: expected aggr to be one of {', '.join(_JOINS)}, got {aggr!r}. "
                "Choose one."
            )
        if not convs:
            raise ConfigError("HeteroConv: expected a layer for a relation, got none. Give one.")
        self.aggr = aggr
        self.relations = tuple(Relation.of(name) for name in convs)
        self.convs = nn.ModuleList(convs.values())
        for relation, conv in zip(self.relations, convs.values(), strict=True):
            if relation.source == relation.destination:
                continue
            if getattr(conv, "divides_by_degrees", False):
                raise ConfigError(
                    f"HeteroConv: {relation.text}: expected a layer that does not divide by the "
                    "in-degrees of both ends, since its nodes have two types, got "
                    f"{type(conv).__name__}. Use SAGEConv or GATConv, or create it with "
                    "normalize=False."
                )
            if getattr(conv, "self_loops", False):
                raise ConfigError(
                    f"HeteroConv: {relation.text}: expected a layer without self-loops, since its "
                    f"nodes have two types, got {type(conv).__name__}. Create it with "
                    "add_self_loops=False, or choose a layer without self-loops."
                )

    def forward(self, view: LayerView, h: Tensor) -> Tensor:
        """Run the layer of each relation, and join the results by destination type; collective."""
        found, rows = run_by_relation("HeteroConv", view, h, self.relations, self.convs)
        joined = {
            name: x[0] if len(x) == 1 else _JOINS[self.aggr](torch.stack(x))
            for name, x in found.items()
        }
        return join_relations(view, h, joined, rows)

    def extra_repr(self) -> str:
        return f"{', '.join(relation.text for relation in self.relations)}, aggr={self.aggr!r}"


def run_by_relation(
    where: str,
    view: LayerView,
    h: Tensor,
    relations: Sequence[Relation],
    layers: Iterable[Callable[[RelationView, Tensor], Tensor]],
) -> tuple[dict[str, list[Tensor]], dict[str, Tensor]]:
    """Run the layer of each relation on its edges; collective.

    Args:
        where: What runs them, for messages.
        view: View of all relations.
        h: (I, in_channels) input of the layers.
        relations: The relations.
        layers: Layer of each relation.

    Returns:
        The results for each destination type, and the positions of their rows among the outputs.

    Raises:
        ConfigError: If a relation is not one of the graph, or the widths of the results differ.
    """
    views = dict(zip(view.shard.relations, relation_views(view), strict=True))
    if unknown := [one.text for one in relations if one not in views]:
        raise ConfigError(
            f"{where}: expected relations of the graph ({', '.join(one.text for one in views)}), "
            f"got {', '.join(unknown)}. Correct them."
        )
    found: dict[str, list[Tensor]] = {}
    rows: dict[str, Tensor] = {}
    widths: dict[str, tuple[int, ...]] = {}
    for relation, layer in zip(relations, layers, strict=True):
        part = views[relation]
        result = layer(part, h.index_select(0, part.inputs))
        widths[relation.text] = tuple(result.shape[1:])
        found.setdefault(relation.destination, []).append(result)
        rows[relation.destination] = part.outputs
    if len(set(widths.values())) > 1:
        raise ConfigError(
            f"{where}: expected rows of one width from all layers, got {widths}. Give the layers "
            "the same out_channels."
        )
    return found, rows


def join_relations(
    view: LayerView, h: Tensor, of_types: Mapping[str, Tensor], rows: Mapping[str, Tensor]
) -> Tensor:
    """Return the output rows of a layer from those of some types; the others keep their rows.

    If the layer returns rows of another width, the others get zeros.

    Args:
        view: View of the layer.
        h: (I, in_channels) input of the layer, the first rows of which are those of the outputs.
        of_types: New rows by type.
        rows: Positions of these rows among the outputs, by type.
    """
    num_outputs = view.block.num_outputs
    rest = torch.ones(num_outputs, dtype=torch.bool, device=h.device)
    for some in rows.values():
        rest[some] = False
    kept = torch.nonzero(rest).flatten()
    width = next(iter(of_types.values())).shape[1]
    parts, positions = list(of_types.values()), [rows[name] for name in of_types]
    if h.shape[1] == width:
        parts.append(h.index_select(0, kept))
    else:  # no later layer with these types can read them, except as zeros
        parts.append(h.new_zeros((len(kept), width)))
    order = torch.cat([*positions, kept])
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return torch.cat(parts).index_select(0, inverse)


def to_hetero(model: nn.Module, shard: Shard, aggr: str = "sum", *, seed: int = 0) -> nn.Module:
    """Return a copy of a model in which each graph layer is a `HeteroConv` over all relations.

    A relation gets a copy of the layer of its own, with the same initial values in another random
    order. Between two types it adds no self-loops. Layers between graph layers, such as linear
    maps, are shared by all types. The inputs have one width for all types: use `TypedInput` for the
    features.

    Args:
        model: Model of an untyped graph, such as `GraphSAGE` or `GAT`. `GCN` divides by the
            in-degrees of both ends of an edge, and does not fit relations between two types.
        shard: Typed graph.
        aggr: As for `HeteroConv`.
        seed: Random seed of the initial values.

    Raises:
        ConfigError: If a layer does not fit a relation between two types.
    """
    model = copy.deepcopy(model)
    if isinstance(model, TGARLayer):
        return _lifted(model, shard, aggr, seed)
    layers = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, TGARLayer)
    ]
    for number, (parent, name, layer) in enumerate(layers):
        setattr(parent, name, _lifted(layer, shard, aggr, seed + number))
    return model


def _lifted(layer: TGARLayer, shard: Shard, aggr: str, seed: int) -> HeteroConv:
    convs = {relation: copy.deepcopy(layer) for relation in shard.relations}
    for relation, conv in convs.items():
        conv.self_loops = layer.self_loops and relation.source == relation.destination
    with seeded(seed, "relations"), torch.no_grad():
        for conv in list(convs.values())[1:]:
            for parameter in conv.parameters():
                order = torch.randperm(parameter.numel())
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return HeteroConv(convs, aggr)
