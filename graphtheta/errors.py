"""Exceptions that GraphTheta raises.

```
GraphThetaError
├── ConfigError (ValueError)       an argument, option or name is wrong
│   ├── LossNotFinite              the loss of training became infinite or NaN
│   ├── UnknownAttribute (KeyError)  PyG asks for an attribute that the graph does not have
│   └── ArgumentError (TypeError)  a constructor does not take the arguments given
├── GraphFormatError (ValueError)  the input data are wrong
│   └── UnknownNode                an id or key is not that of a node of the graph
├── TraceError (ValueError)        a layer's `gather` is not a function of one edge
├── PartitionError                 a graph cannot be partitioned as requested
│   └── StoreError                 a store is missing, damaged or of another format
├── CommError                      workers could not continue together
│   ├── ExchangeTimeout            a worker waited longer than the timeout
│   ├── CollectiveMismatch         two workers are in different operations
│   └── WorkerFailed               another worker failed first
└── EngineError                    a server of the engine did not answer a request, or wrongly
    ├── LimitExceeded              a request exceeds a limit of the server
    ├── WrongServer                it has another protocol version or another store
    ├── Unreachable                no server answers, or it is busy or stopping
    ├── CallTimeout                the answer did not arrive in time
    └── VersionGone                the parameters of a version are not there any more
```

A message is one line: where the error is, what was expected, what was found, and what to do. Names
and values from users, files and other computers are part of it, so its length is limited.
"""

from __future__ import annotations

__all__ = [
    "ArgumentError",
    "CallTimeout",
    "CollectiveMismatch",
    "CommError",
    "ConfigError",
    "EngineError",
    "ExchangeTimeout",
    "GraphFormatError",
    "GraphThetaError",
    "LimitExceeded",
    "LossNotFinite",
    "PartitionError",
    "StoreError",
    "TraceError",
    "UnknownAttribute",
    "UnknownNode",
    "Unreachable",
    "VersionGone",
    "WorkerFailed",
    "WrongServer",
]


def _without_middle(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    start, end = text[: 2 * limit // 3 - 25], text[25 - limit // 3 :]
    return f"{start} ... (of {len(text):,} characters) ... {end}"


class GraphThetaError(Exception):
    """Base class of all exceptions of GraphTheta. Its message is one line of limited length.

    Attributes:
        exit_code: Exit code of a command that ends with it: 2, or 75 if the same command may
            succeed when it is started again.
    """

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(self.shorten(arg) if isinstance(arg, str) else arg for arg in args))

    @staticmethod
    def shorten(text: str, limit: int = 2000) -> str:
        """Return a text as one printable line of at most `limit` characters, without its middle.

        Args:
            text: Text that may contain input of any length, line breaks and control characters.
            limit: Largest number of characters, at least 100.
        """
        text = _without_middle(text, limit)
        if text.isprintable():
            return text
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        return _without_middle(line, limit)


class ConfigError(GraphThetaError, ValueError):
    """An argument, an option or a name is wrong."""


class LossNotFinite(ConfigError):
    """The loss of training became infinite or NaN, on all workers."""


class UnknownAttribute(ConfigError, KeyError):
    """PyG asks for a node, edge or graph attribute that a remote graph does not have.

    It is a KeyError, as PyG expects of its feature and graph stores.
    """

    __str__ = Exception.__str__  # a KeyError would show the message in quotes


class ArgumentError(ConfigError, TypeError):
    """A constructor was given an argument that it does not take, or lacks one."""


class GraphFormatError(GraphThetaError, ValueError):
    """The input data are wrong: ids, columns, types, lengths or values."""


class UnknownNode(GraphFormatError):
    """An original id, a node key or a new id is not that of a node of the graph."""


class TraceError(GraphThetaError, ValueError):
    """A layer's `gather` cannot be recorded, or is not a function of one edge.

    It is not a TypeError, which torch's operators would turn into "unsupported operand".
    """


class PartitionError(GraphThetaError):
    """A graph cannot be partitioned as requested."""


class StoreError(PartitionError):
    """A store is missing, damaged, or of a format that this version cannot read."""


class CommError(GraphThetaError):
    """Workers could not continue together."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class ExchangeTimeout(CommError):
    """A worker waited longer than the timeout for the others."""


class CollectiveMismatch(CommError):
    """Two workers are in different operations, or disagree on a shape or type."""

    exit_code = 2


class WorkerFailed(CommError):
    """Another worker failed first.

    Attributes:
        rank: Rank of the worker that failed.
    """

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(message)
        self.rank = rank


class EngineError(GraphThetaError):
    """A server of the engine did not answer a request, or its answer is wrong."""


class LimitExceeded(EngineError):
    """A request exceeds a limit of the server."""


class WrongServer(EngineError):
    """A server has another version of the protocol, or serves another store."""


class Unreachable(EngineError):
    """No server answers, or it is busy or stopping."""


class CallTimeout(EngineError):
    """An answer did not arrive before the deadline of the call."""


class VersionGone(EngineError):
    """A parameter service does not have a version of the parameters, or not any more."""
