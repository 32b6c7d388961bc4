"""`graphtheta communities`: detect communities of a store's nodes, for cluster-batches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from graphtheta.cli.terminal.help import argument, option
from graphtheta.cli.terminal.show import show_rows

__all__ = ["communities"]


def communities(
    store: Annotated[Path, argument("STORE")],
    method: Annotated[str, option("NAME")] = "leiden",
    name: Annotated[str | None, option("NAME", default="name of the method")] = None,
    count: Annotated[int | None, option("INTEGER")] = None,
    resolution: Annotated[float | None, option("FLOAT", default="1")] = None,
    seed: Annotated[int, option("INTEGER")] = 0,
) -> None:
    """Detect communities of a store's nodes, for cluster-batches.

    They are written to communities/NAME in the store. All edges are in memory while they are
    detected.

    Args:
        store: Store to add the communities to. The graph is not changed.
        method: Detection method: {communities}. multilevel makes communities of equal size.
        name: Name of the communities in the store.
        count: Number of communities; required by multilevel, and only used by it.
        resolution: Resolution of louvain and leiden. Higher values give more communities.
        seed: Random seed of the method.

    Example:
      graphtheta communities store --method multilevel --count 1500 --name clusters
    """
    import numpy as np

    from graphtheta.cli.terminal.progress import PhaseProgress
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
        resources=Resources(comm, progress=PhaseProgress(shown=not comm.rank)),
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
