"""Choice of the label and the split of a task: columns of one node type, or of one relation."""

from __future__ import annotations

from typing import Literal, NamedTuple

from graphtheta.data.schema import need_name
from graphtheta.data.types import Relation, qualified
from graphtheta.errors import ConfigError
from graphtheta.partition.store.manifest import Manifest, NodeTypeSpec, RelationSpec
from graphtheta.wording import some

__all__ = ["TargetColumn", "target_column"]

_DEFAULTS = {"label": "y", "split": "split"}


class TargetColumn(NamedTuple):
    """Label or split of one node type or relation.

    Attributes:
        owner: Name of the node type, or text of the relation.
        name: Qualified name of the column.
    """

    owner: str
    name: str


def target_column(
    manifest: Manifest,
    of: Literal["nodes", "edges"],
    kind: Literal["label", "split"],
    name: str | None = None,
    owner: Relation | str | None = None,
) -> TargetColumn:
    """Return the label or split to use.

    Args:
        manifest: Description of the graph.
        of: Whether the column is one of nodes or of edges.
        kind: Kind of the column.
        name: Name of the column, which may be plain if `owner` is given. If None, the only column
            called "y" (label) or "split" (split), or the only column.
        owner: Node type or relation of the column. If None, any.

    Raises:
        ConfigError: If there is no such type, relation or column, or several and `name` is None.
    """
    specs: dict[str, NodeTypeSpec | RelationSpec]
    if of == "nodes":
        specs = {spec.name: spec for spec in manifest.node_types}
        owner_option = "node type (--target-type)"
    else:
        specs = {spec.relation.text: spec for spec in manifest.relations}
        owner_option = "relation (--relation)"
        owner = owner if owner is None or isinstance(owner, str) else Relation.of(owner).text
    if owner is not None:
        need_name(owner, specs, owner_option)
    columns = [
        (plain, TargetColumn(text, qualified(text, plain, len(specs))))
        for text, spec in specs.items()
        for plain in (spec.labels if kind == "label" else spec.splits)
    ]
    own = [(plain, column) for plain, column in columns if owner in (None, column.owner)]
    whose = of if owner is None or len(specs) == 1 else str(owner)
    if not own:
        raise _none(manifest, of, kind, whose, [column.name for _, column in columns])
    if name is None:
        defaults = [column for plain, column in own if plain == _DEFAULTS[kind]]
        found = defaults if len(defaults) == 1 else [column for _, column in own]
        if len(found) > 1:
            raise ConfigError(
                f"task: expected one {kind} of {whose}, got "
                f"{some((column.name for column in found), len(found))}. Choose one with --{kind}."
            )
        return found[0]
    by_name = {plain: column for plain, column in own if owner is not None}
    by_name |= {column.name: column for _, column in own}
    if name not in by_name:
        need_name(name, [column.name for _, column in own], f"{kind} of {whose} (--{kind})")
    return by_name[name]


def _none(manifest: Manifest, of: str, kind: str, whose: str, others: list[str]) -> ConfigError:
    """Return the error of a graph, a node type or a relation without such a column.

    Args:
        manifest: Description of the graph.
        of: Whether nodes or edges have no such column.
        kind: "label" or "split".
        whose: What has none: `of`, or the name of a type or relation.
        others: Such columns of other types or relations.
    """
    of_edges = list(manifest.edge_labels if kind == "label" else manifest.edge_splits)
    if others:
        got = f"only {kind}s of others ({some(others, len(others))})"
        remedy = f"Predict one of these, or add a {kind} when you partition the graph."
    elif of == "nodes" and of_edges:
        got = f"only {kind}s of edges ({some(of_edges, len(of_edges))})"
        remedy = "Use --task edge or --task link for edges (EdgePrediction, LinkPrediction)."
    else:
        values = " of train, val and test" if kind == "split" else ""
        table, prefix = ("node", "") if of == "nodes" else ("edge", "edge-")
        got = "none"
        drawn = f", or draw one: --{prefix}split 'random(0.6,0.2)'" if kind == "split" else ""
        remedy = (
            f"Name a column{values} of the {table} table when you partition it: "
            f"--{prefix}{kind} COLUMN{drawn}."
        )
    return ConfigError(f"task: expected a {kind} of {whose}, got {got}. {remedy}")
