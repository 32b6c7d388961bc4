"""`graphtheta bench`: measure kernels, epochs, partitioners and several workers; compare runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphtheta.cli.names import NamesInHelp
from graphtheta.cli.phases import Phases
from graphtheta.cli.show import show_rows
from graphtheta.errors import ConfigError

if TYPE_CHECKING:
    from graphtheta.bench.record import Record

__all__ = ["bench"]

bench = typer.Typer()

_Input = Annotated[
    str | None,
    typer.Argument(help="A store, a data set ({datasets}) or a path or URI; none: generate RMAT."),
]
_Scale = Annotated[int, typer.Option(min=1, help="Of RMAT: binary logarithm of the nodes.")]
_EdgeFactor = Annotated[int, typer.Option(min=1, help="Of RMAT: edges for each node.")]
_Features = Annotated[int, typer.Option(min=1, help="Of RMAT: columns of a node.")]
_Method = Annotated[str, typer.Option(help="Partitioner of what is no store: one of {methods}.")]
_Runs = Annotated[int, typer.Option(min=1, help="Runs that count, after warm-up.")]
_Threads = Annotated[
    int | None, typer.Option(min=1, help="Of a worker; by default the host's cores over its own.")
]
_Json = Annotated[Path | None, typer.Option(help="A file to add a line of JSON a record to.")]
_Model = Annotated[str, typer.Option(help="One of {models}.")]
_Hidden = Annotated[int, typer.Option(min=1, help="Columns of a hidden layer; of a head.")]
_Layers = Annotated[int, typer.Option(min=1, help="Graph layers.")]
_Heads = Annotated[int, typer.Option(min=1, help="Attention heads, in models that have them.")]
_Dropout = Annotated[float, typer.Option(min=0, max=0.99, help="Of nodes and of attention.")]
_AllowChunked = Annotated[
    bool, typer.Option("--allow-chunked", help="Do not fail where a layer did not run fused.")
]


@bench.callback(invoke_without_command=True)
def _bench(context: typer.Context) -> None:
    """Measure this machine and your graph, and compare two runs.

    Example: graphtheta bench kernels --scale 18
    """
    if context.invoked_subcommand is None:
        context.get_help()


@bench.command("kernels", cls=NamesInHelp)
def _kernels(
    input: _Input = None,
    kernels: Annotated[str | None, typer.Option(help="Of {kernels}; by default all.")] = None,
    widths: Annotated[str, typer.Option(help="Columns of plain sums.")] = "16,64,128,256",
    scale: _Scale = 18,
    edge_factor: _EdgeFactor = 16,
    runs: _Runs = 7,
    threads: _Threads = None,
    allow_chunked: _AllowChunked = False,
    json: _Json = None,
) -> None:
    """Time Gather and Sum, forward and backward, beside torch's CSR product and a memory stream.

    GB/s are the rows gathered, once an edge; the share is of what the memory streams (triad).

    A layer that does not run fused is an error.

    Example: graphtheta bench kernels --scale 19 --kernels sum,gat-e --json kernels.jsonl
    """
    comm, count = _worker(threads)
    from graphtheta.bench.graphs import described, shard_to_measure
    from graphtheta.bench.kernels import KERNELS, kernel_records, num_records
    from graphtheta.bench.record import append
    from graphtheta.cli.bench_tables import KERNELS_HEAD, graph_title, kernel_rows

    generated = {"scale": scale, "edge_factor": edge_factor, "features": 1, "edge_features": 0}
    with shard_to_measure(input, comm, method="node-hash", **generated) as (name, shard):
        graph = described(name, shard.manifest)
        chosen = kernels.split(",") if kernels else tuple(KERNELS)
        columns = _integers(widths, "--widths")
        found = kernel_records(
            shard,
            graph,
            threads=count,
            kernels=chosen,
            widths=columns,
            runs=runs,
            allow_chunked=allow_chunked,
        )
        records = []
        with Phases(shown=True).phase(
            "kernels", num_records(chosen, columns), "records"
        ) as advance:
            for record in found:
                append(json, [record])
                records.append(record)
                advance(1)
    show_rows(
        list(kernel_rows(records)),
        title=f"{graph_title(graph)}, {count} threads",
        head=KERNELS_HEAD,
    )


@bench.command("epoch", cls=NamesInHelp)
def _epoch(
    input: _Input = None,
    model: _Model = "gcn",
    hidden: _Hidden = 16,
    layers: _Layers = 2,
    heads: _Heads = 4,
    dropout: _Dropout = 0.0,
    label: Annotated[str | None, typer.Option(help="What to learn, if several.")] = None,
    split: Annotated[str | None, typer.Option(help="Which split, if several.")] = None,
    scale: _Scale = 17,
    edge_factor: _EdgeFactor = 16,
    features: _Features = 128,
    method: _Method = "node-hash",
    runs: _Runs = 7,
    threads: _Threads = None,
    json: _Json = None,
) -> None:
    """Time training epochs and their stages, and see the memory they need; also under mpiexec.

    Example: graphtheta bench epoch store --model gat-e --json epochs.jsonl
    """
    comm, count = _worker(threads)
    from graphtheta.bench.epoch import ModelOptions, epoch_record
    from graphtheta.bench.graphs import described, shard_to_measure
    from graphtheta.bench.record import append
    from graphtheta.cli.bench_tables import epoch_rows, graph_title

    generated = {"scale": scale, "edge_factor": edge_factor, "features": features}
    with shard_to_measure(input, comm, method=method, **generated) as (name, shard):
        graph = described(name, shard.manifest)
        options = ModelOptions(model, hidden, layers, heads, dropout)
        record = epoch_record(
            shard, graph, options, threads=count, label=label, split=split, runs=runs
        )
    if comm.rank == 0:
        append(json, [record])
    show_rows(
        list(epoch_rows(record)),
        title=f"{model} on {graph_title(graph)}, {comm.size} workers of {count} threads",
    )


@bench.command("partition", cls=NamesInHelp)
def _partition(
    input: _Input = None,
    methods: Annotated[str, typer.Option(help="Of {methods}.")] = "dbh,2ps-l,hdrf",
    parts: Annotated[str, typer.Option(help="Numbers of parts.")] = "32",
    scale: _Scale = 20,
    edge_factor: _EdgeFactor = 16,
    ids: Annotated[str, typer.Option(help="Of RMAT: dense, int64 or string.")] = "dense",
    folder: Annotated[
        Path | None, typer.Option(help="Where graph and stores are written and deleted.")
    ] = None,
    runs: _Runs = 1,
    threads: _Threads = None,
    json: _Json = None,
) -> None:
    """Time partitioning, from tables to a store, and see how good the parts are.

    Example: graphtheta bench partition graph/ --methods dbh,hdrf --parts 8,32
    """
    _, count = _worker(threads)
    from graphtheta.bench.partition import Job, partition_record, unknown_method
    from graphtheta.bench.record import append
    from graphtheta.cli.bench_tables import PARTITION_HEAD, partition_row
    from graphtheta.datasets.generate import rmat

    named = [name.strip() for name in methods.split(",")]
    if unknown := unknown_method(named):
        raise ConfigError(f"bench partition: unknown method '{unknown}'. See --help.")
    numbers = _integers(parts, "--parts")
    rows = []
    with tempfile.TemporaryDirectory(dir=folder, prefix="graphtheta-bench-") as made:
        if input is None:
            source = Path(made) / "rmat"
            rmat(source, scale=scale, edge_factor=edge_factor, ids=ids, threads=count)
            graph = {"graph": f"rmat {scale} x {edge_factor}", "ids": ids}
        else:
            source, graph = Path(input), {"graph": Path(input).name}
        with Phases(shown=True).phase("partition", len(named) * len(numbers), "stores") as advance:
            for number in numbers:
                for name in named:
                    job = Job(str(source), made, name, number, count)
                    record = partition_record(job, graph, runs=runs)
                    append(json, [record] if "refused" not in record else [])
                    rows.append(partition_row(record))
                    advance(1)
    show_rows(
        rows,
        title=f"{graph['graph']}, {count} threads",
        head=PARTITION_HEAD,
    )


@bench.command("scaling", cls=NamesInHelp)
def _scaling(
    input: _Input = None,
    ranks: Annotated[str, typer.Option(help="Numbers of workers, the base first.")] = "1,2",
    model: _Model = "gcn",
    hidden: _Hidden = 16,
    layers: _Layers = 2,
    heads: _Heads = 4,
    dropout: _Dropout = 0.0,
    scale: _Scale = 17,
    edge_factor: _EdgeFactor = 16,
    features: _Features = 128,
    method: _Method = "node-hash",
    runs: _Runs = 7,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of a worker; by default the cores over the workers.")
    ] = None,
    json: _Json = None,
) -> None:
    """Time epochs with more and more workers of this host, which it starts by mpiexec.

    Efficiency is the speed-up over the growth of the cores in use: by default all are in use
    however many workers there are, and 1 is as good as one worker with threads.

    Example: graphtheta bench scaling store --ranks 1,2,4 --model gat-e
    """
    comm, cores = _worker(None)
    from graphtheta.bench.epoch import ModelOptions
    from graphtheta.bench.record import append
    from graphtheta.bench.scaling import scaling_records, store_to_scale
    from graphtheta.cli.bench_tables import graph_title, scaling_head, scaling_rows

    if comm.size > 1:
        raise ConfigError(
            f"bench scaling: expected one worker, got {comm.size}: it starts others itself. Run it "
            "without mpiexec."
        )
    numbers = _integers(ranks, "--ranks")
    records: list[Record] = []
    with (
        tempfile.TemporaryDirectory(prefix="graphtheta-bench-") as folder,
        Phases(shown=True).phase("scaling", len(numbers), "jobs") as advance,
    ):
        store = store_to_scale(
            Path(folder),
            input,
            numbers,
            method=method,
            scale=scale,
            edge_factor=edge_factor,
            features=features,
        )
        for record in scaling_records(
            store,
            ModelOptions(model, hidden, layers, heads, dropout),
            numbers,
            threads=lambda size: threads or max(1, cores // size),
            runs=runs,
        ):
            append(json, [record])
            records.append(record)
            advance(1)
    title = f"{model} on {graph_title(records[0]['case'])}"
    show_rows(list(scaling_rows(records)), title=title, head=scaling_head(records))


@bench.command("compare")
def _compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="Records of before.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Records of after.")],
    fail: Annotated[
        bool, typer.Option("--fail", help="Exit code 1 if anything got worse beyond the noise.")
    ] = False,
) -> int:
    """Compare what two files have in common: the ratio of medians, B over A, and its noise.

    The noise is half the distance from p10 to p90 over the median, of both together.

    Example: graphtheta bench compare before.jsonl after.jsonl --fail
    """
    from graphtheta.bench.compare import compare, differences
    from graphtheta.bench.record import load
    from graphtheta.cli.bench_tables import comparison_row

    pairs = compare(load(before), load(after))
    for line in differences(pairs):
        print(f"not alike: {line}")
    show_rows(
        [comparison_row(pair) for pair in pairs],
        head=("measured", "A", "B", "B / A", "B is"),
    )
    return int(fail and any(pair.is_worse for pair in pairs))


def _worker(threads: int | None) -> tuple[Any, int]:
    """Return the communicator and the threads of this worker, which are set."""
    from graphtheta.comm.launch import communicator, set_threads, threads_per_rank

    comm = communicator()
    count = threads or threads_per_rank()
    set_threads(count)
    return comm, count


def _integers(text: str, option: str) -> list[int]:
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise ConfigError(f"{option}: expected numbers >= 1, as 1,2,4, got {text!r}. Correct it.")
    return found
