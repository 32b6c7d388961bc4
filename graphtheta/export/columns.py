"""Conversion of the columns of a store to tensors, or to Parquet where that is not possible.

Other systems store only tensors, without missing values. Numbers and booleans become tensors. In
labels, a missing class or boolean is -1 and a missing target NaN, as in `graphtheta.data.interop`.
The default split becomes three masks. All other columns are written to a Parquet table next to the
tensors: text, dates, and columns with missing values that are not labels.

Degrees and positions of edges are left out, because they can be computed from the graph.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import whole
from graphtheta.data.sparse import is_sparse
from graphtheta.errors import ConfigError
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy, column_valid

__all__ = ["RECORD", "Columns", "Survey", "folder_names", "survey", "write_record", "write_rest"]

RECORD = "graphtheta.json"
_MASKS = ("train_mask", "val_mask", "test_mask")
_LABEL, _SPLIT = "label:", "split:"
_KEPT = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}
_WIDENED = {"uint16": "int32", "uint32": "int64"}  # torch has few unsigned types


@dataclass(frozen=True, slots=True)
class Columns:
    """Conversion of the columns of nodes or edges of a store, the same for every part.

    Attributes:
        names: Name of the tensor, by the column that becomes a tensor.
        incomplete: Label columns with missing values in some part.
        masked: Split column that becomes `train_mask`, `val_mask` and `test_mask`, or None.
        rest: Columns that do not become tensors.
    """

    names: Mapping[str, str]
    incomplete: frozenset[str]
    masked: str | None
    rest: tuple[str, ...]

    def arrays(self, table: pa.Table) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the name and the values of each tensor, one at a time.

        Shape:
            Each (rows,) or (rows, width); a view of the table if no value changes.
        """
        for column, name in self.names.items():
            yield name, self._values(table, column)
        if self.masked is not None:
            split = column_numpy(table, self.masked)
            for value, mask in enumerate(_MASKS, start=1):
                yield mask, split == value

    def _values(self, table: pa.Table, column: str) -> NDArray[Any]:
        values = column_numpy(table, column)
        if column not in self.incomplete:
            return values.astype(_WIDENED.get(values.dtype.name, values.dtype), copy=False)
        # The type must be the same in every part, also in parts without missing values.
        floating = values.ndim == 2 or values.dtype.kind == "f"
        filled = np.array(values, np.float32 if floating else np.int64)
        valid = column_valid(table, column)
        if valid is not None:
            filled[~valid] = np.nan if floating else -1
        return filled


@dataclass(frozen=True, slots=True)
class Survey:
    """Properties of all parts of a store.

    Attributes:
        nodes: Columns of the masters of each node type.
        edges: Columns of the edges of each relation.
        num_edge_keys: Largest edge_key plus one; 0 if there are no edges. With several relations,
            the number of rows of their tables.
    """

    nodes: tuple[Columns, ...]
    edges: tuple[Columns, ...]
    num_edge_keys: int


def survey(store: Store, nodes: Mapping[str, str], edges: Mapping[str, str]) -> Survey:
    """Determine from all parts of a store how its columns are converted.

    This reads the numbers of missing values, which are in the headers of the files, and the edge
    keys.

    Args:
        store: The store.
        nodes: Names of node columns in the other system: of `features`, and of `label`, which is
            the label `y` or the only label. Other columns keep their names, with `_` for `:`.
        edges: Names of the edge columns `attr`, `type`, `weight` and `label` in the other system.

    Raises:
        ConfigError: If two columns would get the same name.
    """
    manifest = store.manifest
    types = [f"nodes of {of_type.name}" for of_type in manifest.node_types]
    relations = [f"edges of {spec.relation.text}" for spec in manifest.relations]
    num_edge_keys = 0
    if manifest.is_typed:
        num_edge_keys = manifest.relations[-1].first_key + manifest.relations[-1].count
    else:
        types, relations = ["nodes"], ["edges"]
    missing: dict[str, set[str]] = {owner: set() for owner in types + relations}
    tables: dict[str, pa.Table] = {}
    for index in range(store.num_parts):
        part = store.part(index)
        tables |= {owner: part.masters_of(i) for i, owner in enumerate(types)}
        tables |= {owner: part.in_edges_of(i) for i, owner in enumerate(relations)}
        for owner, table in tables.items():
            missing[owner] |= {name for name in table.column_names if _num_missing(table[name])}
        if part.num_edges:
            last = int(column_numpy(part.in_edges, "edge_key").max())
            num_edge_keys = max(num_edge_keys, last + 1)

    def of(owners: list[str], left_out: set[str], given: Mapping[str, str]) -> tuple[Columns, ...]:
        return tuple(_columns(o, tables[o], left_out, missing[o], given) for o in owners)

    return Survey(
        of(types, {"in_degree", "out_degree"}, nodes),
        of(relations, {"src", "in_position"}, edges),
        num_edge_keys,
    )


