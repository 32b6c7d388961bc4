"""Export of stores to the partition folders of other systems.

A format is one module here with `write(store, folder, name)`, and one line in `EXPORTERS`. Modules
are imported when they are used: those of DGL and PyG need torch, and that of DGL needs dgl.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from graphtheta.data.schema import need_name
from graphtheta.partition.store.store import Store, open_store
from graphtheta.runtime.atomic import atomic_folder

__all__ = ["EXPORTERS", "export"]

EXPORTERS: dict[str, str] = {
    "dgl": "graphtheta.export.dgl",
    "dgl-chunked": "graphtheta.export.dgl_chunked",
    "pyg": "graphtheta.export.pyg",
}


def export(format: str, store: Store | Path | str, out: Path | str, *, name: str = "") -> None:
    """Write a store in the format of another system, into a new folder.

    One process writes, and it loads one part at a time; the module of a format describes what else
    it needs. The folder is written under a temporary name and renamed when it is complete.

    Args:
        format: A key of `EXPORTERS`.
        store: The store, or its path.
        out: Folder to write, which does not exist or is empty.
        name: Name of the graph, if the format has one. Defaults to the name of the store's folder.

    Raises:
        ConfigError: If the format is unknown, or cannot represent the cut of the store; if two
            columns would get the same name; or if a library is missing.
        StoreError: If the store is missing or damaged, or `out` is not empty.
    """
    need_name(format, EXPORTERS, "format (FORMAT)")
    opened = store if isinstance(store, Store) else open_store(store)
    write = import_module(EXPORTERS[format]).write
    with atomic_folder(out) as folder:
        write(opened, folder, name or opened.path.resolve().name or "graph")
