"""`graphtheta propagate`: predict nodes from the labels of their neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from graphtheta.cli.terminal.help import argument, option

__all__ = ["propagate"]


def propagate(
    input: Annotated[str, argument("INPUT")],
    out: Annotated[Path, option("PATH")],
    label: Annotated[str | None, option("NAME", default="y, or the only one")] = None,
    split: Annotated[str | None, option("NAME", default="split, or the only one")] = None,
    steps: Annotated[int, option("INTEGER")] = 50,
    alpha: Annotated[float, option("FLOAT")] = 0.9,
) -> None:
    """Predict nodes by label propagation, without training.

    Classes of training nodes spread along the edges. The files are those of graphtheta predict.

    Args:
        input: Store, name of a bundled data set ({datasets}), or path or URI of a graph.
        out: Directory for the Parquet files, one per worker; new or empty.
        label: Name of the label of classes.
        split: Name of the split into training, validation and test.
        steps: Number of propagation steps.
        alpha: Share of the neighbours in each step, at most 1.

    Example:
      graphtheta propagate cora --out predictions
    """
    from graphtheta.comm.launch import communicator
    from graphtheta.run.propagate import propagate_labels

    comm = communicator()
    accuracy = propagate_labels(
        input, out, comm, label=label, split=split, num_layers=steps, alpha=alpha
    )
    if comm.rank == 0:
        measured = ", ".join(f"{part} accuracy {value:.4f}" for part, value in accuracy.items())
        print(f"wrote predictions to {out}" + (f" ({measured})" if measured else ""))
