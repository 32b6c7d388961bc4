"""Set-up for all tests."""

from __future__ import annotations

import sys

import pytest


def pytest_collection_finish(session: pytest.Session) -> None:
    """Give torch one thread, where some test has loaded it.

    Workers are threads here: on few cores they, and jobs beside them, would spin for one another's
    OpenMP threads, which made some tests thirty times slower.
    """
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
