"""Fixtures for tests of both executors."""

from __future__ import annotations

import logging

import pytest

from graphtheta.tgar.compiler import NotLowered


@pytest.fixture(autouse=True)
def _no_warnings_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test see the first warning about a layer."""
    monkeypatch.setattr("graphtheta.tgar.layer._warned", set())


@pytest.fixture
def chunked_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no layer run fused."""
    monkeypatch.setattr(
        "graphtheta.tgar.layer.program_of", lambda *a, **o: NotLowered("disabled by a test")
    )
    monkeypatch.setattr(logging.getLogger("graphtheta"), "disabled", True)


@pytest.fixture(params=["fused", "chunked"])
def executor(request: pytest.FixtureRequest) -> str:
    """Run a test with each executor."""
    if request.param == "chunked":
        request.getfixturevalue("chunked_only")
    return str(request.param)
