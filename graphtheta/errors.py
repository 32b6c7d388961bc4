"""The exceptions a user of GraphTheta can meet.

```
GraphThetaError
├── ConfigError (ValueError)       an argument, option or name is wrong
├── GraphFormatError (ValueError)  the input data are wrong
│   └── UnknownNode                an id or key names no node of the graph
├── TraceError (ValueError)        a layer's `gather` is not a function of one edge
├── PartitionError                 a graph cannot be partitioned as asked
│   └── StoreError                 a store is missing, damaged or of another format
├── CommError                      workers could not go on together
│   ├── ExchangeTimeout            a worker waited longer than the timeout
│   ├── CollectiveMismatch         two workers are in different operations
│   └── WorkerFailed               another worker failed first
└── EngineError                    a server of the engine could not answer
    ├── LimitExceeded              a request asks for more than the server allows
    ├── WrongServer                it speaks another protocol, or serves another store
    ├── Unreachable                no server is there, or it is busy or stopping
    └── CallTimeout                the answer did not come in time
```

Messages are one line: where, what was expected, what came, what to do.
"""

from __future__ import annotations

__all__ = [
    "CallTimeout",
    "CollectiveMismatch",
    "CommError",
    "ConfigError",
    "EngineError",
    "ExchangeTimeout",
    "GraphFormatError",
    "GraphThetaError",
    "LimitExceeded",
    "PartitionError",
    "StoreError",
    "TraceError",
    "UnknownNode",
    "Unreachable",
    "WorkerFailed",
    "WrongServer",
]


class GraphThetaError(Exception):
    """Root of every exception GraphTheta raises on purpose."""


class ConfigError(GraphThetaError, ValueError):
    """An argument, an option or a name is wrong."""


class GraphFormatError(GraphThetaError, ValueError):
    """The input data are wrong: ids, columns, types, lengths or values."""


class UnknownNode(GraphFormatError):
    """An original id, a node key or a new id names no node of the graph."""


class TraceError(GraphThetaError, ValueError):
    """A layer's `gather` cannot be recorded, or is not a function of one edge.

    Not a TypeError: torch's operators would turn it into "unsupported operand".
    """


class PartitionError(GraphThetaError):
    """A graph cannot be partitioned as asked."""


class StoreError(PartitionError):
    """A store is missing, damaged, or of a format this version does not read."""


class CommError(GraphThetaError):
    """Workers could not go on together."""


class ExchangeTimeout(CommError):
    """A worker waited longer than the timeout for the others."""


class CollectiveMismatch(CommError):
    """Two workers are in different operations, or disagree on a shape or type."""


class WorkerFailed(CommError):
    """Another worker failed first.

    Attributes:
        rank: The rank that failed.
    """

    def __init__(self, rank: int, message: str) -> None:
        super().__init__(message)
        self.rank = rank


class EngineError(GraphThetaError):
    """A server of the engine could not answer."""


class LimitExceeded(EngineError):
    """A request asks for more than the server allows one to."""


class WrongServer(EngineError):
    """A server speaks another version of the protocol, or serves another store."""


class Unreachable(EngineError):
    """No server is there, or it is busy or stopping."""


class CallTimeout(EngineError):
    """An answer did not come before the deadline of the call."""
