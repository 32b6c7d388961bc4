"""`graphtheta datasets`: generate graphs, and list the bundled data sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from graphtheta.cli.terminal.help import Command, argument, command_group, flag, option
from graphtheta.cli.terminal.show import show_rows

__all__ = ["datasets"]

datasets = command_group()
_make = command_group()
datasets.add_typer(_make, name="make")

_Out = Annotated[Path, argument("OUT", "Directory to write the graph to; new or empty.")]
_Nodes = Annotated[int, option("INTEGER", "Number of nodes.")]
_EdgeFactor = Annotated[int, option("INTEGER", "Edges per node, on average.")]
_Seed = Annotated[int, option("INTEGER", "Random seed.")]


@datasets.callback(invoke_without_command=True)
def _datasets(context: typer.Context) -> None:
    """Generate graphs, and list the bundled data sets.

    Example:
      graphtheta datasets list
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@datasets.command("list", cls=Command)
def _list() -> None:
    """List the bundled data sets, the generators and the file formats.

    Example:
      graphtheta datasets list
    """
    from graphtheta.datasets import DATASETS, READERS
    from graphtheta.datasets.generate import GENERATORS

    rows: dict[str, Iterable[str]] = {
        "bundled data sets": DATASETS,
        "generators (graphtheta datasets make)": GENERATORS,
        "file formats": READERS,
    }
    show_rows([(kind, ", ".join(names)) for kind, names in rows.items()])


@_make.callback(invoke_without_command=True)
def _made(context: typer.Context) -> None:
    """Generate a graph, as Parquet tables of nodes and edges.

    The same seed gives the same graph, on any number of workers.

    Example:
      graphtheta datasets make rmat graph --scale 20
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


def _generator(declared: Callable[..., None]) -> Callable[..., None]:
    """Add the command that calls the generator of the same name with the declared options."""
    name = declared.__name__.removeprefix("_")

    @_make.command(name, cls=Command)
    @functools.wraps(declared)
    def write(out: Path, **options: Any) -> None:
        from graphtheta.cli.worker import start_worker

        comm, threads = start_worker()
        from graphtheta.datasets.generate import GENERATORS

        with _bar(shown=comm.rank == 0) as progress:
            GENERATORS[name](out, comm=comm, threads=threads, progress=progress, **options)
        print(f"wrote the graph to {out}; next: graphtheta partition {out} STORE --parts 8")

    return write


@_generator
def _rmat(
    out: _Out,
    scale: Annotated[int, option("INTEGER")] = 20,
    edge_factor: _EdgeFactor = 16,
    ids: Annotated[str, option("[dense|int64|string]")] = "dense",
    scramble: Annotated[bool, typer.Option()] = True,
    with_nodes: Annotated[bool, flag("--nodes")] = False,
    seed: _Seed = 0,
) -> None:
    """Generate an RMAT graph, as in the Graph500 benchmark.

    A few nodes have very many edges; most have few or none.

    Args:
        scale: Binary logarithm of the number of nodes.
        ids: Node ids: dense is 0 to 2^scale - 1, int64 random 63-bit integers, string these in
            hexadecimal.
        scramble: Shuffle the nodes, as Graph500 does. Otherwise node 0 has the most edges.
        with_nodes: Also write a table of all nodes, including those without edges.

    Example:
      graphtheta datasets make rmat graph --scale 20 --edge-factor 16
    """


@_generator
def _communities(
    out: _Out,
    nodes: _Nodes = 100_000,
    edge_factor: _EdgeFactor = 16,
    features: Annotated[int, option("INTEGER")] = 64,
    classes: Annotated[int, option("INTEGER")] = 16,
    group_size: Annotated[int, option("INTEGER")] = 256,
    inside: Annotated[float, option("FLOAT")] = 0.8,
    degrees: Annotated[str, option("[power-law|uniform]")] = "power-law",
    seed: _Seed = 0,
) -> None:
    """Generate a graph with planted communities.

    Nodes have features and a label that can be learned from them.

    Args:
        features: Number of node features.
        classes: Number of node classes.
        group_size: Nodes per community.
        inside: Fraction of edges between nodes of the same community.
        degrees: Distribution of the node degrees.

    Example:
      graphtheta datasets make communities graph --nodes 100000 --inside 0.9
    """


@_generator
def _attributed(
    out: _Out,
    nodes: _Nodes = 100_000,
    edge_factor: _EdgeFactor = 3,
    node_attributes: Annotated[int, option("INTEGER")] = 575,
    edge_attributes: Annotated[int, option("INTEGER")] = 57,
    seed: _Seed = 0,
) -> None:
    """Generate a power-law graph with many node and edge features.

    Nodes have a binary label.

    Args:
        node_attributes: Number of node features.
        edge_attributes: Number of edge features.

    Example:
      graphtheta datasets make attributed graph --nodes 100000
    """


@contextmanager
def _bar(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of the rows written by this rank, if on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(show_speed=True), TimeRemainingColumn())
    disable = not (shown and console.is_terminal)
    with Progress("rows", *columns, console=console, disable=disable) as bar:
        task = bar.add_task("rows", total=None)
        yield lambda rows, total: bar.update(task, advance=rows, total=total)
