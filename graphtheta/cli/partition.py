"""`graphtheta partition`: from an input, or tables of nodes and edges, to a store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphtheta.cli.phases import Phases
from graphtheta.cli.show import show_rows
from graphtheta.errors import ConfigError

if TYPE_CHECKING:
    from graphtheta.partition import Assessment, GraphSource

__all__ = ["partition"]


def _column(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Columns of tables")


def _limit(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Limits", metavar="FLOAT")


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
        str | None,
        typer.Option(help="Edge table: a Parquet, Arrow, CSV, .npy or .bin file, or a folder."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="One of {methods}. The default cuts the fewest edges, but needs all of them in "
            "the memory of one host; --compare says how others do on your graph."
        ),
    ] = "kaminpar",
    seed: Annotated[int, typer.Option(help="Seed of the method.")] = 0,
    undirected: Annotated[
        bool, typer.Option("--undirected", help="Add the reverse of every edge.")
    ] = False,
    drop_self_loops: Annotated[
        bool, typer.Option("--drop-self-loops", help="Leave out edges from a node to itself.")
    ] = False,
    drop_duplicates: Annotated[
        bool,
        typer.Option(
            "--drop-duplicates", help="Of edges with the same ends keep the first, reverses too."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate memory, disk and time; do nothing.")
    ] = False,
    compare: Annotated[
        str | None,
        typer.Option(help="Methods, as dbh,hdrf: print how good each is; write nothing."),
    ] = None,
    assignment_only: Annotated[
        bool,
        typer.Option(
            "--assignment-only", help="Write only the parts of nodes and edges, as Parquet."
        ),
    ] = False,
    memory_limit: Annotated[
        str | None, _limit("Memory of a worker, as 8GB; what would not fit is refused.")
    ] = None,
    threads: Annotated[
        int | None, _limit("Threads of a worker; by default its share of the host's cores.")
    ] = None,
    scratch: Annotated[
        Path | None, _limit("Where spill files go; by default beside the store.")
    ] = None,
    balance_nodes: Annotated[
        float | None, _limit("Masters of the largest part over the mean, as 1.05.")
    ] = None,
    balance_edges: Annotated[float | None, _limit("Likewise, of edges.")] = None,
    balance_train: Annotated[float | None, _limit("Likewise, of training nodes.")] = None,
    balance_split: Annotated[str, _limit("The split that says which nodes those are.")] = "split",
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

    A run that was killed goes on where it was when it is started again.

    Example: graphtheta partition cora store --parts 2

    Example: graphtheta partition --nodes nodes.parquet --edges edges/ store --parts 8
    --features 'f_*' --label y --split split=train,val,test

    Example: graphtheta partition --edges edges/ --parts 32 --compare dbh,hdrf,2ps-l
    """
    from graphtheta.comm.launch import communicator
    from graphtheta.partition import (
        Balance,
        Plan,
        Resources,
        estimate,
        make_store,
        quality_rows,
        write_assignment,
    )
    from graphtheta.partition import compare as compared
    from graphtheta.runtime.atomic import refuse_occupied

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
    methods = [name.strip() for name in compare.split(",")] if compare else [method]
    writes = not dry_run and compare is None
    path, target = _input_and_store(input, store, nodes, edges, writes)
    if target is not None:
        refuse_occupied(target)
    comm = communicator()
    phases = Phases(shown=not comm.rank)
    resources = Resources(comm, _threads(threads), _bytes(memory_limit), phases)
    plan = Plan(
        num_parts=parts,
        method=methods[0],
        seed=seed,
        undirected=undirected,
        self_loops=not drop_self_loops,
        repeats=not drop_duplicates,
        balance=Balance(balance_nodes, balance_edges, balance_train),
        balance_split=balance_split,
    )
    source = _tables(nodes, edges, columns) if path is None else _input(path, columns)
    title = f"{path or edges} in {parts} {'part' if parts == 1 else 'parts'}"
    if compare is not None:
        found = compared(source, plan, methods, resources)
        show_rows([_compared_row(one) for one in found], title=title, head=_COMPARED)
        return
    title += f" by {method}"
    expected = estimate(source, plan, resources)
    show_rows(expected.rows(), title=f"{title}, an estimate")
    if target is None:
        return
    resources.check_memory(expected.build_memory, "the job", "Use more parts.")
    if assignment_only:
        write_assignment(source, target, plan, resources)
        print(f"the assignment is in {target}")
        return
    manifest = make_store(source, target, plan, resources, scratch=scratch).manifest
    show_rows(quality_rows(manifest.quality), title=title)
    print(f"{manifest.num_nodes:,} nodes and {manifest.num_edges:,} edges are in {target}")


_COMPARED = (
    "method",
    "replication factor",
    "edge cut",
    "balance of nodes",
    "balance of edges",
    "mirrors",
    "seconds",
)


def _compared_row(one: Assessment) -> tuple[str, ...]:
    from graphtheta.partition import measure, quality_rows

    if one.counts is None:
        return one.method, one.refusal, *[""] * (len(_COMPARED) - 2)
    values = [value for _, value in quality_rows(measure(one.counts))]
    return one.method, *values, f"{one.seconds:.1f}"


def _threads(given: int | None) -> int:
    from graphtheta.comm.launch import set_threads, threads_per_rank

    if given is not None and given < 1:
        raise ConfigError(f"partition: expected --threads of at least 1, got {given}. Name more.")
    count = given or threads_per_rank()
    set_threads(count)
    return count


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise ConfigError(
            f"partition: expected --memory-limit as 8GB or 500MiB, got {text!r}. Correct it."
        ) from None


def _input_and_store(
    first: str | None, second: str | None, nodes: str | None, edges: str | None, writes: bool
) -> tuple[str | None, Path | None]:
    """Return the input, None with --edges, and the store, None if none is written."""
    if nodes and not edges:
        raise ConfigError("partition: expected --edges beside --nodes, got none. Name the edges.")
    path, store, extra = (None, first, second) if edges else (first, second, None)
    if extra is not None or (path is None and not edges) or (store is None and writes):
        expected = "STORE alone beside --edges" if edges else "INPUT and STORE"
        given = " ".join(filter(None, (first, second))) or "neither"
        raise ConfigError(
            f"partition: expected {expected}, got {given}. Try: graphtheta partition --help"
        )
    return path, Path(store) if writes and store is not None else None


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
