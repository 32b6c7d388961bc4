"""Client of a parameter service, for a group of workers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from graphtheta.engine.client.connection import Connection, Tls
from graphtheta.engine.wire.address import check_address
from graphtheta.engine.wire.pieces import (
    OUTCOMES,
    encode_contribution,
    group_message,
    read_pieces,
)
from graphtheta.engine.wire.protocol import PARAMETERS_VERSION
from graphtheta.errors import CallTimeout, EngineError, Unreachable
from graphtheta.proto.v1 import parameters_pb2 as messages
from graphtheta.train.elastic.ledger import Outcome, Work
from graphtheta.train.elastic.source import Contribution, GroupName, RunTerms, Task

__all__ = ["ParameterClient"]

_log = logging.getLogger("graphtheta")
Array = NDArray[Any]
_ATTEMPT_S = 600.0  # of one call; a connection that stalls ends it earlier, by its keep-alive
_OUTCOME_OF: dict[int, Outcome] = {number: outcome for outcome, number in OUTCOMES.items()}


class ParameterClient:
    """Client of a parameter service, which a `Trainer` works for.

    It connects when it is first used, by the first worker of the group. While the service does not
    answer, it tries again with growing pauses, so that a service may be started later, or again.

    Args:
        address: `host:port` of the service.
        tls: Certificates. If None, the connection is plain text.
        wait_s: Seconds after which a service that does not answer is given up.

    Raises:
        ConfigError: If the address is wrong, or a certificate cannot be read.
    """

    def __init__(self, address: str, *, tls: Tls | None = None, wait_s: float = 1800.0) -> None:
        self.address = check_address(address, "parameters (--parameters)")
        self._tls, self._wait_s = tls, wait_s
        if tls is not None:
            tls.credentials()  # raises on all workers
        self._made: Connection | None = None
        self._ahead: Task | None = None  # what the reply to a result has told to do next
        self._id = GroupName.new(1).id

    def __repr__(self) -> str:
        return f"ParameterClient({self.address})"

    def close(self) -> None:
        """Close the connection."""
        if self._made is not None:
            self._made.close()

    def new_group(self, workers: int) -> GroupName:
        return GroupName.new(workers, self._id)

    def terms(self) -> RunTerms:
        request = messages.TermsRequest(protocol_version=PARAMETERS_VERSION, group=self._id)
        reply = self._one("Terms", request, messages.TermsReply)
        return RunTerms(
            reply.run,
            self._object(reply.config),
            self._object(reply.terms),
            reply.epochs,
            reply.micro_batches,
            reply.steps_per_epoch,
        )

    def join(self, group: GroupName, terms: Mapping[str, str]) -> None:
        request = messages.JoinRequest(group=group_message(group), terms=json.dumps(dict(terms)))
        self._one("Join", request, messages.JoinReply)

    def next(self, group: GroupName) -> Task:
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        request = messages.NextRequest(group=group_message(group))
        return self._task(self._one("Next", request, messages.NextReply))

    def _task(self, reply: messages.NextReply) -> Task:
        if reply.kind == messages.NextReply.KIND_WORK:
            work = Work(reply.work.step, reply.work.micro_batch, reply.work.version)
            return Task("work", reply.run, work)
        if reply.kind == messages.NextReply.KIND_DONE:
            return Task("done", reply.run, summary=self._object(reply.summary))
        return Task("wait", reply.run)

    def pull(self, version: int, num_bytes: int) -> Array:
        return self._read("Pull", messages.PullRequest(version=version), num_bytes)

    def pull_rows(self, version: int, name: str, keys: NDArray[Any], num_bytes: int) -> Array:
        data = np.ascontiguousarray(keys, np.int64).tobytes()
        request = messages.PullRowsRequest(version=version, parameter=name, keys=data)
        return self._read("PullRows", request, num_bytes)

    def push(self, group: GroupName, work: Work, result: Contribution) -> Outcome:
        def attempt(connection: Connection, deadline: float) -> bytes:
            return connection.upload(
                "Push", lambda: encode_contribution(group, work, result), deadline
            )

        return self._outcome(self._decode(self._patiently(attempt), messages.PushReply))

    def report(self, group: GroupName, version: int, metrics: Mapping[str, float]) -> Outcome:
        request = messages.ReportRequest(
            group=group_message(group),
            version=version,
            names=list(metrics),
            values=list(metrics.values()),
        )
        return self._outcome(self._one("Report", request, messages.PushReply))

    def leave(self, group: GroupName) -> None:
        request = messages.LeaveRequest(group=group_message(group))
        try:
            self._connection().stream("Leave", request, time.monotonic() + 2.0)
        except EngineError:  # the leases run out by themselves
            pass

    def status(self) -> dict[str, Any]:
        """Return the state of the run: epochs, steps, groups, leases, losses and staleness."""
        reply = self._one("Status", messages.StatusRequest(), messages.StatusReply)
        return self._object(reply.status)

    # -- calls ------------------------------------------------------------------------------------

    def _connection(self) -> Connection:
        if self._made is None:
            self._made = Connection(self.address, self._tls)
        return self._made

    def _patiently(self, attempt: Callable[[Connection, float], Any]) -> Any:
        """Call the service until it answers, or for as long as it is waited for."""
        start = time.monotonic()
        has_warned = False
        while True:
            now = time.monotonic()
            patience = 10.0 if not has_warned else _ATTEMPT_S
            try:
                return attempt(self._connection(), min(start + self._wait_s, now + patience))
            except (Unreachable, CallTimeout) as error:
                if time.monotonic() + 0.1 >= start + self._wait_s:
                    raise
                if not has_warned:
                    _log.warning("trainer: waiting for the parameter service: %s", error)
                has_warned = True

    def _read(self, method: str, request: Any, num_bytes: int) -> Array:
        def attempt(connection: Connection, deadline: float) -> Array:
            return connection.read(
                method, request, deadline, lambda stream: read_pieces(stream, num_bytes)
            )

        found: Array = self._patiently(attempt)
        return found

    def _one(self, method: str, request: Any, reply: Any) -> Any:
        (received,) = self._patiently(
            lambda connection, deadline: connection.stream(method, request, deadline)
        )
        return self._decode(received, reply)

    def _decode(self, received: bytes, reply: Any) -> Any:
        try:
            return reply.FromString(received)
        except DecodeError:
            raise EngineError(
                f"{self.address}: expected a {reply.DESCRIPTOR.name}, got other bytes. Upgrade the "
                "older side of the two."
            ) from None

    def _object(self, text: str) -> dict[str, Any]:
        try:
            return dict(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            raise EngineError(
                f"{self.address}: expected an object of JSON, got other text. Upgrade the server."
            ) from None

    def _outcome(self, reply: messages.PushReply) -> Outcome:
        self._ahead = self._task(reply.next) if reply.HasField("next") else None
        return _OUTCOME_OF.get(reply.outcome, "repeated")
