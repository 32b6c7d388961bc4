"""Index of a store: maps node keys and original ids to new ids.

The index has as many buckets as the store has parts. For node keys, bucket b is the dense array of
the new ids of keys [N * b // P, N * (b + 1) // P). For the original ids of a node type, bucket b
has the ids whose hash is b modulo P, sorted by hash. A look-up maps the buckets that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.schema import refuse, whole
from graphtheta.errors import GraphFormatError, UnknownNode
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter, bucket_order
from graphtheta.partition.store.files import (
    FolderRecord,
    check_folder,
    damaged,
    open_table,
    write_folder,
)
from graphtheta.partition.store.id_hash import hash_ids
from graphtheta.partition.store.manifest import Manifest
from graphtheta.partition.store.tables import column_numpy, contiguous
from graphtheta.wording import some

__all__ = ["BUCKET_RECORD", "Index", "block_of", "bucket_folder", "spill_ids", "write_bucket"]

BUCKET_RECORD = "bucket.json"
_NEW_ID = ("new_id", pa.int64())


def block_of(keys_R: NDArray[np.int64], total: int, num_blocks: int) -> NDArray[np.int64]:
    """Return the block that contains each key.

    Block b is the range [total * b // num_blocks, total * (b + 1) // num_blocks).
    """
    # The largest b with total * b // num_blocks <= key.
    return ((keys_R + 1) * num_blocks - 1) // total


def bucket_folder(path: Path, bucket: int) -> Path:
    """Return the folder of a bucket of the index in the directory of a store."""
    return path / "index" / f"bucket-{bucket:05d}"


def spill_ids(
    writer: SpillWriter, part: int, ids: pa.Array, new_ids: NDArray[np.int64], num_parts: int
) -> None:
    """Spill the original ids of a part's masters of one type, with their new ids, to buckets."""
    hashes = hash_ids(ids)
    order, starts = bucket_order((hashes % np.uint64(num_parts)).astype(np.int64), num_parts)
    rows = pa.record_batch({"hash": hashes, "original_id": ids, "new_id": new_ids})
    writer.append(part, rows.take(pa.array(order)), starts)


def write_bucket(
    path: Path, bucket: int, spills: Sequence[SpillReader], new_ids_B: NDArray[np.int64]
) -> None:
    """Write one bucket of the index of a store.

    Args:
        path: Directory of the store.
        bucket: Number of the bucket.
        spills: For each node type, the spill that `spill_ids` wrote.
        new_ids_B: New ids of the node keys of the bucket, in the order of the keys.
    """
    tables = {"node_key": pa.table({"new_id": new_ids_B})}
    for i, spill in enumerate(spills):
        slices = [rows for _, rows in spill.read(bucket)]
        table = contiguous(pa.Table.from_batches(slices, schema=spill.schema))
        # Stable: ids with the same hash stay in the order of their new ids.
        by_hash = np.argsort(column_numpy(table, "hash"), kind="stable")
        tables[f"original_id-{i}"] = contiguous(table.take(pa.array(by_hash)))
    write_folder(bucket_folder(path, bucket), BUCKET_RECORD, tables, part=bucket)


@dataclass(frozen=True, slots=True)
class Index:
    """Index of an opened store. It keeps the tables that it has mapped and checked.

    Attributes:
        path: Directory of the store.
        manifest: Manifest of the store.
    """

    path: Path
    manifest: Manifest
    _tables: dict[tuple[int, str], pa.Table] = field(default_factory=dict, compare=False)

    def check(self, bucket: int) -> FolderRecord:
        """Return the record of a bucket after checking the sizes of its files.

        Raises:
            StoreError: If a file is missing or its size is wrong.
        """
        return check_folder(bucket_folder(self.path, bucket), BUCKET_RECORD, bucket, self._names())

    def verify(self, bucket: int) -> None:
        """Check the content of a bucket.

        Raises:
            StoreError: If a file is missing or was changed; the message names it.
        """
        for name in self._names():
            self._table(bucket, name)

    def _names(self) -> list[str]:
        num_types = len(self.manifest.node_types)
        return ["node_key", *(f"original_id-{i}" for i in range(num_types))]

    def _table(self, bucket: int, name: str) -> pa.Table:
        """Return a table of a bucket. It is checked when it is first used."""
        key = bucket, name
        if key not in self._tables:
            path = bucket_folder(self.path, bucket) / f"{name}.arrow"
            table = open_table(path, self.check(bucket).files[path.name])
            self._check(table, bucket, name, path)
            self._tables[key] = table
        return self._tables[key]

    def _check(self, table: pa.Table, bucket: int, name: str, path: Path) -> None:
        num_nodes, num_parts = self.manifest.num_nodes, self.manifest.num_parts
        if name == "node_key":
            schema = pa.schema([_NEW_ID])
            rows = num_nodes * (bucket + 1) // num_parts - num_nodes * bucket // num_parts
            if table.num_rows != rows:
                raise damaged(path, f"{rows:,} rows", f"{table.num_rows:,}")
        else:
            of_type = self.manifest.node_types[int(name.removeprefix("original_id-"))]
            id_type = pa.type_for_alias(of_type.id_type)
            schema = pa.schema([("hash", pa.uint64()), ("original_id", id_type), _NEW_ID])
        if table.schema != schema or any(column.null_count for column in table.columns):
            raise damaged(path, f"columns {', '.join(schema.names)}", f"{table.schema.names}")
        new_id = column_numpy(table, "new_id")
        if len(new_id) and not 0 <= new_id.min() <= new_id.max() < num_nodes:
            raise damaged(path, f"new ids in [0, {num_nodes:,})", "others")

    def new_ids_of_keys(self, node_keys_R: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the new id of each node key.

        Raises:
            UnknownNode: If a key is not in [0, N).

        Shape:
            node_keys_R: (R,) integers. Returns (R,) int64.
        """
        keys = np.asarray(node_keys_R, np.int64)
        num_nodes, num_parts = self.manifest.num_nodes, self.manifest.num_parts
        outside = keys[(keys < 0) | (keys >= num_nodes)]
        if outside.shape[0]:
            raise _unknown(self.path, f"node keys in [0, {num_nodes:,})", outside.tolist())
        bucket = block_of(keys, num_nodes, num_parts)
        new_ids = np.empty(keys.shape[0], np.int64)
        for b in np.unique(bucket).tolist():
            rows = np.flatnonzero(bucket == b)
            dense = column_numpy(self._table(b, "node_key"), "new_id")
            new_ids[rows] = dense[keys[rows] - num_nodes * b // num_parts]
        return new_ids

    def new_ids(
        self,
        original_ids: Sequence[Any] | NDArray[Any] | pa.Array,
        node_type: str | None = None,
    ) -> NDArray[np.int64]:
        """Return the new id of each original id.

        Args:
            original_ids: R ids.
            node_type: Type of the nodes. If None, the only type of the graph.

        Raises:
            ConfigError: If there is no such type, or several and `node_type` is None.
            GraphFormatError: If the ids have the wrong type.
            UnknownNode: If an id is unknown.

        Shape:
            Returns (R,) int64.
        """
        position = self.manifest.position_of_type(node_type)
        ids = self._typed(
            original_ids, pa.type_for_alias(self.manifest.node_type(node_type).id_type)
        )
        hashes = hash_ids(ids)
        bucket = hashes % np.uint64(self.manifest.num_parts)
        new_ids = np.full(len(ids), -1, np.int64)
        for b in np.unique(bucket).tolist():
            rows = np.flatnonzero(bucket == b)
            table = self._table(b, f"original_id-{position}")
            new_ids[rows] = _find(table, ids.take(pa.array(rows)), hashes[rows])
        unknown = np.flatnonzero(new_ids < 0)
        if unknown.shape[0]:
            raise _unknown(self.path, "known ids", ids.take(pa.array(unknown)).to_pylist())
        return new_ids

    def _typed(
        self, ids: Sequence[Any] | NDArray[Any] | pa.Array, id_type: pa.DataType
    ) -> pa.Array:
        try:
            array = ids if isinstance(ids, pa.Array) else pa.array(ids)
            typed = array.cast(id_type) if len(array) else pa.array([], id_type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            typed = None
        # The cast would turn the text "1" into the integer 1.
        if typed is None or (len(typed) and _is_text(array.type) != _is_text(id_type)):
            raise refuse(
                f"{self.path}: ids", f"values of type {id_type}", "another type", "Convert them."
            )
        return typed


def _find(table: pa.Table, ids: pa.Array, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the new id of each id in the table of a bucket, or -1 for an unknown id."""
    sorted_hash, new_id = column_numpy(table, "hash"), column_numpy(table, "new_id")
    known = whole(table["original_id"])
    found = np.full(len(ids), -1, np.int64)
    position, rows = np.searchsorted(sorted_hash, hashes), np.arange(len(ids))
    while rows.shape[0]:  # repeats only if different ids have the same hash
        inside = position < len(known)
        position, rows = position[inside], rows[inside]
        equal_hash = sorted_hash[position] == hashes[rows]
        position, rows = position[equal_hash], rows[equal_hash]
        same = pc.equal(known.take(pa.array(position)), ids.take(pa.array(rows)))
        hit = same.to_numpy(zero_copy_only=False).astype(np.bool_)
        found[rows[hit]] = new_id[position[hit]]
        position, rows = position[~hit] + 1, rows[~hit]
    return found


def _is_text(id_type: pa.DataType) -> bool:
    return bool(pa.types.is_string(id_type) or pa.types.is_large_string(id_type))


def _unknown(path: Path, expected: str, got: list[Any]) -> GraphFormatError:
    return UnknownNode(
        f"{path}: index: expected {expected}, got unknown {some(got, len(got))}. "
        "Look up nodes of this graph."
    )
