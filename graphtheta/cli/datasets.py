"""`graphtheta datasets`: make graphs of any size, and list the data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from graphtheta.cli.show import show_rows

__all__ = ["datasets"]

datasets = typer.Typer()
_make = typer.Typer()
datasets.add_typer(_make, name="make")

_Out = Annotated[Path, typer.Argument(help="The directory to write; new, or empty.")]
_Nodes = Annotated[int, typer.Option(help="Number of nodes.")]
_EdgeFactor = Annotated[int, typer.Option(help="Edges for each node.")]
_Seed = Annotated[int, typer.Option(help="Which graph.")]


@datasets.callback(invoke_without_command=True)
def _datasets(context: typer.Context) -> None:
    """Make graphs, and list the data sets there are.

    Example: graphtheta datasets list
    """
    if context.invoked_subcommand is None:
        context.get_help()


@datasets.command("list")
def _list() -> None:
    """List the data sets by name.

    Example: graphtheta datasets list
    """
    from graphtheta.datasets import DATASETS, READERS
    from graphtheta.datasets.generate import GENERATORS

    rows: dict[str, Iterable[str]] = {
        "bundled": DATASETS,
        "made by datasets make": GENERATORS,
        "read from files": READERS,
    }
    show_rows([(kind, ", ".join(names)) for kind, names in rows.items()])


@_make.callback(invoke_without_command=True)
def _made(context: typer.Context) -> None:
    """Make a graph, as Parquet tables: the same for a seed, on any number of workers.

    Example: graphtheta datasets make rmat graph --scale 20
    """
    if context.invoked_subcommand is None:
        context.get_help()


@_make.command("rmat")
def _rmat(
    out: _Out,
    scale: Annotated[int, typer.Option(help="Binary logarithm of the vertices.")] = 20,
    edge_factor: _EdgeFactor = 16,
    ids: Annotated[
        str,
        typer.Option(
            help="dense: 0 to 2^scale - 1. int64: the same shuffled over 63 bits. string: these "
            "in hexadecimal."
        ),
    ] = "dense",
    scramble: Annotated[
        bool, typer.Option(help="Shuffle the vertices, as Graph500 does; else 0 is the hub.")
    ] = True,
    nodes: Annotated[
        bool, typer.Option("--nodes", help="Write a table of all vertices, edges or none.")
    ] = False,
    seed: _Seed = 0,
) -> None:
    """Make the graph of Graph500: a few hubs, most vertices with few edges or none.

    Example: graphtheta datasets make rmat graph --scale 20 --edge-factor 16
    """
    from graphtheta.datasets.generate import rmat

    _write(
        rmat,
        out,
        scale=scale,
        edge_factor=edge_factor,
        ids=ids,
        scramble=scramble,
        with_nodes=nodes,
        seed=seed,
    )


@_make.command("communities")
def _communities(
    out: _Out,
    nodes: _Nodes = 100_000,
    edge_factor: _EdgeFactor = 16,
    features: Annotated[int, typer.Option(help="Features of a node.")] = 64,
    classes: Annotated[int, typer.Option(help="Classes of nodes.")] = 16,
    group_size: Annotated[int, typer.Option(help="Nodes of a group.")] = 256,
    inside: Annotated[float, typer.Option(help="Fraction of edges inside groups.")] = 0.8,
    degrees: Annotated[str, typer.Option(help="power-law or uniform.")] = "power-law",
    seed: _Seed = 0,
) -> None:
    """Make planted communities, with features and labels that can be learned.

    Example: graphtheta datasets make communities graph --nodes 100000 --inside 0.9
    """
    from graphtheta.datasets.generate import communities

    _write(
        communities,
        out,
        nodes=nodes,
        edge_factor=edge_factor,
        features=features,
        classes=classes,
        group_size=group_size,
        inside=inside,
        degrees=degrees,
        seed=seed,
    )


@_make.command("attributed")
def _attributed(
    out: _Out,
    nodes: _Nodes = 100_000,
    edge_factor: _EdgeFactor = 3,
    node_attributes: Annotated[int, typer.Option(help="Attributes of a node.")] = 575,
    edge_attributes: Annotated[int, typer.Option(help="Attributes of an edge.")] = 57,
    seed: _Seed = 0,
) -> None:
    """Make a power-law graph with many attributes on nodes and edges, and labels of both.

    Example: graphtheta datasets make attributed graph --nodes 100000
    """
    from graphtheta.datasets.generate import attributed

    _write(
        attributed,
        out,
        nodes=nodes,
        edge_factor=edge_factor,
        node_attributes=node_attributes,
        edge_attributes=edge_attributes,
        seed=seed,
    )


def _write(generate: Callable[..., Path], out: Path, **arguments: Any) -> None:
    from graphtheta.comm.launch import communicator, set_threads, threads_per_rank

    comm = communicator()
    set_threads(threads_per_rank())
    with _bar(shown=comm.rank == 0) as progress:
        generate(out, comm=comm, threads=threads_per_rank(), progress=progress, **arguments)
    print(f"the graph is in {out}; go on with: graphtheta partition {out} STORE --parts 8")


@contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show the rows that this rank has written, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(show_speed=True), TimeRemainingColumn())
    disable = not (shown and console.is_terminal)
    with Progress("rows", *columns, console=console, disable=disable) as bar:
        task = bar.add_task("rows", total=None)
        yield lambda rows, total: bar.update(task, advance=rows, total=total)
