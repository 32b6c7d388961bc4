"""The index of a store: from a node key or an original id to the new id.

There are as many buckets as parts, and the rank that builds a part writes the bucket of the same
number. Bucket b of the node keys is the dense array of new ids of keys [N * b // P,
N * (b + 1) // P). Bucket b of the original ids has the ids whose hash is b modulo P, sorted by
hash. Look-ups map the buckets they touch; nothing is read whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from graphtheta.columns import refuse, some, whole
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import GraphFormatError
from graphtheta.partition.blocks import block_of
from graphtheta.partition.builders import PART, move_to_builders, own_parts, rows_by_part
from graphtheta.partition.columns import column_numpy, contiguous
from graphtheta.partition.files import open_table, write_folder
from graphtheta.partition.ids import hash_ids
from graphtheta.partition.manifest import Manifest

if TYPE_CHECKING:
    from graphtheta.partition.build import Build

__all__ = ["BUCKET_RECORD", "Index", "bucket_folder", "write_index"]

BUCKET_RECORD = "bucket.json"


def bucket_folder(path: Path, bucket: int) -> Path:
    """Return the folder of a bucket of the index of the store at `path`."""
    return path / "index" / f"bucket-{bucket:05d}"


def write_index(build: Build, path: Path, comm: Communicator) -> None:
    """Write this rank's buckets; collective.

    Communication:
        20 bytes for each node, and again with its id.
    """
    num_nodes, num_parts = build.manifest.num_nodes, build.manifest.num_parts
    masters = _masters(build)
    key_bucket = block_of(column_numpy(masters, "node_key"), num_nodes, num_parts)
    by_key = masters.select(["node_key", "new_id"]).append_column(PART, [key_bucket])
    by_key = move_to_builders(by_key, num_parts, comm, stage="index of node keys")

    hashes = hash_ids(whole(masters["original_id"]))
    by_id = masters.select(["original_id", "new_id"]).append_column("hash", [hashes])
    by_id = by_id.append_column(PART, [(hashes % np.uint64(num_parts)).astype(np.int64)])
    by_id = move_to_builders(by_id, num_parts, comm, stage="index of original ids")

    buckets = own_parts(num_parts, comm)
    rows_by_key, rows_by_id = rows_by_part(by_key, buckets), rows_by_part(by_id, buckets)
    for bucket in buckets:
        tables = {
            "node_key": _sorted(by_key, rows_by_key[bucket], ["node_key"], ["new_id"]),
            "original_id": _sorted(
                by_id, rows_by_id[bucket], ["hash", "new_id"], ["hash", "original_id", "new_id"]
            ),
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
            GraphFormatError: If a key is not in [0, N).

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
            GraphFormatError: If an id is unknown or of another type.

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


def _masters(build: Build) -> pa.Table:
    """Return node_key, original_id and new_id of the masters of this rank's parts."""
    schema = pa.schema(
        [
            ("node_key", pa.int64()),
            ("original_id", pa.type_for_alias(build.manifest.id_type)),
            ("new_id", pa.int64()),
        ]
    )
    tables = [schema.empty_table()]
    for index, part in build.parts.items():
        first = int(build.book.first_new_id[index])
        new_id = np.arange(first, first + part.num_masters, dtype=np.int64)
        keys = part.masters.select(["node_key", "original_id"])
        tables.append(keys.append_column("new_id", [new_id]))
    return contiguous(pa.concat_tables(tables))


def _sorted(
    table: pa.Table, rows: NDArray[np.int64], by: list[str], columns: list[str]
) -> pa.Table:
    keys = [column_numpy(table, name)[rows] for name in reversed(by)]
    return contiguous(table.select(columns).take(pa.array(rows[np.lexsort(keys)])))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _unknown(path: Path, expected: str, got: list[Any]) -> GraphFormatError:
    return refuse(
        f"{path}: index", expected, f"unknown {some(got, len(got))}", "Look up nodes of this graph."
    )
