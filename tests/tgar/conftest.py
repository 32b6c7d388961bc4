"""What tests of both executors share."""

from __future__ import annotations

import logging

import pytest

from graphtheta.tgar.compiler import NotLowered


@pytest.fixture
def chunked_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no layer run fused."""
    monkeypatch.setattr(
        "graphtheta.tgar.layer.program_of", lambda *a, **o: NotLowered("a test asks for it")
    )
    monkeypatch.setattr(logging.getLogger("graphtheta"), "disabled", True)


@pytest.fixture(params=["fused", "chunked"])
def executor(request: pytest.FixtureRequest) -> str:
    """Run a test with each executor."""
    if request.param == "chunked":
        request.getfixturevalue("chunked_only")
    return str(request.param)
