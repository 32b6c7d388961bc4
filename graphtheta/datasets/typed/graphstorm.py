"""Reader of GraphStorm's construction files: JSON that names tables, and columns in them.

What is read: tables in Parquet or CSV, features without a transformation or with `no-op`, and
labels for classification and regression, with `split_pct` or `custom_split_filenames` (of ids, in
JSON files or in a column of tables). Everything else is refused by its name, because a model would
get other inputs than in GraphStorm.

Source: Zheng et al., "GraphStorm: All-in-one Graph Machine Learning Framework for Industry
Applications", KDD 2024; the form is that of `graphstorm.gconstruct` (`gconstruct-v0.1`).
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from graphtheta.data.encode.numeric import Number
from graphtheta.data.mapping import ColumnOptions, natural_key
from graphtheta.data.schema import is_text, need_column, refuse, whole
from graphtheta.data.types import Relation, SourceTable
from graphtheta.datasets.files import TableFiles
from graphtheta.datasets.splits import random_split, split_of_rows
from graphtheta.datasets.tables import FileSource, InputTable, TableSource
from graphtheta.errors import ConfigError

__all__ = ["read", "recognises"]

_DEFAULT_PCT = [0.8, 0.1, 0.1]
_SUM = 1 + 1e-9  # of three fractions, at most
_NODE_KEYS = ("node_type", "node_id_col", "files", "format", "features", "labels")
_EDGE_KEYS = ("relation", "source_id_col", "dest_id_col", "files", "format", "features", "labels")
_ENDS = {"nodes": ("id",), "edges": ("src", "dst")}  # options of the keys above
_FEATURE_KEYS = ("feature_col", "feature_name", "out_dtype", "transform")
_LABEL_KEYS = ("label_col", "task_type", "split_pct", "custom_split_filenames", "label_stats_type")
_SPLIT_FILE_KEYS = ("train", "valid", "test", "column")
_KINDS = {"classification": "multiclass", "regression": "regression"}
_FORMATS = ("parquet", "csv")
_SEPARATORS = (",", ";", "\t", " ")
_VERSION = "gconstruct"

_Splits = dict[str, dict[str, pa.Array]]  # by node type or text of a relation, and name
_Owner = TypeVar("_Owner", str, Relation)


def recognises(uri: str) -> bool:
    """Return whether `uri` is a JSON file with lists of `nodes` and `edges`."""
    try:
        given = json.loads(Path(uri).read_bytes()) if uri.endswith(".json") else None
    except (OSError, ValueError):
        return False
    lists = ("nodes", "edges")
    return isinstance(given, dict) and all(isinstance(given.get(name), list) for name in lists)


def read(uri: str, *, seed: int = 0) -> FileSource:
    """Open the graph of a construction file. Only its splits are kept in memory.

    A label is called by its column, and its split too. Features of a table are joined to one
    matrix, in their order; a missing number gets the mean of the training rows, or of all rows if
    the table has several splits or none. Paths are relative to the folder of the file, or to the
    working directory.

    Args:
        uri: The JSON file.
        seed: Random seed of the splits by `split_pct`.

    Raises:
        ConfigError: If the file has a key or a value that is not supported, or a table or column
            does not exist.
        GraphFormatError: If a table is damaged, or has wrong values.
    """
    folder = Path(uri).parent
    given = _need_keys(json.loads(Path(uri).read_bytes()), ("version", "nodes", "edges"), uri)
    version = given.get("version", "")
    if not str(version).startswith(_VERSION):
        raise ConfigError(
            f"{uri}: expected version {_VERSION}..., got {version!r}. Write such a file."
        )
    nodes: dict[str, InputTable] = {}
    edges: dict[Relation, InputTable] = {}
    labels: list[tuple[str | Relation, Mapping[str, Any], str]] = []
    for unit, keys, needed in (("nodes", _NODE_KEYS, 3), ("edges", _EDGE_KEYS, 4)):
        for position, one in enumerate(given[unit]):
            where = f"{uri}: {unit}[{position}]"
            table = _need_keys(one, keys, where, keys[:needed])
            (owner,) = (
                _texts([table[keys[0]]], f"{where} {keys[0]}")
                if unit == "nodes"
                else [Relation.of(table[keys[0]])]
            )
            if owner in (nodes if isinstance(owner, str) else edges):
                raise ConfigError(
                    f"{where}: expected one table for each type, got a second one for "
                    f"{table[keys[0]]}. Join the tables."
                )
            prefix = "" if unit == "nodes" else "edge_"
            ends = _texts([table[key] for key in keys[1 : needed - 1]], f"{where} ids")
            options = dict(zip(_ENDS[unit], ends, strict=True))
            options |= _columns(table, prefix, where)
            found = InputTable(_files(table, folder, where), cast(ColumnOptions, options))
            if isinstance(owner, Relation):
                edges[owner] = found
            else:
                nodes[owner] = found
            labels += [(owner, label, where) for label in table.get("labels", [])]
    splits = _splits(nodes, edges, labels, folder, seed)
    source = TableSource(_with_train(nodes, splits), _with_train(edges, splits))
    return source.with_columns(splits)


def _with_train(tables: Mapping[_Owner, InputTable], splits: _Splits) -> dict[_Owner, InputTable]:
    """Return tables with the training rows of their only split, to which encoders are fitted."""
    found = dict(tables)
    for owner, table in tables.items():
        of_table = splits.get(_text(owner), {})
        if len(of_table) == 1:
            (split,) = of_table.values()
            found[owner] = replace(table, train=split.to_numpy() == 1)
    return found


def _splits(
    nodes: Mapping[str, InputTable],
    edges: Mapping[Relation, InputTable],
    labels: Sequence[tuple[str | Relation, Mapping[str, Any], str]],
    folder: Path,
    seed: int,
) -> _Splits:
    """Return the splits of labels by table and name, from the ids and labels only."""
    names: dict[str, dict[str, str]] = {}
    for owner, label, _ in labels:
        column = label["label_col"]
        names.setdefault(_text(owner), {})[f"label:{column}"] = column
    only = ColumnOptions(labels=[], splits=[])
    ends = ColumnOptions(edge_labels=[], edge_splits=[])
    source = TableSource(
        {
            n: InputTable(
                t.uri, cast(ColumnOptions, {**only, "id": t.options["id"]}), names.get(n, {})
            )
            for n, t in nodes.items()
        },
        {
            r: InputTable(
                t.uri,
                cast(ColumnOptions, {**ends, "src": t.options["src"], "dst": t.options["dst"]}),
                names.get(r.text, {}),
            )
            for r, t in edges.items()
        },
    )
    tables: dict[str | Relation, SourceTable] = {t.name: t.table for t in source.node_tables}
    tables |= {table.relation: table.table for table in source.edge_tables}
    splits: _Splits = {}
    for owner, label, where in labels:
        name = f"split:{label['label_col']}"
        of_table = splits.setdefault(_text(owner), {})
        if name in of_table:
            raise ConfigError(
                f"{where}: expected each label once, got {label['label_col']!r} twice. Leave one "
                "out."
            )
        of_table[name] = _split(tables[owner], label, folder, seed, f"{where} {name}")
    return splits


def _text(owner: str | Relation) -> str:
    return owner.text if isinstance(owner, Relation) else owner


def _need_keys(
    given: Any, known: Sequence[str], where: str, needed: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a JSON object, after checking that its keys are known and none is missing."""
    if not isinstance(given, dict):
        raise ConfigError(f"{where}: expected a JSON object, got {given!r}. Correct it.")
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}: expected keys among {', '.join(known)}, got {key!r}, which is not "
                "supported. Leave it out."
            )
    for key in needed:
        if key not in given:
            raise ConfigError(f"{where}: expected the key {key!r}, got none. Add it.")
    return given


