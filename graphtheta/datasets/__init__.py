"""Data sets: those that are bundled, and readers of the forms others are published in.

`DATASETS` names what `load` gives; `READERS` what `read` recognises;
`graphtheta.datasets.generate` makes graphs of any size. A new reader is a module with
`recognises(path)` and `read(path, **options)`, and a line in `READERS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

from graphtheta.data.graph import Graph
from graphtheta.datasets import bitcoin_otc, edge_list, npz, planetoid, tables, wordnet
from graphtheta.errors import ConfigError

if TYPE_CHECKING:
    from graphtheta.data.source import GraphSource

__all__ = ["DATASETS", "READERS", "Reader", "load", "read"]


class Reader(Protocol):
    """What a module that reads one form of data offers."""

    @property
    def recognises(self) -> Callable[[str], bool]:
        """Whether a path or URI is of this form; must not raise."""

    @property
    def read(self) -> Callable[..., GraphSource]:
        """Read a path or URI, with keyword options of the form's own."""


def _cora() -> Graph:
    with resources.as_file(resources.files(__name__) / "cora") as folder:
        return Graph.from_source(tables.read(str(folder)))


DATASETS: dict[str, Callable[[], Graph]] = {"cora": _cora}
READERS: dict[str, Reader] = {
    "planetoid": planetoid,
    "bitcoin-otc": bitcoin_otc,
    "wordnet": wordnet,
    "npz": npz,
    "tables": tables,
    "edge-list": edge_list,
}


def load(name: str) -> Graph:
    """Return a bundled data set.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"load: expected a data set among {', '.join(DATASETS)}, got {name!r}. "
            f"Read files of your own with graphtheta.datasets.read."
        )
    return DATASETS[name]()


def read(uri: str, **options: Any) -> GraphSource:
    """Return the graph at a path or URI, whatever its form, or a bundled one.

    Args:
        uri: The name of a data set; a Planetoid folder (`ind.<name>.*`); a folder of Bitcoin OTC or
            of WordNet; an npz file, or a folder with one; a folder with `nodes/` and `edges/`, or
            `nodes.parquet` and `edges.parquet`, or edges only; or an edge list in one file.
        options: Those of the reader that recognises it, for example
            `graphtheta.datasets.tables.read`.

    Returns:
        A `Graph`; of tables and edge lists a `TableSource`, which reads rows when asked.

    Raises:
        ConfigError: If nothing recognises it, or the reader has no such option.
        GraphFormatError: If the files are damaged or hold wrong values.
    """
    if uri in DATASETS:
        _check_options(f"data set {uri!r}", load, options)
        return load(uri)
    for name, reader in READERS.items():
        if reader.recognises(uri):
            _check_options(f"{name} ({uri})", reader.read, options)
            return reader.read(uri, **options)
    raise ConfigError(
        f"read: expected a data set ({', '.join(DATASETS)}) or a path of one of the forms "
        f"{', '.join(READERS)}, got {uri!r}. Check that the path exists."
    )


def _check_options(where: str, read: Callable[..., object], options: dict[str, Any]) -> None:
    _, *known = inspect.signature(read).parameters
    for option in options:
        if option not in known:
            raise ConfigError(
                f"{where}: expected options among {', '.join(known) or 'none'}, got {option!r}. "
                f"Leave it out."
            )
