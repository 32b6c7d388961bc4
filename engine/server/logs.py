"""Logs of a server: one line of JSON an event, to standard error."""

from __future__ import annotations

import json
import logging
import sys
import time

__all__ = ["log_as_json"]

_PLAIN = vars(logging.makeLogRecord({})).keys() | {"message", "asctime"}


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        said |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def log_as_json(*, verbose: bool) -> None:
    """Write the engine's events to standard error: failed calls, or with `verbose` every call."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    log = logging.getLogger("graphtheta.engine")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
