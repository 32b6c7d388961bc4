"""Graphs that are made, not collected: of any size, in parallel, and the same for a seed.

A generator is a module with a function of its name, and a line in `GENERATORS`. It writes a folder
of Parquet tables that `graphtheta.datasets.read` and `graphtheta partition` read.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from graphtheta.datasets.generate.attributed import attributed
from graphtheta.datasets.generate.communities import communities
from graphtheta.datasets.generate.rmat import rmat, rmat_edges

__all__ = ["GENERATORS", "attributed", "communities", "rmat", "rmat_edges"]

GENERATORS: dict[str, Callable[..., Path]] = {
    "rmat": rmat,
    "communities": communities,
    "attributed": attributed,
}
