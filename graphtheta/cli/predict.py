"""`graphtheta predict`: predictions for nodes or edges, with the best weights of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["predict"]


def predict(
    run_dir: Annotated[Path, typer.Argument(help="The --run-dir of a run that is over.")],
    input: Annotated[str, typer.Argument(help="A store or another input, as for train.")],
    out: Annotated[Path, typer.Option(help="New folder of the Parquet files, one a worker.")],
    embeddings: Annotated[
        bool, typer.Option("--embeddings", help="Add what the last layer reads.")
    ] = False,
    nodes: Annotated[
        str | None,
        typer.Option(help="Table of the ids to predict, in a column id; by default all nodes."),
    ] = None,
    edges: Annotated[
        str | None,
        typer.Option(
            help="Of --task edge or link: table of the pairs to predict, in columns src and dst, "
            "and the relation under its name."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda, as for train.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="Threads a worker, as for train.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds a worker waits for another.")] = 1800.0,
) -> None:
    """Predict every node of a graph, or those of --nodes by what they reach alone, or --edges.

    Columns: id (the original one), prediction, probability and, if asked for, embedding; of edges
    src, dst, the relation, prediction and probability: of a link, that it is there.

    Example: mpiexec -n 2 graphtheta predict runs/gat store --out predictions

    Example: graphtheta predict runs/link store --edges pairs.parquet --out predictions
    """
    from graphtheta.comm.launch import communicator, set_threads, threads_per_rank

    comm = communicator(timeout)
    set_threads(threads or threads_per_rank())

    from graphtheta.run.run import predict_run

    predicted = predict_run(
        run_dir, input, out, comm, embeddings=embeddings, nodes=nodes, edges=edges, device=device
    )
    what = "nodes" if edges is None else "edges"
    print(f"predictions for {predicted:,} {what} are in {out}")
