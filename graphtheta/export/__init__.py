"""From a store to the folders of other systems, part by part.

A form is one file here that has `write(store, folder, name)`, and one line in `EXPORTERS`. The
files are imported when asked for: DGL's and PyG's need torch, DGL's needs dgl.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from graphtheta.errors import ConfigError
from graphtheta.partition.store.store import Store, open_store
from graphtheta.runtime.atomic import atomic_folder

__all__ = ["EXPORTERS", "export"]

EXPORTERS: dict[str, str] = {
    "dgl": "graphtheta.export.dgl",
    "dgl-chunked": "graphtheta.export.dgl_chunked",
    "pyg": "graphtheta.export.pyg",
}


def export(form: str, store: Store | Path | str, out: Path | str, *, name: str = "") -> None:
    """Write a store in another system's form, into a new folder.

    One process writes. It holds one part at a time; what a form needs beyond that, its module says.
    The folder is written beside its place and renamed when whole.

    Args:
        form: A key of `EXPORTERS`.
        store: The store, or its path.
        out: A directory that does not exist yet, or is empty.
        name: Name of the graph, where the form has one; by default that of the store's folder.

    Raises:
        ConfigError: If there is no such form; the store is cut in a way that the form cannot say;
            two columns would get one name; or a library is missing.
        StoreError: If the store is missing or damaged, or `out` is occupied.
    """
    if form not in EXPORTERS:
        raise ConfigError(f"export: unknown form {form!r}. Choose one of {', '.join(EXPORTERS)}.")
    opened = store if isinstance(store, Store) else open_store(store)
    write = import_module(EXPORTERS[form]).write
    with atomic_folder(out) as folder:
        write(opened, folder, name or opened.path.resolve().name or "graph")
