"""Lookup of nodes: from original ids or node keys to new ids, at the servers of the index."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.engine.client.connection import Connection
from graphtheta.engine.client.responses import answer_of, check_range, check_table, wrong
from graphtheta.engine.client.server_pool import ServerPool
from graphtheta.engine.wire.chunks import decode_response
from graphtheta.engine.wire.tables import encode_columns
from graphtheta.errors import ConfigError, GraphFormatError, UnknownNode
from graphtheta.partition import Manifest
from graphtheta.partition.store.id_hash import hash_ids
from graphtheta.partition.store.index import block_of
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["IdKind", "as_integers", "look_up"]

IdKind = Literal["original_id", "node_key", "new_id"]
_Ids = NDArray[np.int64]


def look_up(pool: ServerPool, ids: Any, by: IdKind, node_type: str | None = None) -> _Ids:
    """Return the new ids of nodes.

    Args:
        pool: The servers.
        ids: R ids.
        by: Kind of the ids.
        node_type: Type of the nodes. If None, the only type for original ids, any for others.

    Shape:
        Returns (R,).

    Raises:
        ConfigError: If `by` is no kind of ids, or there is no such type, or original ids are given
            without a type in a graph of several.
        GraphFormatError: If ids are of another type.
        UnknownNode: If there is no such node.
    """
    manifest = pool.router.manifest
    if by == "new_id":
        return _checked(ids, "new ids", manifest)
    if by == "node_key":
        keys = pa.array(_checked(ids, "node keys", manifest, node_type))
        bucket = block_of(keys.to_numpy(), max(1, manifest.num_nodes), manifest.num_parts)
        naming = messages.NAMING_NODE_KEY
    elif by == "original_id":
        keys = _original_ids(ids, manifest, node_type)
        bucket = (hash_ids(keys) % np.uint64(manifest.num_parts)).astype(np.int64)
        naming = messages.NAMING_ORIGINAL_ID
    else:
        raise ConfigError(f"by: expected original_id, node_key or new_id, got {by!r}.")
    name = node_type or ""
    mean_bytes = int(keys.nbytes // max(1, len(keys)))
    jobs = []
    for connection, rows in pool.split(bucket, max(1, mean_bytes // 8)):
        data = encode_columns(id=keys.take(pa.array(rows)))
        jobs.append(
            (connection, messages.LookupRequest(ids=data, naming=naming, node_type=name), rows)
        )
    new_ids = np.empty(len(keys), np.int64)
    deadline = pool.deadline()

    def call(connection: Connection, request: messages.LookupRequest, rows: _Ids) -> None:
        received = connection.stream("Lookup", request, deadline)
        with answer_of(connection.address):
            tables = [chunk.table for chunk in decode_response(received) if chunk.table is not None]
            for table in tables:
                check_table(table, {"new_id": pa.int64()})
            found = np.concatenate([as_numpy(table["new_id"]) for table in tables] or [rows[:0]])
            if len(found) != len(rows):
                raise wrong(f"{len(rows):,} new ids", f"{len(found):,}")
            check_range(found, manifest.num_nodes, "new ids")
        new_ids[rows] = found

    pool.run(call, jobs)
    return new_ids


def as_integers(values: Any, what: str) -> _Ids:
    """Return a list of integers as an int64 array.

    Args:
        values: R integers.
        what: Name of the values in error messages.

    Shape:
        Returns (R,).

    Raises:
        GraphFormatError: If the values are not a list of integers.
    """
    array = np.asarray(values)
    if array.ndim != 1 or (array.dtype.kind not in "iu" and len(array)):
        raise GraphFormatError(
            f"{what}: expected a list of integers, got {array.dtype} of shape {array.shape}."
        )
    if array.dtype.kind == "u" and len(array) and array.max() > np.iinfo(np.int64).max:
        raise GraphFormatError(f"{what}: expected integers of 64 bits, got {array.max()}.")
    return np.ascontiguousarray(array, np.int64)


def _checked(ids: Any, what: str, manifest: Manifest, node_type: str | None = None) -> _Ids:
    array, first, last = as_integers(ids, what), 0, manifest.num_nodes
    if node_type is not None:
        of_type = manifest.node_type(node_type)
        first, last = of_type.first_key, of_type.first_key + of_type.count
    if len(array) and not first <= array.min() <= array.max() < last:
        unknown = array[(array < first) | (array >= last)][0]
        raise UnknownNode(
            f"{what}: expected integers in [{first:,}, {last:,}), got {unknown}. Look up nodes of "
            f"{'this graph' if node_type is None else f'the type {node_type}'}."
        )
    return array


def _original_ids(ids: Any, manifest: Manifest, node_type: str | None) -> pa.Array:
    kind = pa.type_for_alias(manifest.node_type(node_type).id_type)
    try:
        if isinstance(ids, str | bytes):  # which Arrow takes as a list of letters
            raise TypeError
        if isinstance(ids, np.ndarray) and not ids.dtype.isnative:
            ids = ids.astype(ids.dtype.newbyteorder("="))
        array = ids if isinstance(ids, pa.Array) else pa.array(ids)
        if pa.types.is_null(array.type) and not len(array):
            return pa.array([], kind)
        if array.null_count or pa.types.is_boolean(array.type):
            raise TypeError
        if pa.types.is_string(kind) != pa.types.is_string(array.type):
            raise TypeError
        return array.cast(kind)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        raise GraphFormatError(
            f"ids: expected a list of values of type {kind}, as in the graph, got others. Convert "
            "them."
        ) from None
