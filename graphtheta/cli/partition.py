"""`graphtheta partition`: from an input, or tables of nodes and edges, to a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphtheta.cli.show import show_rows
from graphtheta.errors import ConfigError

if TYPE_CHECKING:
    from graphtheta.partition import GraphSource

__all__ = ["partition"]


def _column(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Columns of tables")


def partition(
    parts: Annotated[int, typer.Option(help="A multiple of the workers of later runs.")],
    input: Annotated[
        str | None,
        typer.Argument(
            help="A data set ({datasets}) or a path or URI ({forms}). Left out with --edges."
        ),
    ] = None,
    store: Annotated[str | None, typer.Argument(help="The directory to write.")] = None,
    nodes: Annotated[
        str | None, typer.Option(help="Node table, with --edges; none: the ids of the edges.")
    ] = None,
    edges: Annotated[
        str | None, typer.Option(help="Edge table: a Parquet, Arrow or CSV file, or a folder.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="One of {methods}. The default cuts the fewest edges, but needs all of them in "
            "the memory of one host; node-hash does not, nor do edge-hash and dbh, which split "
            "the edges of hubs."
        ),
    ] = "kaminpar",
    seed: Annotated[int, typer.Option(help="Seed of the method.")] = 0,
    undirected: Annotated[
        bool, typer.Option("--undirected", help="Add the reverse of every edge.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the quality; write nothing.")
    ] = False,
    id: Annotated[str | None, _column("Original ids of nodes; by default id.")] = None,
    src: Annotated[str | None, _column("Sources of edges; by default src.")] = None,
    dst: Annotated[str | None, _column("Destinations of edges; by default dst.")] = None,
    features: Annotated[list[str] | None, _column("Features: a column or 'f_*'.")] = None,
    label: Annotated[list[str] | None, _column("A label: COLUMN or NAME=COLUMN.")] = None,
    split: Annotated[
        list[str] | None, _column("A split: COLUMN, NAME=COLUMN or NAME=TRAIN,VAL,TEST.")
    ] = None,
    edge_features: Annotated[list[str] | None, _column("As --features, of edges.")] = None,
    edge_type: Annotated[str | None, _column("Types of edges.")] = None,
    edge_weight: Annotated[str | None, _column("Weights of edges.")] = None,
) -> None:
    """Partition a graph into parts, and write them as a store.

    Example: graphtheta partition cora store --parts 2

    Example: graphtheta partition --nodes nodes.parquet --edges edges/ store --parts 8
    --features 'f_*' --label y --split split=train,val,test
    """
    from graphtheta.comm.launch import communicator, set_threads, threads_per_rank
    from graphtheta.partition import build, estimate, quality_rows, write_store
    from graphtheta.partition.store import refuse_occupied

    given = {
        "id": id,
        "src": src,
        "dst": dst,
        "features": _one_or_more(features),
        "labels": _by_name(label, "label:"),
        "splits": _by_name(split, "split:"),
        "edge_features": _one_or_more(edge_features),
        "edge_type": edge_type,
        "edge_weight": edge_weight,
    }
    columns = {name: value for name, value in given.items() if value is not None}
    path, target = _input_and_store(input, store, nodes, edges, dry_run)
    if target is not None:
        refuse_occupied(target)
    comm = communicator()
    set_threads(threads_per_rank())
    source = _tables(nodes, edges, columns) if path is None else _input(path, columns)
    title = f"{path or edges} by {method} in {parts} {'part' if parts == 1 else 'parts'}"
    if target is None:
        quality = estimate(source, parts, method, seed=seed, undirected=undirected, comm=comm)
        show_rows(quality_rows(quality), title=f"{title}; nothing is written")
        return
    built = build(source, parts, method, seed=seed, undirected=undirected, comm=comm)
    manifest = write_store(built, target, comm).manifest
    show_rows(quality_rows(manifest.quality), title=title)
    print(f"{manifest.num_nodes:,} nodes and {manifest.num_edges:,} edges are in {target}")


def _input_and_store(
    first: str | None, second: str | None, nodes: str | None, edges: str | None, dry_run: bool
) -> tuple[str | None, Path | None]:
    """Return the input, None with --edges, and the store, None in a dry run (which may name it)."""
    if nodes and not edges:
        raise ConfigError("partition: expected --edges beside --nodes, got none. Name the edges.")
    path, store, extra = (None, first, second) if edges else (first, second, None)
    if extra is not None or (path is None and not edges) or (store is None and not dry_run):
        expected = "STORE alone beside --edges" if edges else "INPUT and STORE"
        given = " ".join(filter(None, (first, second))) or "neither"
        raise ConfigError(
            f"partition: expected {expected}, got {given}. Try: graphtheta partition --help"
        )
    return path, None if dry_run or store is None else Path(store)


def _tables(nodes: str | None, edges: str | None, columns: dict[str, Any]) -> GraphSource:
    from graphtheta.datasets.tables import TableSource

    assert edges is not None, "without --edges there is an input"
    homeless = sorted({"id", "features", "labels", "splits"} & columns.keys())
    if nodes is None and homeless:
        option = homeless[0].removesuffix("s") if homeless[0] != "features" else homeless[0]
        raise ConfigError(
            f"partition: expected --nodes with --{option}, which is a column of theirs, got none. "
            "Name the node table."
        )
    return TableSource(nodes, edges, **columns)


def _input(path: str, columns: dict[str, Any]) -> GraphSource:
    from graphtheta.datasets import read

    return read(path, **columns)


def _one_or_more(values: list[str] | None) -> str | list[str] | None:
    return values[0] if values and len(values) == 1 else values


def _by_name(values: list[str] | None, prefix: str) -> dict[str, str | list[str]] | None:
    """Read `COLUMN`, `NAME=COLUMN` and `NAME=A,B,C`."""
    if values is None:
        return None
    named = {}
    for value in values:
        name, _, columns = value.rpartition("=")
        several = columns.split(",") if name else [columns]
        key = name or columns.removeprefix(prefix)
        named[key] = several if len(several) > 1 else several[0]
    return named
