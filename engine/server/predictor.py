"""A trained model that predicts chosen nodes, exactly, over all parts of a store.

A worker a part, as threads that keep their shards mapped: prediction is that of
`graphtheta.inference.nodes`. Requests that come while a batch is computed make up the next one.
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
from graphtheta.inference.nodes import infer_chosen
from graphtheta.partition import LabelSpec, Store
from graphtheta.run.run import trained_model
from graphtheta.shard.open import open_shard

__all__ = ["Predictor"]

_BATCH = 4096  # nodes from which a batch is full
_Ids = NDArray[np.int64]


class Predictor:
    """Predicts in the background until it is closed.

    Args:
        store: The graph.
        run_dir: The run whose best weights are used.

    Raises:
        ConfigError: If there is no such run, or it does not fit the graph.

    Attributes:
        spec: What is predicted.
        batches: How many were computed.
    """

    spec: LabelSpec

    def __init__(self, store: Store, run_dir: Path) -> None:
        self._store, self._run_dir = store, run_dir
        self._asked: SimpleQueue[tuple[_Ids, Future[Tensor]] | None] = SimpleQueue()
        workers = range(store.num_parts)
        # Waiting for work is no collective: a server may idle for longer than any time-out.
        self._work: list[SimpleQueue[_Ids | None]] = [SimpleQueue() for _ in workers]
        self._done: SimpleQueue[tuple[_Ids, Tensor] | BaseException] = SimpleQueue()
        self._failure: BaseException | None = None
        self.batches = 0
        threading.Thread(target=self._run_workers, name="graphtheta-score", daemon=True).start()
        self._leader = threading.Thread(target=self._lead, name="graphtheta-lead", daemon=True)
        self._leader.start()
        try:
            self.predict(np.zeros(0, np.int64)).result()  # all is open, or something is wrong
        except BaseException:
            self.close()
            raise

    def predict(self, new_ids: _Ids) -> Future[Tensor]:
        """Ask for the model's outputs: (R, outputs), in the order of the nodes.

        Shape:
            new_ids: (R,), in [0, N).
        """
        future: Future[Tensor] = Future()
        self._asked.put((new_ids, future))
        return future

    def close(self) -> None:
        """Answer what was asked for, and end the workers."""
        self._asked.put(None)
        self._leader.join()

    # -- the leader puts batches together ---------------------------------------------------------

    def _lead(self) -> None:
        going_on = True
        while going_on:
            asked = [self._asked.get()]
            while (
                asked[-1] is not None and sum(len(ids) for ids, _ in filter(None, asked)) < _BATCH
            ):
                try:
                    asked.append(self._asked.get_nowait())
                except Empty:
                    break
            going_on = asked[-1] is not None
            waiting = [one for one in asked if one is not None]
            if waiting:
                self._answer(waiting)
        for work in self._work:
            work.put(None)

    def _answer(self, asked: list[tuple[_Ids, Future[Tensor]]]) -> None:
        distinct, places = np.unique(np.concatenate([i for i, _ in asked]), return_inverse=True)
        try:
            outputs = self._compute(distinct)
        except BaseException as error:
            for _, future in asked:
                future.set_exception(error)
            return
        self.batches += 1
        cuts = np.cumsum([len(ids) for ids, _ in asked])[:-1]
        for (_, future), rows in zip(asked, np.split(places, cuts), strict=True):
            future.set_result(outputs[torch.from_numpy(rows)])

    def _compute(self, distinct: _Ids) -> Tensor:
        if self._failure is None:
            for work in self._work:
                work.put(distinct)
        found: list[tuple[_Ids, Tensor]] = []
        while len(found) < len(self._work):
            done = self._failure or self._done.get()
            if isinstance(done, BaseException):
                self._failure = done
                raise done
            found.append(done)
        order = np.argsort(np.concatenate([ids for ids, _ in found]))
        return torch.cat([outputs for _, outputs in found])[torch.from_numpy(order)]

    # -- the workers ------------------------------------------------------------------------------

    def _run_workers(self) -> None:
        try:
            run_local(self._predict, self._store.num_parts, check=False)
        except BaseException as error:
            self._done.put(error)
        else:
            self._done.put(EngineError("scoring: the server is stopping."))

    def _predict(self, comm: Communicator) -> Any:
        shard = open_shard(self._store, comm)
        model, self.spec = trained_model(self._run_dir, shard)
        first = int(self._store.book.first_new_id[comm.rank])
        while (new_ids := self._work[comm.rank].get()) is not None:
            mine = new_ids[(new_ids >= first) & (new_ids < first + shard.num_masters)]
            self._done.put((mine, infer_chosen(model, shard, mine - first)))
