"""`graphtheta predict`: predict nodes or edges with the best weights of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from graphtheta.cli.terminal.help import Threads, argument, flag, option

__all__ = ["predict"]


def predict(
    run_dir: Annotated[Path, argument("RUN_DIR")],
    input: Annotated[str, argument("INPUT")],
    out: Annotated[Path, option("PATH")],
    embeddings: Annotated[bool, flag("--embeddings")] = False,
    nodes: Annotated[str | None, option("PATH", default="all nodes")] = None,
    edges: Annotated[str | None, option("PATH")] = None,
    smooth: Annotated[bool, flag("--smooth")] = False,
    device: Annotated[str, option("[cpu|cuda]", panel="Machine")] = "cpu",
    threads: Threads = None,
    timeout: Annotated[float, option("FLOAT", panel="Machine")] = 1800.0,
) -> None:
    """Predict nodes or edges of a graph with a trained model.

    The files have the columns id (as in the input), prediction, probability and, on request,
    embedding. For pairs of nodes: src, dst, the relation column, prediction, probability; in link
    prediction this is the probability that the edge exists. Yes is predicted from the threshold in
    the summary.json of the run, which has the highest F1 score on its validation split.

    Args:
        run_dir: Directory of a finished run (--run-dir of graphtheta train).
        input: Store, name of a bundled data set ({datasets}), or path or URI of a graph.
        out: Directory for the Parquet files, one per worker; new or empty. In a graph of several
            node types, they are in a folder with the name of the type that is predicted.
        embeddings: Also write the input of the last layer (node prediction).
        nodes: Table of the nodes to predict, with their ids in a column id (node prediction).
        edges: Table of the pairs of nodes to predict, with columns src and dst, and the relation
            column of the run if it has one (edge and link prediction).
        smooth: Correct and smooth the predictions by the labels of the graph's training nodes
            (node prediction of classes).
        device: Device. With cuda, each worker of a host takes one of its GPUs.
        threads: Threads per worker.
        timeout: Seconds to wait for another worker before the job is aborted.

    Example:
      mpiexec -n 2 graphtheta predict runs/gat store --out predictions
      graphtheta predict runs/link store --edges pairs.parquet --out predictions
    """
    from graphtheta.cli.worker import start_worker

    comm, _ = start_worker(threads, timeout=timeout, allocator="training")

    from graphtheta.run.run import predict_run

    predicted = predict_run(
        run_dir,
        input,
        out,
        comm,
        embeddings=embeddings,
        nodes=nodes,
        edges=edges,
        smooth=smooth,
        device=device,
    )
    what = "nodes" if edges is None else "edges"
    print(f"wrote predictions of {predicted:,} {what} to {out}")
