"""gRPC prediction service: translates requests to calls of `Predictor`, results to messages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.types import positions_of_keys
from graphtheta.engine.server.graph_service import NODES
from graphtheta.engine.server.predictor import Predictor
from graphtheta.engine.wire.chunks import ResponseChunk
from graphtheta.engine.wire.protocol import COLUMN, Limits
from graphtheta.engine.wire.tables import column, decode
from graphtheta.errors import CallTimeout, ConfigError, UnknownNode
from graphtheta.partition import Store, column_numpy
from graphtheta.proto.v1 import graph_pb2 as messages
from graphtheta.proto.v1.graph_pb2_grpc import ScoringServicer
from graphtheta.run.prediction_writer import outputs_as_columns
from graphtheta.run.resolve import load_config
from graphtheta.run.run import predicted_type

__all__ = ["PredictService"]

_CHUNK = 1 << 13  # rows of a message


class PredictService(ScoringServicer):
    """Prediction service of a trained run.

    Args:
        store: The graph.
        run_dir: Folder of the run.
        limits: Request limits.

    Raises:
        ConfigError: If there is no such run, or it does not fit the graph.

    Attributes:
        node_type: Node type that the run predicts. None if the graph has only one.
        predictor: The predictor.
    """

    def __init__(self, store: Store, run_dir: Path, limits: Limits) -> None:
        self._store, self._num_nodes, self._limits = store, store.manifest.num_nodes, limits
        self.predictor = Predictor(store, run_dir)  # raises if the run predicts no nodes
        self.node_type = predicted_type(load_config(run_dir), store.manifest)

    def Predict(  # noqa: N802
        self, request: messages.PredictRequest, context: grpc.ServicerContext
    ) -> Iterator[ResponseChunk]:
        nodes = decode(request.nodes, "predict: nodes", NODES, max_rows=self._limits.max_ids)
        new_ids = column(nodes, "new_id")
        wrong = new_ids[(new_ids < 0) | (new_ids >= self._num_nodes)]
        if len(wrong):
            raise UnknownNode(
                f"predict: expected new ids in [0, {self._num_nodes:,}), got {wrong[0]}. Look them "
                "up in this store."
            )
        self._check_type(new_ids)
        try:
            outputs = self.predictor.predict(new_ids).result(context.time_remaining())
        except FutureTimeout:
            raise CallTimeout(
                "predict: expected to finish before the deadline, did not. Request fewer nodes."
            ) from None
        for first in range(0, len(new_ids), _CHUNK):
            chunk = outputs[first : first + _CHUNK]
            row = pa.array(np.arange(first, first + len(chunk)), pa.int32())
            columns = outputs_as_columns(chunk, self.predictor.spec)
            table = {"row": row} | {COLUMN + name: values for name, values in columns.items()}
            yield ResponseChunk(pa.record_batch(table))

    def _check_type(self, new_ids: NDArray[np.int64]) -> None:
        if self.node_type is None:
            return
        manifest, first = self._store.manifest, self._store.book.first_new_id
        owner = np.searchsorted(first, new_ids, side="right") - 1
        for part in np.unique(owner).tolist():
            keys = column_numpy(self._store.part(part).masters, "node_key")
            found = keys[new_ids[owner == part] - first[part]]
            types = positions_of_keys(found, manifest.first_node_keys)
            others = types != manifest.position_of_type(self.node_type)
            if others.any():
                raise ConfigError(
                    f"predict: expected nodes of the type {self.node_type}, which the run "
                    f"predicts, got one of {manifest.node_types[types[others][0]].name}. Choose "
                    "other nodes."
                )

    def close(self) -> None:
        """Stop the predictor."""
        self.predictor.close()
