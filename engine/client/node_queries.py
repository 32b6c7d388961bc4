"""Queries about nodes given by new ids: columns and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.schema import as_numpy
from graphtheta.engine.client.responses import Responses
from graphtheta.engine.client.server_pool import ServerPool
from graphtheta.engine.wire.protocol import COLUMN
from graphtheta.engine.wire.tables import encode_columns
from graphtheta.errors import ConfigError
from graphtheta.proto.v1 import graph_pb2 as messages

__all__ = ["columns_of", "columns_of_all", "predict"]


def columns_of(
    pool: ServerPool, new_ids: NDArray[np.int64], names: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Return columns of nodes, requested from the owners.

    Shape:
        new_ids: (R,). Returns (R,) or (R, width) each.
    """
    jobs = []
    for connection, rows in pool.split(pool.router.owners(new_ids)):
        nodes = encode_columns(new_id=new_ids[rows])
        jobs.append((connection, messages.NodeColumnsRequest(nodes=nodes, columns=names), rows))
    responses = pool.call("NodeColumns", jobs)
    return {n: responses.by_row(n, len(new_ids), pool.router.node_type(n)) for n in names}


def columns_of_all(pool: ServerPool, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return columns of all nodes by node key, requested as ranges of new ids.

    Shape:
        Returns (N,) or (N, width) each.
    """
    router = pool.router
    requested = list(dict.fromkeys([*names, "node_key"]))
    jobs = []
    for part, connection in enumerate(router.connections):
        start, size = int(router.first_new_id[part]), int(router.counts[0][part])
        for first in range(start, start + size, router.max_ids):
            count = min(router.max_ids, start + size - first)
            ids = messages.Range(first=first, count=count)
            request = messages.NodeColumnsRequest(range=ids, columns=requested)
            jobs.append((connection, request, np.arange(first, first + count)))
    responses = pool.call("NodeColumns", jobs)
    tables = [(as_numpy(table[COLUMN + "node_key"]), table) for _, table in responses.tables]
    by_key = Responses(tables, [])
    return {n: by_key.by_row(n, router.manifest.num_nodes, router.node_type(n)) for n in names}


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
    responses = pool.call("Predict", jobs)
    columns = responses.tables[0][1].schema.names if jobs else []
    names = [name.removeprefix(COLUMN) for name in columns if name != "row"]
    return {n: responses.by_row(n, len(new_ids), pa.float32()) for n in names}
