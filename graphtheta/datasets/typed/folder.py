"""Reader of folders of tables: one for each node type, and one for each relation.

The tables are files, or folders of files, in the formats of `graphtheta.datasets.files`:
`nodes-<type>.<suffix>` and `edges-<source type>-<name>-<destination type>.<suffix>`. A name may
hold anything but `-`. A file `graph.toml` in the folder can name tables and columns:

    [nodes.paper]
    file = "papers.csv"  # (default: nodes-paper.*)
    id = "paper_id"
    features = ["x_*"]   # or {age = "standard", country = "onehot"}
    labels = "venue"     # or {y = "venue"}
    splits = "split"
    time = "year"

    [edges.author-writes-paper]
    src = "author"
    dst = "paper"
    weight = "share"
"""

from __future__ import annotations

import posixpath
import tomllib
from collections.abc import Mapping
from typing import Any, Unpack, cast

from graphtheta.data.mapping import RELATION_OPTIONS, ColumnOptions
from graphtheta.data.types import Relation
from graphtheta.datasets.files import SUFFIXES, names_in, read_bytes, suffix
from graphtheta.datasets.tables import InputTable, TableSource
from graphtheta.errors import ConfigError

__all__ = ["read", "recognises", "resembles"]

_TOML = "graph.toml"
_NODE_KEYS = {"id": "id", "features": "features", "labels": "labels", "splits": "splits"}
_EDGE_KEYS = {key: option for key, option in RELATION_OPTIONS.items() if key != "label_kinds"}
_LISTS = ("features", "labels", "splits")  # keys whose values may be lists; others are texts
_MAPPINGS = ("features", "labels", "splits")


def recognises(uri: str) -> bool:
    """Return whether `uri` is a folder with `edges-<source>-<name>-<destination>` or graph.toml."""
    names = names_in(uri)
    return _TOML in names or any(_type_of(name, "edges").count("-") == 2 for name in names)


def resembles(uri: str) -> bool:
    """Return whether `uri` is a folder with `nodes-*` or `edges-*`, for which `read` has messages.

    Ask other readers first: their folders may have such names.
    """
    return any(_type_of(name, kind) for name in names_in(uri) for kind in ("nodes", "edges"))


def read(uri: str, **columns: Unpack[ColumnOptions]) -> TableSource:
    """Open a folder of tables, with the options of `TableSource`.

    The options go before those of `graph.toml`.

    Raises:
        ConfigError: If `graph.toml` has an unknown key, there are two tables of a type, no table of
            nodes or of edges, or no column of a name.
        GraphFormatError: If a file cannot be read.
    """
    uri = uri.rstrip("/")
    names = names_in(uri)
    given = _read_toml(f"{uri}/{_TOML}") if _TOML in names else {}
    nodes = _tables(uri, names, "nodes", given.get("nodes", {}), _NODE_KEYS)
    edges = _tables(uri, names, "edges", given.get("edges", {}), _EDGE_KEYS)
    for kind, found, example in (
        ("nodes", nodes, "nodes-<type>.parquet"),
        ("edges", edges, "edges-<source type>-<name>-<destination type>.parquet"),
    ):
        if not found:
            raise ConfigError(
                f"{uri}: expected tables of {kind}, such as {example}, got none. Add one."
            )
    by_relation = {_relation(uri, text): table for text, table in edges.items()}
    return TableSource(nodes, by_relation, **columns)


def _type_of(name: str, kind: str) -> str:
    """Return the type in the name of a table, such as `author-writes-paper`; empty if it has none.

    Args:
        name: Name of a file or folder.
        kind: `nodes` or `edges`.
    """
    if not name.startswith(f"{kind}-"):
        return ""
    ending = suffix(name)
    if ending in SUFFIXES:
        name = name[: name.rindex(ending)]
    return name.removeprefix(f"{kind}-")


def _relation(uri: str, text: str) -> Relation:
    if text.count("-") != 2:
        raise ConfigError(
            f"{uri}: expected edges-<source type>-<name>-<destination type>, with names without "
            f"'-', got edges-{text}. Rename it, or name it as the file of "
            "[edges.<source type>-<name>-<destination type>] in graph.toml."
        )
    return Relation.of(text)


def _tables(
    uri: str, names: list[str], kind: str, given: Mapping[str, Any], keys: Mapping[str, str]
) -> dict[str, InputTable]:
    found: dict[str, list[str]] = {}
    named = {table.get("file") for table in given.values() if isinstance(table, Mapping)}
    for name in names:
        if name not in named and (text := _type_of(name, kind)):
            found.setdefault(text, []).append(name)
    tables = {}
    for text in [*given, *(text for text in found if text not in given)]:
        where = f"{uri}/{_TOML}: [{kind}.{text}]"
        table = dict(_mapping(given.get(text, {}), where))
        files = [str(table.pop("file"))] if "file" in table else found.get(text, [])
        if len(files) != 1:
            raise ConfigError(
                f"{uri}: expected one table for {kind}-{text}, got {', '.join(files) or 'none'}. "
                f"{'Keep one of them' if files else 'Name it with file = ... in graph.toml'}."
            )
        others = {"time": _text(table.pop("time"), f"{where} time")} if "time" in table else {}
        options = {
            _key(key, keys, where): _value(key, value, f"{where} {key}")
            for key, value in table.items()
        }
        tables[text] = InputTable(
            posixpath.join(uri, files[0]), cast(ColumnOptions, options), others
        )
    return tables


def _read_toml(path: str) -> dict[str, Any]:
    try:
        given = tomllib.loads(read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, got an error: {error}. Correct it.") from None
    for key, value in given.items():
        _key(key, {"nodes": "", "edges": ""}, path)
        _mapping(value, f"{path}: [{key}]")
    return given


def _key(key: str, keys: Mapping[str, str], where: str) -> str:
    if key not in keys:
        known = [*keys] if "nodes" in keys else ["file", *keys, "time"]
        raise ConfigError(
            f"{where}: expected keys among {', '.join(known)}, got {key!r}. Correct it."
        )
    return keys[key]


def _value(key: str, value: Any, where: str) -> Any:
    if isinstance(value, dict) and key in _MAPPINGS:
        return {name: _value("features", columns, where) for name, columns in value.items()}
    if isinstance(value, list) and key in _LISTS:
        return [_text(one, where) for one in value]
    return _text(value, where)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: expected the name of a column, got {value!r}. Correct it.")
    return value


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a table of keys, got {value!r}. Correct it.")
    return value
