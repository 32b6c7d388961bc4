"""Requests of the tests of faults, and what a server reports of them."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

from graphtheta.engine.wire.tables import encode
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import GraphStub
from tests.engine.processes import ServerProcess

Code = grpc.StatusCode
WIDE = 2000  # features, so that responses are large
Columns, Neighbours, Lookup = (
    messages.NodeColumnsRequest,
    messages.NeighboursRequest,
    messages.LookupRequest,
)
KNOWN = (Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED)


def ids(*values: Any, kind: Any = np.int64, name: str = "new_id") -> bytes:
    return encode(pa.record_batch({name: pa.array(np.array(values, kind))}))


WHOLE = ids(1, 2, 3)


def status(stub: GraphStub, method: str, request: Any, **options: Any) -> grpc.RpcError:
    """Return the error of a call that fails."""

    def call() -> None:
        response = getattr(stub, method)(request, timeout=30, **options)
        if method != "Handshake":
            list(response)

    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def works(stub: GraphStub) -> bool:
    columns = Columns(nodes=WHOLE, columns=["in_degree"])
    return len(list(stub.NodeColumns(columns, timeout=30))) > 0


def settled(server: ServerProcess) -> None:
    """Wait until no call is in flight."""
    for _ in range(100):
        if "graphtheta_calls_in_flight 0.0" in scraped(server):
            return
        time.sleep(0.1)
    pytest.fail(scraped(server))


def scraped(server: ServerProcess) -> str:
    line = next(line for line in server.lines if '"serving"' in line)
    port = json.loads(line)["metrics_port"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        return str(page.read().decode())
