"""`graphtheta partition`: partition an input, or tables of nodes and edges, into a store."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from graphtheta.cli.terminal.help import Threads, argument, flag, option
from graphtheta.cli.terminal.show import show_rows
from graphtheta.errors import ConfigError
from graphtheta.wording import counted

if TYPE_CHECKING:
    from graphtheta.partition import Assessment, GraphSource, Plan

__all__ = ["partition"]

_GRAPH, _METHOD, _COLUMNS, _MACHINE = "Graph", "Partitioner", "Columns of the tables", "Machine"


_column = partial(option, panel=_COLUMNS)

_Balance = Annotated[float | None, option("FLOAT", panel=_METHOD, default="up to the partitioner")]


def partition(
    parts: Annotated[int, option("INTEGER")],
    input: Annotated[str | None, argument("INPUT")] = None,
    store: Annotated[str | None, argument("STORE")] = None,
    dry_run: Annotated[bool, flag("--dry-run")] = False,
    compare: Annotated[str | None, option("NAME,NAME,...")] = None,
    assignment_only: Annotated[bool, flag("--assignment-only")] = False,
    nodes: Annotated[
        str | None, option("PATH", panel=_GRAPH, default="the ids in the edge table")
    ] = None,
    edges: Annotated[str | None, option("PATH", panel=_GRAPH)] = None,
    undirected: Annotated[bool, flag("--undirected", panel=_GRAPH)] = False,
    add_reverse: Annotated[bool, flag("--add-reverse", panel=_GRAPH)] = False,
    drop_self_loops: Annotated[bool, flag("--drop-self-loops", panel=_GRAPH)] = False,
    drop_duplicates: Annotated[bool, flag("--drop-duplicates", panel=_GRAPH)] = False,
    drop_unknown: Annotated[bool, flag("--drop-unknown", panel=_GRAPH)] = False,
    id: Annotated[str | None, _column("COLUMN", default="id")] = None,
    src: Annotated[str | None, _column("COLUMN", default="src, source, from, ...")] = None,
    dst: Annotated[str | None, _column("COLUMN", default="dst, target, to, ...")] = None,
    id_type: Annotated[
        str | None, _column("[int64|string]", default="string if a table has texts as ids")
    ] = None,
    features: Annotated[
        list[str] | None, _column("COLUMN", default="features, if there is one")
    ] = None,
    dense_features: Annotated[bool, flag("--dense-features", panel=_COLUMNS)] = False,
    label: Annotated[
        list[str] | None, _column("[NAME=]COLUMN", default="columns called label:NAME")
    ] = None,
    label_kind: Annotated[
        list[str] | None, _column("[NAME=]KIND", default="by the type of the column")
    ] = None,
    split: Annotated[
        list[str] | None, _column("[NAME=]COLUMN", default="columns called split:NAME")
    ] = None,
    keep: Annotated[list[str] | None, _column("COLUMN,COLUMN,...", default="none")] = None,
    split_seed: Annotated[int | None, option("INTEGER", panel=_COLUMNS, min=0)] = None,
    edge_features: Annotated[
        list[str] | None, _column("COLUMN", default="attr, if there is one")
    ] = None,
    edge_type: Annotated[str | None, _column("COLUMN", default="type, if there is one")] = None,
    edge_weight: Annotated[str | None, _column("COLUMN", default="weight, if there is one")] = None,
    edge_label: Annotated[
        list[str] | None, _column("[NAME=]COLUMN", default="columns called label:NAME")
    ] = None,
    edge_split: Annotated[
        list[str] | None, _column("[NAME=]COLUMN", default="columns called split:NAME")
    ] = None,
    edge_keep: Annotated[list[str] | None, _column("COLUMN,COLUMN,...", default="none")] = None,
    like: Annotated[Path | None, _column("PATH")] = None,
    method: Annotated[str, option("NAME", panel=_METHOD)] = "kaminpar",
    seed: Annotated[int, option("INTEGER", panel=_METHOD)] = 0,
    placement: Annotated[str, option("[method|cover]", panel=_METHOD)] = "method",
    merge_weight: Annotated[float, option("FLOAT", panel=_METHOD)] = 1.25,
    balance_nodes: _Balance = None,
    balance_edges: _Balance = None,
    balance_train: _Balance = None,
    balance_types: _Balance = None,
    balance_split: Annotated[str, option("NAME", panel=_METHOD)] = "split",
    memory_limit: Annotated[str | None, option("SIZE", panel=_MACHINE, default="no limit")] = None,
    threads: Threads = None,
    scratch: Annotated[Path | None, option("PATH", panel=_MACHINE, default="next to STORE")] = None,
) -> None:
    """Partition a graph and write it as a store.

    A job that was interrupted continues where it stopped when it is started again.

    Args:
        parts: Number of parts: a multiple of the workers of later runs.
        input: Name of a bundled data set ({datasets}), or path or URI of a graph in one of
            the formats {readers}. Leave it out with --edges.
        store: Directory to write the store to.
        dry_run: Print an estimate of memory, disk space and time, and stop.
        compare: Partitioners to compare, such as dbh,hdrf: print how well and how fast each of
            them divides the graph, and write nothing.
        assignment_only: Write only which part each node and edge belongs to, as Parquet, instead
            of a store.
        nodes: Node table, with --edges: a Parquet, Arrow or CSV file, or a directory of them.
        edges: Edge table: a Parquet, Arrow, CSV, .npy or .bin file, or a directory of them.
        undirected: Add the reverse of every edge.
        add_reverse: Add the relation rev_NAME for each relation, from its destinations to its
            sources.
        drop_self_loops: Drop edges from a node to itself.
        drop_duplicates: Keep only the first of the edges with the same source, destination and
            type, after reversing.
        drop_unknown: Drop edges from or to an id that the node table lacks, such as an account of
            another bank. Otherwise they are an error.
        id: Node column of ids.
        src: Edge column of source ids.
        dst: Edge column of destination ids.
        id_type: Type of all ids. In text files, ids such as 007 are texts.
        features: Node columns of features by names or patterns, each with an encoding or the
            default of its type: 'age:standard,country:onehot,city:hash(64),signup:age,f_*'. Or a
            TOML file of such pairs. Encodings: {encoders}. What is mostly zeros is stored sparse.
        dense_features: Store sparse columns as lists of all values.
        label: Node column of a label, and a name for it. Repeat the option for several.
        label_kind: Kind of all labels, or of the one called NAME: multiclass, binary, multilabel or
            regression.
        split: Node column of a split (train, val, test), and a name for it; or NAME=A,B,C for
            three columns of booleans; or 'random(0.6,0.2)' to draw one by ids: the shares of
            training and validation, and possibly a seed. Repeat the option for several.
        keep: Node columns to store as they are, by names or patterns, for options of training such
            as --loss-weight and --candidates.
        split_seed: Which split of a published data set to use: the seed of a split that is drawn,
            or the number of one of several splits in an npz file, which are numbered from 0.
        edge_features: Edge columns of features, as --features.
        edge_type: Edge column of types: integers from 0, or texts, which are numbered.
        edge_weight: Edge column of weights.
        edge_label: Edge column of a label, as --label.
        edge_split: Edge column of a split, as --split.
        edge_keep: Edge columns to store as they are, for options such as --loss-weight,
            --edge-weight and --relation-column.
        like: Store or run whose features, encodings and classes to use, as they were fitted
            there, instead of --features and --edge-features.
        method: Partitioner: {methods}. kaminpar cuts the fewest edges, but holds all of them in
            the memory of one host. Measure others on your graph with --compare.
        seed: Random seed of the partitioner.
        placement: Where to store edges: method, where the partitioner puts them, which for one of
            nodes is with their destination; or cover, for a partitioner of nodes, with their source
            where workers then exchange fewer rows.
        merge_weight: With cover, the bytes of a partial sum (a merge) over those of a row of a
            source (a sync), from 1. Merges count that much when rows are minimised.
        balance_nodes: Largest number of masters in a part, over the mean, such as 1.05.
        balance_edges: Largest number of edges in a part, over the mean, such as 1.05.
        balance_train: Largest number of training nodes in a part, over the mean, such as 1.05.
        balance_types: Largest number of masters of a node type in a part, over the mean of the
            type, such as 1.05.
        balance_split: Split of the nodes that --balance-train counts, such as paper.split.
        memory_limit: Most memory of a worker, such as 8GB or 500MiB. It includes 0.3 GB for
            libraries, and the input if that is read whole. A job that needs more is refused.
        threads: Threads per worker.
        scratch: Directory for temporary files.

    In a graph of several tables, a name such as section is a column of every table that has it,
    and one such as package.section or author-writes-paper.stars of that table.

    Example:
      graphtheta partition cora store --parts 2
      graphtheta partition --nodes nodes.csv --edges edges/ store --parts 8 --features 'f_*'
      graphtheta partition --edges edges/ --parts 32 --compare dbh,hdrf,2ps-l
    """
    from graphtheta.cli.terminal.progress import PhaseProgress
    from graphtheta.cli.worker import start_worker
    from graphtheta.data.reverse import WithReverse
    from graphtheta.data.source import DenseSource
    from graphtheta.datasets.reading import reading
    from graphtheta.partition import (
        Balance,
        Plan,
        Resources,
        estimate,
        held_bytes,
        make_store,
        quality_rows,
        read_recipe,
        write_assignment,
    )
    from graphtheta.partition import compare as compared
    from graphtheta.partition.analysis.label_counts import count_labels
    from graphtheta.runtime.atomic import refuse_occupied
    from graphtheta.wording import format_bytes

    given = {
        "id": id,
        "src": src,
        "dst": dst,
        "features": _features(features),
        "labels": _by_name(label, "label:"),
        "splits": _by_name(split, "split:"),
        "label_kinds": _kinds(label_kind),
        "seed": split_seed,
        "id_type": id_type,
        "edge_labels": _by_name(edge_label, "label:"),
        "edge_splits": _by_name(edge_split, "split:"),
        "edge_features": _features(edge_features),
        "like": None if like is None else read_recipe(like),
        "edge_type": edge_type,
        "edge_weight": edge_weight,
        "keep": keep,
        "edge_keep": edge_keep,
    }
    columns = {name: value for name, value in given.items() if value is not None}
    if compare:
        method, methods = "node-hash", [name.strip() for name in compare.split(",")]
    writes = not dry_run and compare is None
    path, target = _input_and_store(input, store, nodes, edges, writes)
    if target is not None:
        refuse_occupied(target)
    comm, count = start_worker(threads)
    phases = PhaseProgress(shown=not comm.rank)
    resources = Resources(comm, count, _bytes(memory_limit), phases)
    plan = Plan(
        num_parts=parts,
        method=method,
        seed=seed,
        undirected=undirected,
        self_loops=not drop_self_loops,
        repeats=not drop_duplicates,
        drop_unknown=drop_unknown,
        balance=Balance(balance_nodes, balance_edges, balance_train, types=balance_types),
        balance_split=balance_split,
        placement=placement,
        merge_weight=merge_weight,
    )
    source = _source(path, nodes, edges, columns)
    source = WithReverse(source) if add_reverse else source
    source = DenseSource(source) if dense_features else source
    show_rows(reading(source), title=f"{path or edges}, as it is read")
    job = replace(resources, held=held_bytes(source))
    title = f"{path or edges} in {counted(parts, 'part')}"
    if compare is not None:
        found = compared(source, plan, methods, job)
        show_rows([_compared_row(one) for one in found], title=title, head=_COMPARED)
        return
    title += f" by {method}" + ", cover placement" * plan.covers
    expected = estimate(source, plan, resources)
    if target is None:
        show_rows(expected.rows(), title=f"estimate for {title}")
        return
    print(
        f"estimate: {format_bytes(expected.memory)} of memory per rank, "
        f"{format_bytes(expected.scratch + expected.store)} of disk, "
        f"about {expected.seconds:,.0f} s",
        flush=True,
    )
    remedy = _remedy(job.held, resources.memory_limit)
    resources.check_memory(expected.build_memory, "the job", remedy)
    if assignment_only:
        write_assignment(source, target, plan, job)
        print(f"wrote the assignment to {target}")
        return
    try:
        made = make_store(source, target, plan, job, scratch=scratch)
    except KeyboardInterrupt:
        if comm.rank == 0:
            print("to continue, run the same command again", file=sys.stderr)
        raise
    manifest = made.manifest
    rows = [*quality_rows(manifest.quality), *manifest.dropped_rows()]
    if comm.rank == 0:
        node_counts, edge_counts = count_labels(made)
        rows += [*node_counts.rows(), *edge_counts.rows("edge ")]
    show_rows(rows, title=title)
    print(
        f"wrote {counted(manifest.num_nodes, 'node')} and "
        f"{counted(manifest.num_edges, 'edge')} to {target}"
    )
    if manifest.quality.edge_balance > _UNBALANCED:
        print(_balance_hint(plan, manifest.quality.edge_balance))


_UNBALANCED = 1.5  # largest part over the mean, from which on a hint is printed
_COMPARED = (
    "method",
    "replication factor",
    "edge cut",
    "balance of nodes",
    "balance of edges",
    "mirrors",
    "rows a layer",
    "seconds",
)


def _remedy(held: int, limit: int | None) -> str:
    if limit is not None and held > limit // 2:
        return (
            "Raise the limit; an input that is read whole, such as npz, needs less as tables of "
            "nodes and edges in Parquet."
        )
    return "Use more parts."


def _balance_hint(plan: Plan, balance: float) -> str:
    can_limit = "edges" in plan.partitioner.balances and not plan.covers
    limit = "limit it with --balance-edges 1.1, or "
    return (
        f"hint: one part has {balance:.1f} times the mean of edges, so that its worker does most "
        f"of the work; {limit * can_limit}choose another method "
        "(--compare dbh,hdrf,2ps-l measures them)"
    )


def _compared_row(one: Assessment) -> tuple[str, ...]:
    from graphtheta.partition import measure, quality_rows

    name = one.method if one.placement == "method" else f"{one.method}, {one.placement}"
    if one.counts is None:
        return name, one.refusal, *[""] * (len(_COMPARED) - 2)
    values = [value for _, value in quality_rows(measure(one.counts))]
    rows = int(one.counts.syncs.sum() + one.counts.merges.sum())
    return name, *values, f"{rows:,}", f"{one.seconds:.1f}"


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise ConfigError(
            f"--memory-limit: expected a size such as 8GB or 500MiB, got {text!r}. Correct it."
        ) from None


def _input_and_store(
    first: str | None, second: str | None, nodes: str | None, edges: str | None, writes: bool
) -> tuple[str | None, Path | None]:
    """Return the input (None with --edges) and the store (None if none is written)."""
    if nodes and not edges:
        raise ConfigError("partition: expected --edges with --nodes, got none. Add --edges.")
    path, store, extra = (None, first, second) if edges else (first, second, None)
    if extra is not None or (path is None and not edges) or (store is None and writes):
        expected = "only STORE with --edges" if edges else "INPUT and STORE"
        given = " ".join(filter(None, (first, second))) or "no arguments"
        raise ConfigError(
            f"partition: expected {expected}, got {given}. Try: graphtheta partition --help"
        )
    return path, Path(store) if writes and store is not None else None


def _source(
    path: str | None, nodes: str | None, edges: str | None, columns: dict[str, Any]
) -> GraphSource:
    from graphtheta.datasets import read
    from graphtheta.datasets.tables import TableSource

    if path is not None:
        return read(path, **columns)
    assert edges is not None, "without --edges there is an input"
    if "seed" in columns:
        raise ConfigError(
            "--split-seed: expected INPUT, a published data set, got --edges. Leave it out, or "
            "name a column with --split."
        )
    options = {"id": "id", "features": "features", "labels": "label", "splits": "split"}
    if nodes is None and (named := [options[name] for name in columns if name in options]):
        raise ConfigError(
            f"partition: expected --nodes with --{named[0]}, which names a column of the node "
            "table, got none. Add --nodes."
        )
    return TableSource(nodes, edges, **columns)


def _features(values: list[str] | None) -> str | list[Any] | None:
    """Read columns with encodings, and TOML files of such."""
    found = [_table_of(Path(v)) if v.endswith(".toml") else v for v in values or ()]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else found or None


def _table_of(path: Path) -> dict[str, str]:
    """Read `column = "encoding"` pairs, of all node types or relations or in a table of each."""
    import tomllib

    try:
        given = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path}: expected a TOML file of columns and encodings, got {error}. Correct it."
        ) from None
    tables = [(f"{owner}.", of) for owner, of in given.items() if isinstance(of, dict)]
    tables.append(("", {name: of for name, of in given.items() if not isinstance(of, dict)}))
    found = {f"{owner}{name}": text for owner, of in tables for name, text in of.items()}
    for name, text in found.items():
        if not isinstance(text, str):
            raise ConfigError(
                f'{path}: expected the name of an encoding for {name}, such as "standard", got '
                f"{text!r}. Correct it."
            )
    return found


def _kinds(values: list[str] | None) -> Any:
    """Read `KIND` for all labels, or `NAME=KIND` for some."""
    if not values or (len(values) == 1 and "=" not in values[0]):
        return values[0] if values else None
    return {name: kind for name, _, kind in (value.rpartition("=") for value in values)}


def _by_name(values: list[str] | None, prefix: str) -> dict[str, str | list[str]] | None:
    """Read `COLUMN`, `NAME=COLUMN`, `NAME=A,B,C` and `NAME=random(TRAIN,VAL)`."""
    from graphtheta.data.encode.random_split import is_random

    if values is None:
        return None
    named = {}
    for value in values:
        name, _, columns = value.rpartition("=")
        is_drawn = is_random(columns)
        several = columns.split(",") if name and not is_drawn else [columns]
        key = name or ("split" if is_drawn else columns.removeprefix(prefix))
        if key in named:
            raise ConfigError(
                f"--{prefix[:-1]}: expected each name once, got {key!r} twice. Choose other names."
            )
        named[key] = several if len(several) > 1 else several[0]
    return named
