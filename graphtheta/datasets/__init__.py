"""Data sets: bundled ones, and readers of the formats in which others are published.

`DATASETS` lists the data sets of `load`, and `READERS` the formats that `read` recognises.
`graphtheta.datasets.generate` generates graphs of any size. A new reader is a module with
`recognises(path)` and `read(path, **options)`, and a line in `READERS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

from graphtheta.data.graph import Graph
from graphtheta.data.mapping import natural_key
from graphtheta.data.reverse import WithReverse
from graphtheta.datasets import (
    bitcoin_otc,
    edge_list,
    graphsaint,
    musae,
    npz,
    openke,
    planetoid,
    tables,
    wordnet,
)
from graphtheta.datasets.typed import folder, graphstorm, ogb, relbench
from graphtheta.errors import ConfigError
from graphtheta.wording import some

if TYPE_CHECKING:
    from graphtheta.data.source import GraphSource

__all__ = ["DATASETS", "READERS", "Reader", "load", "read", "takes"]


class Reader(Protocol):
    """Interface of a module that reads one format."""

    @property
    def recognises(self) -> Callable[[str], bool]:
        """Function that returns whether a path or URI has this format, and does not raise."""

    @property
    def read(self) -> Callable[..., GraphSource]:
        """Function that reads a path or URI, with keyword options of the format."""


def _cora() -> Graph:
    with resources.as_file(resources.files(__name__) / "cora") as folder:
        return Graph.from_source(tables.read(str(folder)))


DATASETS: dict[str, Callable[[], Graph]] = {"cora": _cora}
READERS: dict[str, Reader] = {
    "planetoid": planetoid,
    "bitcoin-otc": bitcoin_otc,
    "wordnet": wordnet,
    "openke": openke,
    "graphsaint": graphsaint,
    "musae": musae,
    "npz": npz,
    "typed-tables": folder,
    "relbench": relbench,
    "ogb": ogb,
    "graphstorm": graphstorm,
    "tables": tables,
    "edge-list": edge_list,
}


def load(name: str) -> Graph:
    """Return a bundled data set.

    Raises:
        ConfigError: If there is no data set of this name.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"load: expected a data set among {', '.join(DATASETS)}, got {name!r}. "
            f"Read files of your own with graphtheta.datasets.read."
        )
    return DATASETS[name]()


def read(uri: str, *, add_reverse: bool = False, **options: Any) -> GraphSource:
    """Read a graph in any known format, or a bundled data set.

    Args:
        uri: Name of a data set; or a path or URI of a Planetoid folder (`ind.<name>.*`), a folder
            of Bitcoin OTC, WordNet, OpenKE, GraphSAINT or MUSAE, an npz file or a folder with one,
            a folder with `nodes-<type>` and `edges-<source>-<name>-<destination>` tables, a folder
            of RelBench or of a typed graph of OGB, a JSON file of GraphStorm, a folder with
            `nodes/` and `edges/` or `nodes.parquet` and `edges.parquet` or only edges, or a file
            with an edge list.
        add_reverse: Whether to add the relation `rev_<name>` for each relation, as
            `graphtheta.data.reverse.WithReverse` does.
        options: Options of the reader that recognises it, for example of
            `graphtheta.datasets.tables.read`. With `like`, the recipe of an earlier graph, the
            tables of a folder may have any names, and are recognised by their columns.

    Returns:
        A `Graph`; for tables, databases and edge lists a `FileSource`, which reads rows on request.

    Raises:
        ConfigError: If no reader recognises it, or the reader has no such option.
        GraphFormatError: If the files are damaged or contain wrong values.
    """
    source = _read(uri, options)
    return WithReverse(source) if add_reverse else source


def _read(uri: str, options: dict[str, Any]) -> GraphSource:
    if uri in DATASETS:
        _check_options(f"data set {uri!r}", load, options)
        return load(uri)
    for name, reader in READERS.items():
        if reader.recognises(uri):
            _check_options(f"{name} ({uri})", reader.read, options)
            return reader.read(uri, **options)
    like = options.get("like")
    if like is not None and (found := tables.tables_like(uri, like)) is not None:
        _check_options(uri, tables.read, options)
        return tables.TableSource(*found, **options)
    if folder.resembles(uri):
        return folder.read(uri)  # raises
    got, remedy = _described(uri)
    raise ConfigError(
        f"read: expected a data set ({', '.join(DATASETS)}) or a path of one of the formats "
        f"{', '.join(READERS)}, got {got}. {remedy}"
    )


def _described(uri: str) -> tuple[str, str]:
    """Return what is at a path that no reader recognises, and what the user can do."""
    path = Path(uri)
    if not path.is_dir():
        exists = path.is_file()
        got = f"{uri!r}, a file of another kind" if exists else repr(uri)
        return got, "Convert it." if exists else "Check that the path exists."
    try:
        names = sorted((entry.name for entry in path.iterdir()), key=natural_key)
    except OSError as error:
        return f"{uri!r}, a folder that cannot be read: {error.strerror}", "Check its permissions."
    graphs = [
        name for name in names if any(r.recognises(str(path / name)) for r in READERS.values())
    ]
    got = f"{uri!r}, a folder with {some(names, len(names)) or 'no files'}"
    if not graphs:
        return got, "Check the path."
    if len(graphs) == 1:
        return got, f"Read {graphs[0]}."
    return got, f"Read one of its graphs, such as {graphs[0]}, or name tables with --edges."


def takes(uri: str, option: str) -> bool:
    """Return whether the reader of a path or URI has an option, such as `like`.

    For tables that no reader recognises, it is that of folders of tables.
    """
    if uri in DATASETS:
        return False
    readers = (reader for reader in READERS.values() if reader.recognises(uri))
    return option in _options_of(next(readers, tables).read)


def _options_of(read: Callable[..., object]) -> list[str]:
    _, *parameters = inspect.signature(read, eval_str=True).parameters.values()
    known: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:  # Unpack of a TypedDict
            known += get_args(parameter.annotation)[0].__annotations__
        else:
            known.append(parameter.name)
    return known


def _check_options(where: str, read: Callable[..., object], options: dict[str, Any]) -> None:
    known = _options_of(read)
    for option in options:
        if option not in known:
            raise ConfigError(
                f"{where}: expected options among {', '.join(known) or 'none'}, got {option!r}. "
                f"Leave it out."
            )
