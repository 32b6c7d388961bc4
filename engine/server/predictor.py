"""Exact predictions of a trained model for requested nodes, over all parts of a store.

Each part has a worker, a thread that keeps the part's shard open. A batching thread combines the
requests that arrive while the previous batch is computed.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.threads import run_local
from graphtheta.errors import EngineError
from graphtheta.inference.nodes import infer_nodes
from graphtheta.partition import LabelSpec, Store
from graphtheta.run.run import trained_model
from graphtheta.shard.open import open_shard

__all__ = ["Predictor"]

_BATCH = 4096  # nodes; a batch of at least this size takes no further requests
_Ids = NDArray[np.int64]
_Request = tuple[_Ids, Future[Tensor]]


class Predictor:
    """Predictor that answers requests in background threads until it is closed.

    Args:
        store: The graph.
        run_dir: Folder of the run whose best weights are used.

    Raises:
        ConfigError: If there is no such run, or it does not fit the graph.

    Attributes:
        spec: The predicted label.
        num_batches: Number of batches computed so far.
    """

    spec: LabelSpec

    def __init__(self, store: Store, run_dir: Path) -> None:
        self._store, self._run_dir = store, run_dir
        self._requests: SimpleQueue[_Request | None] = SimpleQueue()
        # Workers wait at a queue, not in a collective: an idle server must not time out.
        self._work: list[SimpleQueue[_Ids | None]] = [SimpleQueue() for _ in range(store.num_parts)]
        self._results: SimpleQueue[tuple[_Ids, Tensor] | BaseException] = SimpleQueue()
        self._failure: BaseException | None = None
        self.num_batches = 0
        threading.Thread(target=self._run_workers, name="graphtheta-predict", daemon=True).start()
        self._batcher = threading.Thread(
            target=self._run_batches, name="graphtheta-batch", daemon=True
        )
        self._batcher.start()
        try:
            self.predict(np.zeros(0, np.int64)).result()  # raises what went wrong while opening
        except BaseException:
            self.close()
            raise

    def predict(self, new_ids: _Ids) -> Future[Tensor]:
        """Request the model's outputs for nodes.

        Shape:
            new_ids: (R,), in [0, N). The future returns (R, outputs).
        """
        future: Future[Tensor] = Future()
        self._requests.put((new_ids, future))
        return future

    def close(self) -> None:
        """Answer the waiting requests and stop the workers."""
        self._requests.put(None)
        self._batcher.join()

    # -- the batching thread ----------------------------------------------------------------------

    def _run_batches(self) -> None:
        is_closed = False
        while not is_closed:
            requests: list[_Request] = []
            request = self._requests.get()
            while request is not None:
                requests.append(request)
                if sum(len(ids) for ids, _ in requests) >= _BATCH:
                    break
                try:
                    request = self._requests.get_nowait()
                except Empty:
                    break
            is_closed = request is None
            if requests:
                self._answer(requests)
        for work in self._work:
            work.put(None)

    def _answer(self, requests: list[_Request]) -> None:
        all_ids = np.concatenate([ids for ids, _ in requests])
        distinct, index = np.unique(all_ids, return_inverse=True)
        try:
            outputs = self._compute(distinct)
        except BaseException as error:
            for _, future in requests:
                future.set_exception(error)
            return
        self.num_batches += 1
        cuts = np.cumsum([len(ids) for ids, _ in requests])[:-1]
        for (_, future), rows in zip(requests, np.split(index, cuts), strict=True):
            future.set_result(outputs[torch.from_numpy(rows)])

    def _compute(self, distinct: _Ids) -> Tensor:
        if self._failure is None:
            for work in self._work:
                work.put(distinct)
        found: list[tuple[_Ids, Tensor]] = []
        while len(found) < len(self._work):
            result = self._failure or self._results.get()
            if isinstance(result, BaseException):
                self._failure = result
                raise result
            found.append(result)
        order = np.argsort(np.concatenate([ids for ids, _ in found]))
        return torch.cat([outputs for _, outputs in found])[torch.from_numpy(order)]

    # -- the workers ------------------------------------------------------------------------------

    def _run_workers(self) -> None:
        try:
            run_local(self._run_worker, self._store.num_parts, check=False)
        except BaseException as error:
            self._results.put(error)
        else:
            self._results.put(EngineError("predict: the server is stopping."))

    def _run_worker(self, comm: Communicator) -> Any:
        shard = open_shard(self._store, comm)
        model, self.spec = trained_model(self._run_dir, shard)
        first = int(self._store.book.first_new_id[comm.rank])
        while (new_ids := self._work[comm.rank].get()) is not None:
            owned = new_ids[(new_ids >= first) & (new_ids < first + shard.num_masters)]
            self._results.put((owned, infer_nodes(model, shard, owned - first)))