def folder_names(store: Store) -> tuple[list[str], list[str]]:
    """Return the names of the node types and of the relations as folders of a typed graph.

    Empty texts without types, so that files are where they were before there were types.
    """
    manifest = store.manifest
    if not manifest.is_typed:
        return [""], [""]
    types = [of_type.name for of_type in manifest.node_types]
    return types, [spec.relation.text for spec in manifest.relations]


def write_record(store: Store, found: Survey, folder: Path) -> None:
    """Write the manifest of the store and the names of all columns in the other system.

    In a typed graph, columns are by node type and by relation.
    """

    def columns(of: Columns) -> dict[str, Any]:
        return {
            "tensors": dict(of.names),
            "masks": of.masked,
            "parquet": list(of.rest),
            "missing_is_-1_or_nan": sorted(of.incomplete),
        }

    manifest = store.manifest
    record: dict[str, Any] = {"manifest": manifest.model_dump(mode="json")}
    types, relations = folder_names(store)
    for kind, names, of_kind in (("node", types, found.nodes), ("edge", relations, found.edges)):
        by_name = {name: columns(of) for name, of in zip(names, of_kind, strict=True)}
        record[f"{kind}_columns"] = by_name if manifest.is_typed else by_name[""]
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def write_rest(columns: Columns, table: pa.Table, key: str, path: Path) -> None:
    """Write the column `key` and the columns that are not tensors, if there are any."""
    import pyarrow.parquet as pq

    if columns.rest:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.select([key, *columns.rest]), path)


def _columns(
    kind: str, table: pa.Table, left_out: set[str], missing: set[str], given: Mapping[str, str]
) -> Columns:
    types = {f.name: f.type for f in table.schema if f.name not in left_out}
    labels, splits = ([n for n in types if n.startswith(p)] for p in (_LABEL, _SPLIT))
    default = _default(labels, _LABEL + "y")
    masked = _default(splits, _SPLIT + "split")
    names, rest = {}, []
    for column, of in types.items():
        if not _is_tensor(of) or (column in missing and column not in labels):
            rest.append(column)
        elif column != masked:
            named = given.get("label" if column == default else column, column)
            names[column] = re.sub(r"[^\w.-]", "_", named)
    taken = dict.fromkeys(_MASKS, masked) if masked else {}
    for column, name in names.items():
        if name in taken:
            raise ConfigError(
                f"export: expected different names for the columns of {kind}, got {name!r} "
                f"for {taken[name]!r} and {column!r}. Rename one, and partition again."
            )
        taken[name] = column
    return Columns(names, frozenset(missing & names.keys()), masked, tuple(rest))


def _default(columns: list[str], usual: str) -> str | None:
    if usual in columns:
        return usual
    return columns[0] if len(columns) == 1 else None


def _is_tensor(kind: pa.DataType) -> bool:
    if is_sparse(kind):
        return True  # dense there: their files have no sparse tensors
    value = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    if not (pa.types.is_primitive(value) and not pa.types.is_temporal(value)):
        return False
    return str(np.dtype(value.to_pandas_dtype())) in _KEPT | _WIDENED.keys()


def _num_missing(column: pa.ChunkedArray) -> int:
    missing = int(column.null_count)
    if pa.types.is_fixed_size_list(column.type) and len(column):
        missing += int(whole(column).values.null_count)
    return missing
