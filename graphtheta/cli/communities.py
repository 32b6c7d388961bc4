"""`graphtheta communities`: find communities of a store's nodes, for batches of clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphtheta.cli.phases import Phases
from graphtheta.cli.show import show_rows

__all__ = ["communities"]


def communities(
    store: Annotated[Path, typer.Argument(help="The store; nothing of the graph is changed.")],
    method: Annotated[str, typer.Option(help="One of {communities}.")] = "leiden",
    name: Annotated[
        str | None, typer.Option(help="What they are called there; by default as the method.")
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="How many, of multilevel; it makes them of equal size.")
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(help="How fine, of louvain and leiden; more makes more; by default 1."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the method.")] = 0,
) -> None:
    """Find communities of a store's nodes, and keep them in its folder communities/NAME.

    The whole topology is in memory meanwhile.

    Example: graphtheta communities store --method multilevel --count 1500 --name clusters
    """
    import numpy as np

    from graphtheta.comm.launch import communicator
    from graphtheta.partition import Resources, open_store
    from graphtheta.partition.analysis.detect_communities import detect
    from graphtheta.partition.store.communities import communities_folder, write_communities
    from graphtheta.partition.store.edges import stored_edges
    from graphtheta.runtime.atomic import refuse_occupied

    opened, called = open_store(store), name or method
    refuse_occupied(communities_folder(opened, called))
    comm = communicator()
    found = detect(
        stored_edges(opened),
        method,
        num_communities=count,
        resolution=resolution,
        seed=seed,
        resources=Resources(comm, progress=Phases(shown=not comm.rank)),
    )
    if comm.rank == 0:
        write_communities(opened, called, found, method=method)
        sizes = np.bincount(found)
        rows = [
            ("communities", f"{len(sizes):,}"),
            ("nodes of the largest", f"{sizes.max():,}"),
            ("nodes of the median", f"{int(np.median(sizes)):,}"),
        ]
        show_rows(rows, title=f"{opened.path}/communities/{called} by {method}")
    comm.barrier(stage="communities: written")
