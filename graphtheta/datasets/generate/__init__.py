"""Generators of graphs of any size, which are the same for a seed on any number of workers.

A generator is a module with a function of the same name, and a line in `GENERATORS`. It writes a
folder of Parquet tables, which `graphtheta.datasets.read` and `graphtheta partition` read.
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
