"""`graphtheta export`: from a store to the folder of another system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    form: Annotated[str, typer.Argument(help="One of {exporters}.")],
    store: Annotated[Path, typer.Argument(help="The store.")],
    out: Annotated[Path, typer.Argument(help="The directory to write.")],
    name: Annotated[
        str, typer.Option(help="Name of the graph in DGL's forms; by default the store's folder.")
    ] = "",
) -> None:
    """Write a store as the partition folder of DGL or PyG, with the same parts and columns.

    dgl and pyg keep an edge with its destination, and take no store of a vertex-cut.

    Example: graphtheta export pyg store pyg-folder
    """
    from graphtheta.comm.launch import communicator
    from graphtheta.export import export as write
    from graphtheta.partition import open_store

    opened = open_store(store)
    if communicator().rank == 0:  # the other ranks of a job wait at its end
        write(form, opened, out, name=name)
    print(f"{opened.num_parts:,} parts of {opened.manifest.num_nodes:,} nodes are in {out}")
