"""Queries about nodes: columns and predictions of some, and random ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.engine.client.responses import (
    Responses,
    check_range,
    check_table,
    sent,
    wrong,
)
from graphtheta.engine.client.server_pool import ServerPool
from graphtheta.engine.wire.protocol import COLUMN
from graphtheta.engine.wire.tables import encode_columns
from graphtheta.errors import ConfigError
from graphtheta.partition import Manifest
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose
from graphtheta.runtime.numbers import need_whole

__all__ = ["columns_of", "columns_of_all", "predict", "random_nodes"]


def columns_of(
    pool: ServerPool,
    new_ids: NDArray[np.int64],
    names: Sequence[str],
    node_type: str | None = None,
) -> dict[str, NDArray[Any]]:
    """Return columns of nodes, requested from the owners.

    Args:
        pool: The servers.
        new_ids: Nodes.
        names: Names of columns.
        node_type: Type of the nodes and columns. If None, the only type, or columns that all have.

    Shape:
        new_ids: (R,). Returns (R,) or (R, width) each.
    """
    jobs = []
    for connection, rows in pool.split(pool.router.owners(new_ids)):
        nodes = encode_columns(new_id=new_ids[rows])
        request = messages.NodeColumnsRequest(nodes=nodes, columns=names, node_type=node_type or "")
        jobs.append((connection, request, rows))
    types = {name: pool.router.node_column(name, node_type) for name in names}
    return pool.call("NodeColumns", jobs, sent(types)).by_row(types, len(new_ids))


def columns_of_all(
    pool: ServerPool, names: Sequence[str], node_type: str | None = None
) -> dict[str, NDArray[Any]]:
    """Return columns of all nodes in the order of their keys, requested as ranges of new ids.

    Args:
        pool: The servers.
        names: Names of columns.
        node_type: Type of the nodes. If None, all nodes.

    Shape:
        Returns (N,) or (N, width) each.
    """
    router = pool.router
    name = node_type or ""
    requested = list(dict.fromkeys([*names, "node_key"]))
    jobs = []
    for part, connection in enumerate(router.connections):
        start, size = int(router.first_new_id[part]), int(router.counts[0][part])
        for first in range(start, start + size, router.max_ids):
            count = min(router.max_ids, start + size - first)
            ids = messages.Range(first=first, count=count)
            request = messages.NodeColumnsRequest(range=ids, columns=requested, node_type=name)
            jobs.append((connection, request, np.arange(first, first + count)))
    types = {name: router.node_column(name, node_type) for name in requested}
    responses = pool.call("NodeColumns", jobs, sent(types))
    first_key, num_nodes = 0, router.manifest.num_nodes
    if node_type is not None:
        of_type = router.manifest.node_type(node_type)
        first_key, num_nodes = of_type.first_key, of_type.count
    tables = []
    for _, table in responses.tables:
        keys = as_numpy(table[COLUMN + "node_key"]) - first_key
        check_range(keys, num_nodes, "node keys")
        tables.append((keys, table))
    return Responses(tables, []).by_row({name: types[name] for name in names}, num_nodes)


def predict(pool: ServerPool, new_ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Return the predictions of nodes from a server that has a run.

    Shape:
        new_ids: (R,). Returns (R,) or (R, width) each.

    Raises:
        ConfigError: If no server has a run.
    """
    server = pool.router.predictor
    if server is None:
        raise ConfigError("predict: no server has a run. Start one with --run.")
    jobs = []
    for rows in pool.chunks(np.arange(len(new_ids))):
        request = messages.PredictRequest(nodes=encode_columns(new_id=new_ids[rows]))
        jobs.append((server, request, rows))
    responses = pool.call("Predict", jobs, None)
    if not jobs:
        return {}
    if not responses.tables:
        raise wrong("predictions", "none")
    kinds = {field.name: field.type for field in responses.tables[0][1].schema}
    types = {name.removeprefix(COLUMN): kind for name, kind in kinds.items() if name != "row"}
    named = types.get("prediction") == pa.string()  # classes that were texts
    if set(types) - {"probability"} != {"prediction"} or not all(
        _is_numeric(kind) or (named and name == "prediction") for name, kind in types.items()
    ):
        raise wrong("numbers or names in the columns prediction and probability", kinds)
    for _, table in responses.tables:
        check_table(table, kinds)
        if any(column.null_count for column in table.columns):
            raise wrong("a prediction for every node", "nulls")
    found = responses.by_row(types, len(new_ids))
    probability = found.get("probability", np.zeros(0))
    if len(probability) and ((probability < 0) | (probability > 1)).any():
        raise wrong("probabilities in [0, 1]", "others")
    if probability.ndim == 2 and found["prediction"].ndim == 1 and not named:
        check_range(found["prediction"], probability.shape[1], "predicted classes")
    return found


def random_nodes(
    manifest: Manifest, count: int, seed: int, step: int, node_type: str | None
) -> NDArray[np.int64]:
    """Return the node keys of random nodes, of all types or of one, without asking the servers.

    Shape:
        Returns (count,).
    """
    count = need_whole(count, "random nodes")
    seed, step = need_whole(seed, "seed"), need_whole(step, "step")
    first, among = 0, manifest.num_nodes
    if node_type is not None:
        spec = manifest.node_type(node_type)
        first, among = spec.first_key, spec.count
    if not 0 <= count <= among:
        raise ConfigError(f"random nodes: expected a count in [0, {among:,}], got {count:,}.")
    if not count:
        return np.zeros(0, np.int64)
    return first + Permutation(among, seed, Purpose.QUERY, step=step).forward(np.arange(count))


def _is_numeric(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    return kind in (pa.int64(), pa.bool_(), pa.float32(), pa.float64())
