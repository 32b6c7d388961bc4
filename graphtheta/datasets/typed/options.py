"""Column options of a graph of several tables: which table each named column belongs to.

An unqualified name, such as `section`, is a column of every table that has it. A qualified one,
such as `package.section` or `author-writes-paper.stars`, is a column of that table.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graphtheta.data.encode.random_split import split_name
from graphtheta.data.encode.registry import Features, Requested, pieces, requested
from graphtheta.data.mapping import ColumnOptions, EdgeOptions, NodeOptions
from graphtheta.errors import ConfigError

__all__ = ["Columns", "options_by_type"]

Columns = Mapping[str, Sequence[str]]  # names of the columns of each table

_OPTIONS = {
    **dict.fromkeys(("id", "src", "dst", "edge_type", "edge_weight"), "column"),
    **dict.fromkeys(("features", "edge_features"), "columns"),
    **dict.fromkeys(("keep", "edge_keep"), "names"),
    **dict.fromkeys(("labels", "splits", "edge_labels", "edge_splits"), "named"),
}


def options_by_type(
    columns: ColumnOptions,
    nodes: Columns,
    edges: Columns,
    defaults: Mapping[str, ColumnOptions] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the options of each table, with the names of its own columns.

    Args:
        columns: Options whose names may be qualified; other options are left out.
        nodes: Names of the columns of each node type.
        edges: Names of the columns of each relation, by its text.
        defaults: Options of some of the tables, which `columns` overrides.

    Raises:
        ConfigError: If no table has a named column, or no label has a name of `label_kinds`.
    """
    found: dict[str, dict[str, Any]] = {
        owner: {**(defaults or {}).get(owner, {})} for owner in (*nodes, *edges)
    }
    for option, given in columns.items():
        if given is None or option not in _OPTIONS:
            continue
        tables = nodes if option in NodeOptions.__annotations__ else edges
        for owner, value in _RESOLVE[_OPTIONS[option]](given, tables, _flag(option)).items():
            found[owner][option] = value
    kinds = columns.get("label_kinds")
    if isinstance(kinds, Mapping):
        labels = {
            owner: _labels(found[owner], names) for owner, names in (*nodes.items(), *edges.items())
        }
        _check_kinds(kinds, labels)
        for owner, names in labels.items():
            found[owner]["label_kinds"] = {
                name: kinds.get(f"{owner}.{name}", kinds.get(name))
                for name in names
                if f"{owner}.{name}" in kinds or name in kinds
            }
    elif kinds is not None:
        for options in found.values():
            options["label_kinds"] = kinds
    return found


def _labels(options: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """Return the names of the labels of a table."""
    given = options.get("labels", options.get("edge_labels"))
    if given is None:
        given = [name for name in columns if name.startswith("label:")]
    names = [given] if isinstance(given, str) else given
    return [name.removeprefix("label:") for name in names]


def _check_kinds(kinds: Mapping[str, Any], labels: Columns) -> None:
    known = [f"{owner}.{name}" for owner, names in labels.items() for name in names]
    plain = {name for names in labels.values() for name in names}
    for name in kinds:
        if name not in known and name not in plain:
            raise ConfigError(
                "label_kinds (--label-kind): expected names of labels "
                f"({', '.join(known) or 'none'}), got {name!r}. Correct it."
            )


def _flag(option: str) -> str:
    assert option in NodeOptions.__annotations__ or option in EdgeOptions.__annotations__
    word = option.replace("_", "-")
    return f"{option} (--{word.removesuffix('s') if word.endswith(('labels', 'splits')) else word})"


def _column(given: str, tables: Columns, flag: str) -> dict[str, Any]:
    return {owner: name for owner, (name,) in _find([given], tables, flag).items()}


def _columns(given: Features, tables: Columns, flag: str) -> dict[str, Any]:
    """Return the features of each table, as names or globs with their encoders."""
    found: dict[str, list[Requested]] = {}
    existing = [name for names in tables.values() for name in names]
    existing += [f"{owner}.{name}" for owner, names in tables.items() for name in names]
    for one in [given] if isinstance(given, str | Mapping) else given:
        for name, encoder in requested(one, existing, flag):
            for owner, names in _find([name], tables, flag).items():
                found.setdefault(owner, []).extend((column, encoder) for column in names)
    return found


def _names(given: str | Sequence[str], tables: Columns, flag: str) -> dict[str, Any]:
    """Return the names, or globs, of the columns of each table."""
    found: dict[str, list[str]] = {}
    for one in [given] if isinstance(given, str) else given:
        for name in pieces(one):
            for owner, names in _find([name], tables, flag).items():
                found.setdefault(owner, []).extend(names)
    return found


def _named(given: Any, tables: Columns, flag: str) -> dict[str, Any]:
    """Return a mapping from names of labels or splits to columns, for each table."""
    given = [given] if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        given = {column: column for column in given}
    found: dict[str, dict[str, list[str]]] = {}
    for name, columns in given.items():
        columns = [columns] if isinstance(columns, str) else list(columns)
        of_name, plain = _split(name, tables)
        among = tables if of_name is None else {of_name: tables[of_name]}
        for owner, names in _find(columns, among, flag).items():
            title = split_name(plain.removeprefix("label:"))
            found.setdefault(owner, {})[title] = names
    return found


_RESOLVE: dict[str, Callable[[Any, Columns, str], dict[str, Any]]] = {
    "column": _column,
    "columns": _columns,
    "names": _names,
    "named": _named,
}


def _find(columns: Sequence[str], tables: Columns, flag: str) -> dict[str, list[str]]:
    """Return the tables that have some columns, with the names of the columns there."""
    found = {
        owner: list(columns)
        for owner, names in tables.items()
        if all(_has(names, column) for column in columns)
    }
    if found:
        return found
    owners, names = zip(*(_split(column, tables) for column in columns), strict=True)
    if owners[0] is not None and len(set(owners)) == 1:
        return {owners[0]: list(names)}
    tables = {owner: names for owner, names in tables.items() if names}
    example = next((f"{owner}.{names[-1]}" for owner, names in tables.items()), "none")
    raise ConfigError(
        f"{flag}: expected a column of {', '.join(tables) or 'a table'}, such as "
        f"{example}, got {', '.join(columns)!r}. Correct it."
    )


def _split(name: str, tables: Columns) -> tuple[str | None, str]:
    """Return the table and the column of a qualified name; None as the table of another name."""
    if any(name in names for names in tables.values()):
        return None, name
    owners = [owner for owner in tables if name.startswith(f"{owner}.")]
    owner = max(owners, key=len, default=None)
    return owner, name if owner is None else name.removeprefix(f"{owner}.")


def _has(names: Sequence[str], column: str) -> bool:
    return column in names or bool(set(column) & set("*?[") and fnmatch.filter(names, column))
