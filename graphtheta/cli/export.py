"""`graphtheta export`: convert a store for another system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from graphtheta.cli.terminal.help import argument, option
from graphtheta.wording import counted

__all__ = ["export"]


def export(
    form: Annotated[str, argument("FORMAT")],
    store: Annotated[Path, argument("STORE")],
    out: Annotated[Path, argument("OUT")],
    name: Annotated[str, option("NAME", default="name of the store's directory")] = "",
) -> None:
    """Convert a store to a partitioned graph of DGL or PyG.

    Parts and columns stay the same. The formats dgl and pyg keep an edge with its destination, so
    that they cannot hold a vertex-cut; dgl-chunked can.

    Args:
        form: Format to write: {exporters}.
        store: Store to convert.
        out: Directory to write to; new or empty.
        name: Name of the graph (DGL formats).

    Example:
      graphtheta export pyg store pyg-folder
    """
    from graphtheta.comm.launch import communicator
    from graphtheta.export import export as write
    from graphtheta.partition import open_store

    opened = open_store(store)
    if communicator().rank == 0:  # the other ranks wait for it when the job ends
        write(form, opened, out, name=name)
    print(
        f"wrote {counted(opened.num_parts, 'part')} of "
        f"{counted(opened.manifest.num_nodes, 'node')} to {out}"
    )
