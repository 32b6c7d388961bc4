"""`graphtheta predict`: predict nodes or edges with the best weights of a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from graphtheta.cli.terminal.help import Threads, argument, flag, option
from graphtheta.wording import some

if TYPE_CHECKING:
    from graphtheta.run.prediction_writer import PredictedLabel

__all__ = ["predict"]


def predict(
    run_dir: Annotated[Path, argument("RUN_DIR")],
    input: Annotated[str, argument("INPUT")],
    out: Annotated[Path, option("PATH")],
    embeddings: Annotated[bool, flag("--embeddings")] = False,
    nodes: Annotated[str | None, option("PATH", default="all nodes")] = None,
    edges: Annotated[str | None, option("PATH")] = None,
    threshold: Annotated[float | None, option("FLOAT", default="that of the run")] = None,
    smooth: Annotated[bool, flag("--smooth")] = False,
    device: Annotated[str, option("[cpu|cuda]", panel="Machine")] = "cpu",
    threads: Threads = None,
    timeout: Annotated[float, option("FLOAT", panel="Machine")] = 1800.0,
) -> None:
    """Predict nodes or edges of a graph with a trained model.

    The files have the columns id (as in the input), prediction, probability and, on request,
    embedding. For pairs of nodes: src, dst, the relation column, prediction, probability; in link
    prediction this is the probability that the edge exists. Of a yes-or-no label, it is the
    probability of yes, and of classes a list, in the order of the classes in label.json of the run.

    Args:
        run_dir: Directory of a finished run (--run-dir of graphtheta train).
        input: Store, name of a bundled data set ({datasets}), or path or URI of a graph, such as a
            folder with a table of nodes and one of edges, of any names, which have the columns of
            the tables that the run was trained on, and are encoded alike.
        out: Directory for the Parquet files, one per worker; new or empty. In a graph of several
            node types, they are in a folder with the name of the type that is predicted.
        embeddings: Also write the input of the last layer (node prediction).
        nodes: Table of the nodes to predict, with their ids in a column id (node prediction).
        edges: Table of the pairs of nodes to predict, with columns src and dst, and the relation
            column of the run if it has one (edge and link prediction).
        threshold: Probability from which yes is predicted. That of the run has the highest F1 score
            on its validation split.
        smooth: Correct and smooth the predictions by the labels of the graph's training nodes
            (node prediction of classes).
        device: Device. With cuda, each worker of a host takes one of its GPUs.
        threads: Threads per worker.
        timeout: Seconds to wait for another worker before the job is aborted.

    Example:
      mpiexec -n 2 graphtheta predict runs/gat store --out predictions
      graphtheta predict runs/fraud february/ --threshold 0.9 --out scores
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
        threshold=threshold,
        device=device,
    )
    what = "nodes" if edges is None else "edges"
    print(f"wrote predictions of {predicted.rows:,} {what} to {out}")
    for line in _explanation(predicted.label):
        print(line)


def _explanation(label: PredictedLabel) -> Iterator[str]:
    """Yield from which probability yes is predicted, and which classes probabilities are of."""
    from graphtheta.task.metrics.scored import kind_of

    names = label.classes
    if kind_of(label) == "binary":
        yes = (
            names[label.positive] if names else "yes" if label.task == "binary" else label.positive
        )
        limit = 0.5 if label.threshold is None else label.threshold
        yield f"prediction: {yes} from a probability of {limit:.4g}"
    if names and label.task == "multiclass":
        yield f"probability: of {some(names, len(names))}, in the order of classes in label.json"