def _list(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise ConfigError(f"{where}: expected a list, got {given!r}. Correct it.")
    return given


def _texts(given: Any, where: str) -> list[str]:
    """Return a text, or a list of texts, as a list."""
    texts = [given] if isinstance(given, str) else _list(given, where)
    for text in texts:
        if not isinstance(text, str):
            raise ConfigError(f"{where}: expected a text, got {text!r}. Correct it.")
    return texts


def _one_of(given: Any, known: Collection[Any], where: str, remedy: str) -> None:
    if given not in known:
        names = ", ".join(map(repr, known))
        raise ConfigError(
            f"{where}: expected one of {names}, got {given!r}, which is not supported. {remedy}"
        )


def _files(table: Mapping[str, Any], folder: Path, where: str) -> list[str]:
    """Return the paths of the files of a table, in natural order."""
    where = f"{where} format"
    form = _need_keys(table.get("format", {"name": "parquet"}), ("name", "separator"), where)
    _one_of(form.get("name"), _FORMATS, where, "Convert the files.")
    _one_of(form.get("separator", ","), _SEPARATORS, f"{where} separator", "Convert the files.")
    return _paths(table["files"], folder, where.replace("format", "files"))


def _paths(given: Any, folder: Path, where: str) -> list[str]:
    found: list[str] = []
    for one in _texts(given, where):
        paths = glob.glob(str(folder / one)) or glob.glob(one)
        if not paths:
            raise ConfigError(f"{where}: expected a path of files, got {one!r}. Correct it.")
        found += sorted(paths, key=natural_key)
    if not found:
        raise ConfigError(f"{where}: expected a path of files, got none. Add one.")
    return found


def _columns(table: Mapping[str, Any], prefix: str, where: str) -> dict[str, Any]:
    """Return the options of the features and labels of a table."""
    features: list[tuple[str, Number]] = []
    for feature in _list(table.get("features", []), f"{where} features"):
        title = f"{where} feature"
        given = _need_keys(feature, _FEATURE_KEYS, title, _FEATURE_KEYS[:1])
        transform = given.get("transform") or {"name": "no-op"}
        name = transform.get("name") if isinstance(transform, dict) else transform
        _one_of(name, ["no-op"], f"{title} transform", "Transform the column before.")
        _need_keys(transform, ("name",), f"{title} transform")
        names = _texts(given["feature_col"], f"{title} feature_col")
        features += [(column, Number()) for column in names]
    kinds = {}
    for label in _list(table.get("labels", []), f"{where} labels"):
        title = f"{where} label"
        given = _need_keys(label, _LABEL_KEYS, title, _LABEL_KEYS[1:2])
        task = given["task_type"]
        _one_of(task, list(_KINDS), f"{title} task_type", "Leave the label out.")
        (column,) = _texts([given.get("label_col")], f"{title} label_col")
        kinds[column] = _KINDS[task]
    options: dict[str, Any] = {f"{prefix}labels": list(kinds), "label_kinds": kinds}
    return options | ({f"{prefix}features": features} if features else {})


def _split(
    table: SourceTable, label: Mapping[str, Any], folder: Path, seed: int, where: str
) -> pa.Array:
    """Return the split of a label, drawn or from files of ids."""
    if "custom_split_filenames" in label:
        return _split_of_files(table, label["custom_split_filenames"], folder, where)
    pct = _list(label.get("split_pct", _DEFAULT_PCT), where)
    numbers = [p for p in pct if isinstance(p, int | float) and p >= 0]
    if len(pct) != 3 or len(numbers) != 3 or sum(numbers) > _SUM:
        raise ConfigError(
            f"{where}: expected split_pct of three fractions that sum to at most 1, got {pct}. "
            "Correct them."
        )
    known = _column(table, f"label:{label['label_col']}", _is_known)
    labelled = np.where(known.to_numpy(zero_copy_only=False), 0, -1)
    train, val = float(pct[0]), float(pct[1])
    split = random_split(len(labelled), labelled, train=train, val=val, seed=seed)
    share = min(float(sum(numbers)), 1.0)
    used = random_split(len(labelled), labelled, train=share, val=0.0, seed=seed)
    split[used != 1] = 0  # both order the rows by the same hash
    return pa.array(split)


def _is_known(values: pa.ChunkedArray) -> pa.ChunkedArray:
    known = values.is_valid()
    if pa.types.is_floating(values.type):
        known = pc.and_(known, pc.invert(pc.is_nan(values.fill_null(0))))
    return known


def _split_of_files(table: SourceTable, given: Any, folder: Path, where: str) -> pa.Array:
    files = _need_keys(given, _SPLIT_FILE_KEYS, where)
    if "id" not in table.schema.names:
        raise ConfigError(
            f"{where}: expected custom_split_filenames of nodes, got edges. Use split_pct."
        )
    ids, keys = _column(table, "id", lambda values: values), []
    for part in _SPLIT_FILE_KEYS[:3]:
        found = pa.array([], ids.type)
        if files.get(part):
            paths = _paths(files[part], folder, f"{where} {part}")
            found = _ids_in(paths, files.get("column", []), f"{where}: {part}")
        try:
            positions = pc.index_in(found.cast(ids.type), ids)
        except pa.ArrowException:
            title = f"{where}: {part}"
            raise refuse(title, f"{ids.type} ids", found.type, "Convert them.") from None
        if positions.null_count:
            odd = found.filter(positions.is_null())[0]
            raise refuse(f"{where}: {part}", "ids of the node table", odd, "Correct the file.")
        keys.append(positions.cast(pa.int64()).to_numpy())
    return pa.array(split_of_rows(keys, len(ids), where))


def _ids_in(paths: list[str], column: Any, where: str) -> pa.Array:
    """Return the ids in JSON files, or in a column of tables."""
    of_json = [path for path in paths if path.endswith(".json")]
    if of_json == paths:
        return _json_ids(paths)
    names = _texts(column, f"{where}: column")
    if of_json or len(names) != 1:
        got = f"{of_json[0]} and others" if of_json else repr(column)
        raise ConfigError(
            f"{where}: expected JSON files, or tables and the name of one column, got {got}. "
            "Correct it."
        )
    given = TableFiles(paths)
    need_column(names[0], given.names, given.uri)
    return whole(given.read(names)[names[0]])


def _json_ids(paths: list[str]) -> pa.Array:
    """Return the ids in JSON files, each of which has one on each line, or a list of them."""
    ids: list[Any] = []
    for path in paths:
        try:
            text = Path(path).read_text(encoding="utf-8").strip()
            lines = text.replace("\n", ",")
            ids += json.loads(text if text.startswith("[") else f"[{lines}]")
            kind = pa.array(ids).type
        except (OSError, ValueError, TypeError, OverflowError, RecursionError, pa.ArrowException):
            kind = "other values"
        if not isinstance(kind, pa.DataType) or not (
            is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)
        ):
            expected = "an id on each line as JSON, or a list of ids"
            raise refuse(path, expected, kind, "Correct the file.")
    return pa.array(ids)


def _column(
    table: SourceTable, name: str, change: Callable[[pa.ChunkedArray], pa.ChunkedArray]
) -> pa.Array:
    """Return a function of all values of a column, applied to chunks."""
    chunks = [change(rows[name]) for rows in table.chunks(0, table.num_rows, [name])]
    return pa.chunked_array([piece for chunk in chunks for piece in chunk.chunks]).combine_chunks()
