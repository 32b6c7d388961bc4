"""How the columns of a store leave it: as tensors, or in tables where no tensor can say them.

Other systems hold tensors only, without missing values. Numbers and booleans become tensors. Of
labels, a missing class or boolean is -1 and a missing target NaN, as in `graphtheta.data.interop`.
The default split becomes three masks. Everything else goes into a Parquet table beside the tensors:
text, dates, and columns other than labels in which something is missing.

What follows from the rest is left out: degrees, and the positions of edges.
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
from graphtheta.errors import ConfigError
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy, column_valid

__all__ = ["RECORD", "Columns", "Survey", "survey", "write_record", "write_rest"]

RECORD = "graphtheta.json"
_MASKS = ("train_mask", "val_mask", "test_mask")
_LABEL, _SPLIT = "label:", "split:"
_KEPT = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}
_WIDENED = {"uint16": "int32", "uint32": "int64"}  # torch knows few unsigned types


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of the nodes or edges of a store, the same for every part.

    Attributes:
        names: What each column that becomes a tensor is called there.
        incomplete: The labels of which some are missing, in whichever part.
        masked: The split that becomes `train_mask`, `val_mask` and `test_mask`; None if none does.
        rest: The columns that become no tensor.
    """

    names: Mapping[str, str]
    incomplete: frozenset[str]
    masked: str | None
    rest: tuple[str, ...]

    def arrays(self, table: pa.Table) -> Iterator[tuple[str, NDArray[Any]]]:
        """Yield the name and the values of each tensor, one at a time.

        Shape:
            Each (rows,) or (rows, width). Views of the table where no value had to change.
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
        # The same type in every part, also in one that misses nothing.
        floating = values.ndim == 2 or values.dtype.kind == "f"
        filled = np.array(values, np.float32 if floating else np.int64)
        valid = column_valid(table, column)
        if valid is not None:
            filled[~valid] = np.nan if floating else -1
        return filled


@dataclass(frozen=True, slots=True)
class Survey:
    """What one look at all parts tells.

    Attributes:
        nodes: The columns of the masters.
        edges: The columns of the edges.
        num_edge_keys: Largest edge_key plus one; 0 without edges.
    """

    nodes: Columns
    edges: Columns
    num_edge_keys: int


def survey(store: Store, nodes: Mapping[str, str], edges: Mapping[str, str]) -> Survey:
    """Look at all parts, one by one, and say what becomes of their columns.

    Reads how many values are missing, which the files' headers say, and the edge keys.

    Args:
        store: The store.
        nodes: Names that the other system has for columns of the nodes: `features`, and `label`
            for the label `y`, or else the only one. Others keep theirs, `:` becoming `_`.
        edges: Likewise for `attr`, `type`, `weight` and `label` of the edges.

    Raises:
        ConfigError: If two columns would get one name.
    """
    missing: dict[str, set[str]] = {"nodes": set(), "edges": set()}
    num_edge_keys = 0
    part = store.part(0)
    for index in range(store.num_parts):
        part = store.part(index)
        for kind, table in (("nodes", part.masters), ("edges", part.in_edges)):
            missing[kind] |= {name for name in table.column_names if _num_missing(table[name])}
        if part.num_edges:
            last = int(column_numpy(part.in_edges, "edge_key").max())
            num_edge_keys = max(num_edge_keys, last + 1)
    return Survey(
        _columns("nodes", part.masters, {"in_degree", "out_degree"}, missing["nodes"], nodes),
        _columns("edges", part.in_edges, {"src", "in_position"}, missing["edges"], edges),
        num_edge_keys,
    )


def write_record(store: Store, found: Survey, folder: Path) -> None:
    """Write what a reader of the folder may want to know: the manifest, and who is called what."""
    columns = {
        f"{kind}_columns": {
            "tensors": dict(of.names),
            "masks": of.masked,
            "parquet": list(of.rest),
            "missing_is_-1_or_nan": sorted(of.incomplete),
        }
        for kind, of in (("node", found.nodes), ("edge", found.edges))
    }
    record = {"manifest": store.manifest.model_dump(mode="json"), **columns}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def write_rest(columns: Columns, table: pa.Table, key: str, path: Path) -> None:
    """Write the columns that become no tensor beside the column `key`; nothing if all become."""
    import pyarrow.parquet as pq

    if columns.rest:
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
                f"export: expected names of their own for the columns of the {kind}, got {name!r} "
                f"for {taken[name]!r} and {column!r}. Rename one, and partition again."
            )
        taken[name] = column
    return Columns(names, frozenset(missing & names.keys()), masked, tuple(rest))


def _default(columns: list[str], usual: str) -> str | None:
    if usual in columns:
        return usual
    return columns[0] if len(columns) == 1 else None


def _is_tensor(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    if not (pa.types.is_primitive(value) and not pa.types.is_temporal(value)):
        return False
    return str(np.dtype(value.to_pandas_dtype())) in _KEPT | _WIDENED.keys()


def _num_missing(column: pa.ChunkedArray) -> int:
    missing = int(column.null_count)
    if pa.types.is_fixed_size_list(column.type) and len(column):
        missing += int(whole(column).values.null_count)
    return missing
