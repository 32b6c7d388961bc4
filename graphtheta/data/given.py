"""Tables that a user gives: one of nodes and one of edges, or a mapping by type of each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from graphtheta.data.convert import convert
from graphtheta.data.encode.like import named_like, planned_like, recipe_of
from graphtheta.data.mapping import (
    RELATION_OPTIONS,
    Column,
    ColumnOptions,
    NodeOptions,
    check_kinds,
    options_by_table,
    plan_edges,
    plan_nodes,
)
from graphtheta.data.source import TableInMemory
from graphtheta.data.survey import unify_ids
from graphtheta.data.tables import as_table, surveyed, with_keys
from graphtheta.data.types import (
    EDGE,
    NODE,
    EdgeTable,
    NodeTable,
    Relation,
    edge_tables,
    node_tables,
)
from graphtheta.errors import ConfigError

__all__ = [
    "GivenTable",
    "by_type",
    "given_tables",
    "keyed_tables",
    "others",
    "report_unread",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GivenTable:
    """Table of a user, with the names of its columns.

    Attributes:
        name: Name of the table in messages.
        rows: The table.
        options: Names of the columns.
    """

    name: str
    rows: pa.Table
    options: ColumnOptions


def by_type(
    nodes: Any, edges: Any
) -> tuple[dict[str, tuple[str, Any]], dict[Relation, tuple[str, Any]]]:
    """Return the tables of each node type and relation, each with its name in messages.

    Args:
        nodes: Node table, or a mapping from node types to tables; None for no node table.
        edges: Edge table, or a mapping from relations to tables.

    Raises:
        ConfigError: If only one of them is a mapping, or a relation is malformed or given twice.
    """
    if not (_is_by_type(nodes) or _is_by_type(edges)):
        return {} if nodes is None else {NODE: ("nodes", nodes)}, {EDGE: ("edges", edges)}
    for where, given, keys in (("nodes", nodes, "node types"), ("edges", edges, "relations")):
        if not isinstance(given, Mapping) or (given and not _is_by_type(given)):
            raise ConfigError(
                f"{where}: expected a mapping from {keys} to tables, got {type(given).__name__}. "
                "Pass mappings of both, or one table of each."
            )
    of_edges: dict[Relation, tuple[str, Any]] = {}
    for key, table in edges.items():
        relation = Relation.of(key)
        if relation in of_edges:
            raise ConfigError(
                f"edges: expected one table for each relation, got two for {relation.text}. "
                "Rename one, or join the tables."
            )
        of_edges[relation] = f"edges of {relation.text}", table
    return {name: (f"nodes of {name}", table) for name, table in nodes.items()}, of_edges


def given_tables(
    nodes: Any,
    edges: Any,
    columns: Mapping[Any, Mapping[str, Any]] | None,
    options: ColumnOptions,
) -> tuple[dict[str, GivenTable], dict[Relation, GivenTable]]:
    """Return the tables of `Graph.from_arrow`, which describes the arguments, with their options.

    Raises:
        ConfigError: If an option does not exist, or is given for a table that does not exist; or as
            for `by_type`.
    """
    of_nodes, of_edges = by_type(nodes, edges)
    like = options.get("like")
    if not (_is_by_type(nodes) or _is_by_type(edges)):
        if columns is not None:
            raise ConfigError(
                "columns: expected with mappings of tables, got one table of nodes and of edges. "
                "Pass the options themselves, such as labels=..."
            )
        _check_options("from_arrow", options, ColumnOptions.__annotations__)
        of_tables: dict[Any, ColumnOptions] = dict.fromkeys((NODE, EDGE), options)
    else:
        if of_all := [name for name in options if name != "like"]:
            raise ConfigError(
                f"from_arrow: expected the options of each table in columns={{type: {{...}}}}, got "
                f"{', '.join(of_all)}. Name the table."
            )
        of_tables = {}
        for key, of_table in (columns or {}).items():
            table = key if key in of_nodes else Relation.of(key)
            if table not in of_nodes and table not in of_edges:
                known = [*of_nodes, *(relation.text for relation in of_edges)]
                raise ConfigError(
                    f"columns: expected options of {', '.join(known)}, got {key!r}. Correct it."
                )
            if key in of_nodes:
                _check_options(str(key), of_table, {*NodeOptions.__annotations__, "id_type"})
            else:
                _check_options(Relation.of(key).text, of_table, RELATION_OPTIONS)
                of_table = {RELATION_OPTIONS[name]: value for name, value in of_table.items()}
            of_tables[table] = cast(ColumnOptions, {**of_table, "like": like})
    return (
        {
            name: GivenTable(where, as_table(rows, where), of_tables.get(name, {"like": like}))
            for name, (where, rows) in of_nodes.items()
        },
        {
            relation: GivenTable(
                where, as_table(rows, where), of_tables.get(relation, {"like": like})
            )
            for relation, (where, rows) in of_edges.items()
        },
    )


def keyed_tables(
    nodes: Mapping[str, GivenTable], edges: Mapping[Relation, GivenTable]
) -> tuple[tuple[NodeTable, ...], tuple[EdgeTable, ...]]:
    """Return the node and edge tables of `Graph.from_arrow`, with columns of our types.

    Args:
        nodes: Node tables by type; if empty, the nodes are the sorted distinct ids of the edges.
        edges: Edge tables by relation.

    Raises:
        ConfigError: If a named column does not exist.
        GraphFormatError: If a column has a wrong type, or an end of an edge is not in the table of
            its node type.
    """
    node_plans = {name: _plan_nodes(name, given) for name, given in nodes.items()}
    edge_plans = {relation: _plan_edges(relation, given) for relation, given in edges.items()}
    given = [*nodes.values(), *edges.values()]
    plans = [*node_plans.values(), *edge_plans.values()]
    for one in given:
        shared = [p for other, p in zip(given, plans, strict=True) if other.options is one.options]
        check_kinds(shared, one.options.get("label_kinds"))
    id_types = {name: one.options.get("id_type") for name, one in nodes.items()}
    id_types = id_types or {NODE: edges[EDGE].options.get("id_type")}
    unify_ids(node_plans, edge_plans, id_types)
    return with_keys(
        node_tables({name: _converted_nodes(nodes[name], node_plans[name]) for name in nodes}),
        edge_tables({r: _converted(edges[r], edge_plans[r]) for r in edges}, nodes or (NODE,)),
    )


def _plan_nodes(owner: str, given: GivenTable) -> dict[str, Column]:
    available, like = given.rows.column_names, recipe_of(given.options)
    options, _ = options_by_table(named_like(like, owner, given.options, available))
    plan = planned_like(
        like, owner, plan_nodes(available, given.name, **options), available, given.name
    )
    return surveyed(plan, given.rows, given.name)


def _plan_edges(relation: Relation, given: GivenTable) -> dict[str, Column]:
    available, like = given.rows.column_names, recipe_of(given.options)
    _, options = options_by_table(named_like(like, relation.text, given.options, available))
    plan = planned_like(
        like, relation.text, plan_edges(available, given.name, **options), available, given.name
    )
    return surveyed(plan, given.rows, given.name)


def _converted(given: GivenTable, plan: Mapping[str, Column]) -> TableInMemory:
    return TableInMemory(given.name, convert(given.rows, plan, given.name))


def _converted_nodes(given: GivenTable, plan: Mapping[str, Column]) -> TableInMemory:
    table = _converted(given, plan)
    if "id" in plan:
        return table
    ids = pa.array(np.arange(table.num_rows))
    return replace(table, rows=table.rows.add_column(0, "id", ids))


def _is_by_type(given: Any) -> bool:
    """Return whether the values of a mapping are tables, not columns."""
    return (
        isinstance(given, Mapping)
        and bool(given)
        and all(isinstance(value, Mapping) or hasattr(value, "columns") for value in given.values())
    )


def _check_options(where: str, options: Mapping[str, Any], known: Collection[str]) -> None:
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{where}: expected options among {', '.join(sorted(known))}, got {name!r}. "
                "Correct it."
            )


def others(owner: str, values: Mapping[str, Any], read: Collection[str]) -> list[str]:
    """Return the names of values that are not read, as `owner.name` if they have an owner."""
    found = sorted(key for key, value in values.items() if key not in read and value is not None)
    return [f"{owner}.{key}" if owner else key for key in found]


def report_unread(where: str, names: Sequence[str]) -> None:
    """Log one line that names what is not read of a graph of another library, if there is any."""
    if not names:
        return
    links = any(name.rpartition(".")[2] == "edge_label_index" for name in names)
    remedy = (
        " (for the supervision edges in edge_label_index, give Graph.from_arrow all edges with a "
        "column split:NAME of 1 for training, 2 for validation and 3 for test, and use "
        "LinkPrediction)"
    )
    _log.warning("%s: not read: %s%s", where, ", ".join(names), remedy if links else "")
