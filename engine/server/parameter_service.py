"""gRPC parameter service: translates messages to calls of a `ParameterHost`, and its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np

from graphtheta.engine.server.server import Server
from graphtheta.engine.server.training_metrics import TrainingMetrics
from graphtheta.engine.wire.pieces import (
    OUTCOMES,
    decode_contribution,
    encode_pieces,
    group_of,
)
from graphtheta.engine.wire.protocol import PARAMETERS_VERSION
from graphtheta.errors import ConfigError, GraphFormatError, WrongServer
from graphtheta.proto.v1 import parameters_pb2 as messages
from graphtheta.proto.v1.parameters_pb2_grpc import (
    ParametersServicer,
    add_ParametersServicer_to_server,
)
from graphtheta.train.elastic.host import ParameterHost
from graphtheta.train.elastic.ledger import Outcome
from graphtheta.train.elastic.source import GroupName, Task

__all__ = ["ParameterServer", "ParameterService"]

_NAME = messages.DESCRIPTOR.services_by_name["Parameters"].full_name
_KINDS = {
    "work": messages.NextReply.KIND_WORK,
    "wait": messages.NextReply.KIND_WAIT,
    "done": messages.NextReply.KIND_DONE,
}


class ParameterServer(Server):
    """Server of the parameters of a run to groups in other processes.

    Args:
        host: The parameters.
        options: Address, certificates and limits, as for `Server`.
    """

    def __init__(self, host: ParameterHost, **options: Any) -> None:
        add = partial(add_ParametersServicer_to_server, ParameterService(host))
        super().__init__({_NAME: add}, host.terms().terms["store"], **options)
        self.metrics.registry.register(TrainingMetrics(host.status))


class ParameterService(ParametersServicer):
    """Parameter service of one run.

    Args:
        host: Its parameters.
    """

    def __init__(self, host: ParameterHost) -> None:
        self._host = host

    def Terms(  # noqa: N802
        self, request: messages.TermsRequest, context: grpc.ServicerContext
    ) -> messages.TermsReply:
        if request.protocol_version != PARAMETERS_VERSION:
            raise WrongServer(
                f"terms: expected version {PARAMETERS_VERSION} of the parameter protocol, got "
                f"{request.protocol_version}. Use the same version of GraphTheta on both sides."
            )
        if request.group:
            self._host.announce(request.group)
        terms = self._host.terms()
        return messages.TermsReply(
            protocol_version=PARAMETERS_VERSION,
            run=terms.run,
            config=json.dumps(terms.config),
            terms=json.dumps(terms.terms),
            epochs=terms.epochs,
            micro_batches=terms.micro_batches,
            steps_per_epoch=terms.steps_per_epoch,
        )

    def Join(  # noqa: N802
        self, request: messages.JoinRequest, context: grpc.ServicerContext
    ) -> messages.JoinReply:
        terms = _object(request.terms, "join: terms")
        self._host.join(group_of(request.group), terms)
        return messages.JoinReply()

    def Next(  # noqa: N802
        self, request: messages.NextRequest, context: grpc.ServicerContext
    ) -> messages.NextReply:
        return _next_reply(self._host.next(group_of(request.group)))

    def Pull(  # noqa: N802
        self, request: messages.PullRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        yield from encode_pieces(self._host.pull(request.version))

    def PullRows(  # noqa: N802
        self, request: messages.PullRowsRequest, context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        if len(request.keys) % 8:
            raise GraphFormatError("rows: expected node keys of 8 bytes, got others. Correct it.")
        keys = np.frombuffer(request.keys, np.int64)
        yield from encode_pieces(self._host.pull_rows(request.version, request.parameter, keys))

    def Push(  # noqa: N802
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> messages.PushReply:
        group, work, result = decode_contribution(requests, self._host.layout)
        return self._push_reply(group, self._host.push(group, work, result))

    def Report(  # noqa: N802
        self, request: messages.ReportRequest, context: grpc.ServicerContext
    ) -> messages.PushReply:
        metrics = dict(zip(request.names, request.values, strict=False))
        group = group_of(request.group)
        return self._push_reply(group, self._host.report(group, request.version, metrics))

    def _push_reply(self, group: GroupName, outcome: Outcome) -> messages.PushReply:
        """Return the reply to a result, with the next work: this saves the group a call."""
        task = self._host.next(group, wait_s=0.0)
        following = None if task.kind == "wait" else _next_reply(task)
        return messages.PushReply(outcome=OUTCOMES[outcome], next=following)

    def Leave(  # noqa: N802
        self, request: messages.LeaveRequest, context: grpc.ServicerContext
    ) -> messages.LeaveReply:
        self._host.leave(group_of(request.group))
        return messages.LeaveReply()

    def Status(  # noqa: N802
        self, request: messages.StatusRequest, context: grpc.ServicerContext
    ) -> messages.StatusReply:
        return messages.StatusReply(status=json.dumps(self._host.status()))


def _next_reply(task: Task) -> messages.NextReply:
    reply = messages.NextReply(kind=_KINDS[task.kind], run=task.run)
    if task.work is not None:
        work = task.work
        reply.work.CopyFrom(
            messages.Work(step=work.step, micro_batch=work.index, version=work.version)
        )
    if task.kind == "done":
        reply.summary = json.dumps(task.summary)
    return reply


def _object(text: str, where: str) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(text).items()}
    except (ValueError, AttributeError, RecursionError):
        raise ConfigError(f"{where}: expected JSON of texts by name, got other text.") from None
