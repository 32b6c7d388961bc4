"""Wrong addresses, ports and ids are refused in one line, and integers of any type are ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphtheta.engine import connect
from graphtheta.engine.server.metrics import Metrics
from graphtheta.engine.wire.address import check_address
from graphtheta.errors import ConfigError, GraphFormatError
from tests.engine.stores import make, serving, weighted


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("h:65536", "expected a port from 0 to 65,535, got 65536"),
        ("h:-1", "expected a port from 0 to 65,535, got -1"),
        ("foo", "expected HOST:PORT, got 'foo', without a port"),
        ("", "expected HOST:PORT, got ."),
        (None, "expected HOST:PORT or a list of them, got None"),
        (7456, "got 7456"),
        (b"h:1", "got b'h:1'"),
        ([7], "expected HOST:PORT, got 7"),
    ],
)
def test_wrong_addresses_are_refused(address: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        connect(address)


def test_wrong_ports_and_seconds_are_refused() -> None:
    assert check_address("[::1]:0", "--bind") == "[::1]:0"
    assert check_address("unix:/tmp/socket", "--bind") == "unix:/tmp/socket"
    with pytest.raises(ConfigError, match="--metrics-port: expected a port from 0 to 65,535"):
        Metrics().serve("127.0.0.1", 99_999)
    for seconds in ("x", -1, float("nan"), None):
        with pytest.raises(ConfigError, match="timeout_s: expected a finite number > 0"):
            connect("h:1", timeout_s=seconds)  # type: ignore[arg-type]


def test_integers_of_any_type_are_ids(tmp_path: Path) -> None:
    make(weighted(text_ids=False), tmp_path / "store", 2, "node-hash")
    with serving(tmp_path / "store", 1) as remote:
        ids = remote.columns([4, 5, 6], ["original_id"], "node_key")["original_id"]
        for kind in (">i8", "<u8", ">i4", "u2"):
            np.testing.assert_array_equal(
                remote.columns(ids.astype(kind), ["node_key"])["node_key"], [4, 5, 6]
            )
            found = remote.columns(np.array([4, 5, 6], kind), ["original_id"], "node_key")
            np.testing.assert_array_equal(found["original_id"], ids)
        for wrong in ([2**70], np.array([2**63], np.uint64), [True, False], ids[None], ids + 0.5):
            with pytest.raises(GraphFormatError, match="ids: expected a list of values"):
                remote.columns(wrong, ["node_key"])
