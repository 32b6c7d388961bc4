"""The index of a store: from a node key or an original id to the new id.

There are as many buckets as parts. Bucket b of the node keys is the dense array of new ids of keys
[N * b // P, N * (b + 1) // P). Bucket b of the original ids has the ids whose hash is b modulo P,
sorted by hash. Look-ups map the buckets they touch; nothing is read whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.data.schema import refuse, some, whole
from graphtheta.errors import GraphFormatError, UnknownNode
from graphtheta.partition.ooc.spill import SpillReader, SpillWriter, bucket_order
from graphtheta.partition.store.files import open_table, write_folder
from graphtheta.partition.store.id_hash import hash_ids
from graphtheta.partition.store.manifest import Manifest
from graphtheta.partition.store.tables import column_numpy, contiguous

__all__ = ["BUCKET_RECORD", "Index", "block_of", "bucket_folder", "spill_ids", "write_bucket"]

BUCKET_RECORD = "bucket.json"


def block_of(keys_R: NDArray[np.int64], total: int, num_blocks: int) -> NDArray[np.int64]:
    """Return which block [total * b // num_blocks, total * (b + 1) // num_blocks) has each key."""
    # The largest b with total * b // num_blocks <= key.
    return ((keys_R + 1) * num_blocks - 1) // total


def bucket_folder(path: Path, bucket: int) -> Path:
    """Return the folder of a bucket of the index of the store at `path`."""
    return path / "index" / f"bucket-{bucket:05d}"


def spill_ids(
    writer: SpillWriter, part: int, masters: pa.Table, first_new_id: int, num_parts: int
) -> None:
    """Send the original ids of a part's masters, with their new ids, to their buckets."""
    ids = whole(masters["original_id"])
    hashes = hash_ids(ids)
    order, starts = bucket_order((hashes % np.uint64(num_parts)).astype(np.int64), num_parts)
    new_ids = np.arange(first_new_id, first_new_id + len(ids), dtype=np.int64)
    rows = pa.record_batch({"hash": hashes, "original_id": ids, "new_id": new_ids})
    writer.append(part, rows.take(pa.array(order)), starts)


def write_bucket(path: Path, bucket: int, spill: SpillReader, new_ids_B: NDArray[np.int64]) -> None:
    """Write one bucket of the index of the store that is being made at `path`.

    Args:
        path: The store.
        bucket: Which bucket.
        spill: Where `spill_ids` wrote.
        new_ids_B: New ids of the bucket's node keys, in the order of the keys.
    """
    slices = [rows for _, rows in spill.read(bucket)]
    table = contiguous(pa.Table.from_batches(slices, schema=spill.schema))
    by_hash = np.argsort(column_numpy(table, "hash"), kind="stable")  # new ids ascend already
    tables = {
        "node_key": pa.table({"new_id": new_ids_B}),
        "original_id": contiguous(table.take(pa.array(by_hash))),
    }
    write_folder(bucket_folder(path, bucket), BUCKET_RECORD, tables, part=bucket)


@dataclass(frozen=True, slots=True)
class Index:
    """Look-ups in the index of one store, by one reader.

    Attributes:
        path: The store.
        manifest: Its manifest.
    """

    path: Path
    manifest: Manifest

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
            table = open_table(bucket_folder(self.path, b) / "node_key.arrow")
            dense = column_numpy(table, "new_id")
            new_ids[rows] = dense[keys[rows] - num_nodes * b // num_parts]
        return new_ids

    def new_ids(self, original_ids: Sequence[Any] | NDArray[Any] | pa.Array) -> NDArray[np.int64]:
        """Return the new id of each original id.

        Raises:
            GraphFormatError: If ids are of another type.
            UnknownNode: If an id is unknown.

        Shape:
            original_ids: R ids. Returns (R,) int64.
        """
        ids = self._typed(original_ids)
        hashes = hash_ids(ids)
        bucket = hashes % np.uint64(self.manifest.num_parts)
        new_ids = np.full(len(ids), -1, np.int64)
        for b in np.unique(bucket).tolist():
            rows = np.flatnonzero(bucket == b)
            table = open_table(bucket_folder(self.path, b) / "original_id.arrow")
            new_ids[rows] = _find(table, ids.take(pa.array(rows)), hashes[rows])
        unknown = np.flatnonzero(new_ids < 0)
        if unknown.shape[0]:
            raise _unknown(self.path, "known ids", ids.take(pa.array(unknown)).to_pylist())
        return new_ids

    def _typed(self, ids: Sequence[Any] | NDArray[Any] | pa.Array) -> pa.Array:
        id_type = pa.type_for_alias(self.manifest.id_type)
        try:
            array = ids if isinstance(ids, pa.Array) else pa.array(ids)
            typed = array.cast(id_type) if len(array) else pa.array([], id_type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
            typed = None
        # Only integers name integers: 1 is not "1".
        if typed is None or (len(typed) and _is_text(array.type) != _is_text(id_type)):
            raise refuse(
                f"{self.path}: ids", f"values of type {id_type}", "others", "Convert them."
            )
        return typed


def _find(table: pa.Table, ids: pa.Array, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the new id of each id, -1 if it is not in the bucket."""
    sorted_hash, new_id = column_numpy(table, "hash"), column_numpy(table, "new_id")
    known = whole(table["original_id"])
    found = np.full(len(ids), -1, np.int64)
    place, rows = np.searchsorted(sorted_hash, hashes), np.arange(len(ids))
    while rows.shape[0]:  # more than once only where two ids share a hash
        inside = place < len(known)
        place, rows = place[inside], rows[inside]
        equal_hash = sorted_hash[place] == hashes[rows]
        place, rows = place[equal_hash], rows[equal_hash]
        same = pc.equal(known.take(pa.array(place)), ids.take(pa.array(rows)))
        hit = same.to_numpy(zero_copy_only=False).astype(np.bool_)
        found[rows[hit]] = new_id[place[hit]]
        place, rows = place[~hit] + 1, rows[~hit]
    return found


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _unknown(path: Path, expected: str, got: list[Any]) -> GraphFormatError:
    return UnknownNode(
        f"{path}: index: expected {expected}, got unknown {some(got, len(got))}. "
        "Look up nodes of this graph."
    )
