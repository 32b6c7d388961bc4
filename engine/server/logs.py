"""Logging of a server: one line of JSON for each event, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time

from graphtheta.errors import GraphThetaError

__all__ = ["log_as_json"]

_LONGEST = 4000  # characters of a text in an event, which may contain input of clients

# Attributes of every log record; all others were passed as `extra`.
_STANDARD = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        event |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        for name, value in event.items():
            if isinstance(value, str) and len(value) > _LONGEST:
                event[name] = GraphThetaError.shorten(value, _LONGEST)
        return json.dumps(event, default=str)


def log_as_json(*, verbose: bool) -> None:
    """Log the engine's events to standard error: failed calls, or all calls if `verbose`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter())
    log = logging.getLogger("graphtheta.engine")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
