"""Set-up for all tests."""

from __future__ import annotations

import os
import sys

import pytest

from graphtheta.runtime.versions import TESTED, installed_version

# Stores that are made on the way write many small files: a file system in memory is faster.
if os.access("/dev/shm", os.W_OK):
    os.environ.setdefault("TMPDIR", "/dev/shm")


def pytest_report_header(config: pytest.Config) -> str:
    """Print the versions that this run tests."""
    versions = (f"{package} {installed_version(package)}" for package in TESTED)
    return f"versions: {', '.join(versions)}"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Give torch one thread, where some test has loaded it.

    Workers are threads here: on few cores they, and jobs beside them, would spin for one another's
    OpenMP threads, which made some tests thirty times slower.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
