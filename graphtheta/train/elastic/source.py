"""What a group of workers asks of a parameter service, in the same process or another."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from graphtheta.train.elastic.ledger import Outcome, Work

__all__ = ["Contribution", "GroupName", "ParameterSource", "RowGradient", "RunTerms", "Task"]

Array = NDArray[Any]


@dataclass(frozen=True)
class GroupName:
    """Name of a group of workers.

    Attributes:
        id: Text that no other group has.
        host: Name of the computer of its first worker, and the number of its process.
        workers: Number of its workers.
    """

    id: str
    host: str
    workers: int

    @classmethod
    def new(cls, workers: int, id: str = "") -> GroupName:
        """Return a name for a group of this process, with a new id unless one is given."""
        return cls(id or uuid.uuid4().hex, f"{socket.gethostname()}:{os.getpid()}", workers)


@dataclass(frozen=True)
class RunTerms:
    """What a service says about its run to a group that connects.

    Attributes:
        run: Text that no other run has, nor the same run after a restart of the service.
        config: Configuration of the run by option. Empty for a run that is not of the command line.
        terms: What service and group must have in common, by name.
        epochs: Number of epochs of the run.
        micro_batches: Number of micro-batches of a step.
        steps_per_epoch: Number of steps of an epoch.
    """

    run: str
    config: Mapping[str, Any]
    terms: Mapping[str, str]
    epochs: int
    micro_batches: int
    steps_per_epoch: int


@dataclass(frozen=True)
class Task:
    """What a group does next.

    Attributes:
        kind: "work", to compute `work`; "wait", to ask again; or "done", when training is over.
        run: `RunTerms.run` of the service that answers.
        work: The work.
        summary: Summary of the run, when it is over.
    """

    kind: Literal["work", "wait", "done"]
    run: str
    work: Work | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RowGradient:
    """Gradient of a parameter with learned rows.

    Attributes:
        keys: (R,) int64 node keys of its rows, distinct.
        values: (R, columns) gradients.
        is_dense: Whether the rows that are left out count as zeros, instead of as not read.
    """

    keys: NDArray[Any]
    values: Array
    is_dense: bool


@dataclass(frozen=True)
class Contribution:
    """Result of a micro-batch.

    Attributes:
        loss: Sum of the loss over its targets.
        count: Number, or summed weight, of its targets.
        gradients: Gradients of that sum, of all parameters without rows; if a step is one
            micro-batch, of the mean.
        rows: Gradients of parameters with learned rows, by name.
    """

    loss: float
    count: float
    gradients: Array
    rows: Mapping[str, RowGradient]


class ParameterSource(Protocol):
    """Parameter service, as a group sees it. The first worker of a group calls it.

    Every method may be called again after an error, with the same effect as one call.
    """

    def new_group(self, workers: int) -> GroupName:
        """Return the name of a group of some workers that uses this object."""

    def terms(self) -> RunTerms:
        """Return what the service says about its run.

        Raises:
            WrongServer: If the service has another version of the protocol or of GraphTheta.
        """

    def join(self, group: GroupName, terms: Mapping[str, str]) -> None:
        """Announce a group with the terms that it has.

        Raises:
            WrongServer: If they differ from those of the service.
        """

    def next(self, group: GroupName) -> Task:
        """Return what a group does next; waits for a short time if there is nothing to do yet.

        Raises:
            ConfigError: If the run has failed.
        """

    def pull(self, version: int, num_bytes: int) -> Array:
        """Return the parameters of a version, as `ModelLayout.state` does.

        Args:
            version: The version; -1 for the best weights when training is over.
            num_bytes: Length of the array.

        Raises:
            VersionGone: If the service does not have it (any more).
        """

    def pull_rows(self, version: int, name: str, keys: NDArray[Any], num_bytes: int) -> Array:
        """Return learned rows of a parameter.

        Args:
            version: The version; -1 for the best weights when training is over.
            name: Name of the parameter.
            keys: (R,) int64 node keys.
            num_bytes: Number of bytes of the rows.

        Shape:
            Returns the bytes of (R, columns) as uint8.

        Raises:
            VersionGone: If the service does not have the version (any more).
        """

    def push(self, group: GroupName, work: Work, result: Contribution) -> Outcome:
        """Send the result of a micro-batch.

        Raises:
            ConfigError: If its shape is wrong, or it is not finite, or it is not of this run.
        """

    def report(self, group: GroupName, version: int, metrics: Mapping[str, float]) -> Outcome:
        """Send the metrics of a version."""

    def leave(self, group: GroupName) -> None:
        """Give up the leases of a group."""
