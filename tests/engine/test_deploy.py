"""The commands in docs/deploy start a server of a part, which stops on SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest
import trustme

from graphtheta.engine import connect
from graphtheta.engine.client.connection import Tls
from graphtheta.errors import ConfigError
from tests.engine.processes import ServerProcess
from tests.engine.stores import make, weighted
from tests.jobs import running

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy"


def replaced(text: str, given: dict[str, object]) -> str:
    """Replace strings that must occur in a text."""
    for old, new in given.items():
        assert old in text, (old, text)
        text = text.replace(old, str(new))
    return text


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make(weighted(), tmp_path / "store", 2, "node-hash")
    return tmp_path / "store"


def checked(command: list[str], tls: Tls | None, **environment: str) -> None:
    """Start a server of part 1 of two, which alone is not enough for a client, and stop it."""
    with running(command, env=os.environ | environment) as process:
        server = ServerProcess(process)
        assert server.lines[0].startswith("serving parts 1 of")
        with pytest.raises(ConfigError, match="got none for 0"):
            connect(server.address, tls=tls, timeout_s=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_systemd_unit(store: Path) -> None:
    text = (DEPLOY / "graphtheta@.service").read_text()
    found = re.search(r"ExecStart=/bin/sh -c '(.*?)'\n", text.replace("\\\n", " "), re.DOTALL)
    assert found is not None
    line = replaced(found[1], {"7400 + %i": 0, "9400 + %i": 0, "%i": 1})
    venv = Path(sys.executable).parents[1]
    checked(["/bin/sh", "-c", line], None, STORE=str(store), VENV=str(venv))


def test_kubernetes_pod(store: Path, tmp_path: Path) -> None:
    text = (DEPLOY / "engine.yaml").read_text()
    found = re.search(r"exec graphtheta (.*?)\n +env:", text, re.DOTALL)
    assert found is not None
    ca = trustme.CA()
    pair = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(tmp_path / "ca.crt")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    pair.private_key_pem.write_to_path(tmp_path / "tls.key")
    local: dict[str, object] = {
        "/store": store,
        "/tls/": f"{tmp_path}/",
        "0.0.0.0:7400": "127.0.0.1:0",
        "9400": 0,
    }
    line = replaced(" ".join(found[1].split()), local)
    tls = Tls(tmp_path / "ca.crt", tmp_path / "tls.crt", tmp_path / "tls.key")
    shell = ["/bin/bash", "-c", f"exec {sys.executable} -m graphtheta {line}"]
    checked(shell, tls, HOSTNAME="graphtheta-1")
