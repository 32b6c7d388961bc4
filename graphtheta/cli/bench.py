"""`graphtheta bench`: time kernels, epochs, partitioners and scaling, and compare two runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphtheta.cli.terminal.help import Command, Threads, argument, command_group, flag, option
from graphtheta.cli.terminal.names import names
from graphtheta.cli.terminal.show import show_rows
from graphtheta.errors import ConfigError
from graphtheta.runtime.scratch import scratch_folder
from graphtheta.wording import counted

if TYPE_CHECKING:
    from graphtheta.bench.record import Record

__all__ = ["bench"]

bench = command_group()

_RMAT = "Generated graph"

_Input = Annotated[
    str | None,
    argument(
        "INPUT",
        f"Store, name of a bundled data set ({names('datasets')}), or path or URI of a graph. If "
        "left out, an RMAT graph is generated.",
    ),
]
_count = partial(option, "INTEGER", min=1)
_Scale = Annotated[int, _count("Binary logarithm of the number of nodes.", panel=_RMAT)]
_EdgeFactor = Annotated[int, _count("Edges per node.", panel=_RMAT)]
_Features = Annotated[int, _count("Number of node features.", panel=_RMAT)]
_Method = Annotated[
    str, option("NAME", f"Partitioner of an input that is not a store: {names('methods')}.")
]
_Runs = Annotated[int, _count("Timed runs, after warm-up.")]
_Json = Annotated[Path | None, option("FILE", "File to append the records to, as lines of JSON.")]
_Model = Annotated[str, option("NAME", f"Model: {names('models')}.", panel="Model")]
_Hidden = Annotated[
    int, _count("Features of a hidden layer, per head in models with attention.", panel="Model")
]
_Layers = Annotated[int, _count("Number of graph layers.", panel="Model")]
_Heads = Annotated[
    int, _count("Number of attention heads, in models with attention.", panel="Model")
]
_Dropout = Annotated[
    float,
    option(
        "FLOAT",
        "Dropout probability of node features and attention weights.",
        panel="Model",
        min=0,
        max=0.99,
    ),
]


@bench.callback(invoke_without_command=True)
def _bench(context: typer.Context) -> None:
    """Time kernels, epochs, partitioners and scaling; compare runs.

    Example:
      graphtheta bench kernels --scale 18
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


@bench.command("kernels", cls=Command)
def _kernels(
    input: _Input = None,
    kernels: Annotated[str | None, option("NAME,NAME,...", default="all")] = None,
    widths: Annotated[str, option("N,N,...")] = "16,64,128,256",
    scale: _Scale = 18,
    edge_factor: _EdgeFactor = 16,
    runs: _Runs = 7,
    threads: Threads = None,
    allow_chunked: Annotated[bool, flag("--allow-chunked")] = False,
    json: _Json = None,
) -> None:
    """Time Gather and Sum, forward and backward, on one worker.

    They are compared with torch's sparse product and with the memory bandwidth of this machine
    (STREAM triad). GB/s counts one row of features per edge.

    Args:
        kernels: Kernels to time: {kernels}.
        widths: Numbers of features of the kernels without attention.
        allow_chunked: Do not fail if a layer has no fused kernel.

    Example:
      graphtheta bench kernels --scale 19 --kernels sum,gat-e --json kernels.jsonl
    """
    from graphtheta.cli.worker import start_worker

    comm, count = start_worker(threads, allocator="training")
    from graphtheta.bench.graphs import benchmark_shard, describe_graph
    from graphtheta.bench.kernels import KERNELS, kernel_records, num_records
    from graphtheta.cli.bench_tables import KERNELS_HEAD, graph_title, kernel_rows

    generated = {"scale": scale, "edge_factor": edge_factor, "features": 1, "edge_features": 0}
    with benchmark_shard(input, comm, method="node-hash", **generated) as (name, shard):
        graph = describe_graph(name, shard.manifest)
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
        records = _collect(found, json, "kernels", num_records(chosen, columns), "records")
    show_rows(
        list(kernel_rows(records)),
        title=f"{graph_title(graph)}, {counted(count, 'thread')}",
        head=KERNELS_HEAD,
    )


@bench.command("epoch", cls=Command)
def _epoch(
    input: _Input = None,
    model: _Model = "gcn",
    hidden: _Hidden = 16,
    layers: _Layers = 2,
    heads: _Heads = 4,
    dropout: _Dropout = 0.0,
    label: Annotated[str | None, option("NAME", default="y, or the only one")] = None,
    split: Annotated[str | None, option("NAME", default="split, or the only one")] = None,
    scale: _Scale = 17,
    edge_factor: _EdgeFactor = 16,
    features: _Features = 128,
    method: _Method = "node-hash",
    runs: _Runs = 7,
    threads: Threads = None,
    json: _Json = None,
) -> None:
    """Time training epochs and their stages, and measure memory.

    Under mpiexec all workers train together.

    Args:
        label: Name of the label to predict.
        split: Name of the split into training, validation and test.

    Example:
      graphtheta bench epoch store --model gat-e --json epochs.jsonl
    """
    from graphtheta.cli.worker import start_worker

    comm, count = start_worker(threads, allocator="training")
    from graphtheta.bench.epoch import ModelOptions, epoch_record
    from graphtheta.bench.graphs import benchmark_shard, describe_graph
    from graphtheta.bench.record import append
    from graphtheta.cli.bench_tables import epoch_rows, graph_title

    generated = {"scale": scale, "edge_factor": edge_factor, "features": features}
    with benchmark_shard(input, comm, method=method, **generated) as (name, shard):
        graph = describe_graph(name, shard.manifest)
        options = ModelOptions(model, hidden, layers, heads, dropout)
        record = epoch_record(
            shard, graph, options, threads=count, label=label, split=split, runs=runs
        )
    if comm.rank == 0:
        append(json, [record])
    workers = counted(comm.size, "worker")
    show_rows(
        list(epoch_rows(record)),
        title=f"{model} on {graph_title(graph)}, {workers} of {counted(count, 'thread')}",
    )


@bench.command("partition", cls=Command)
def _partition(
    input: _Input = None,
    methods: Annotated[str, option("NAME,NAME,...")] = "dbh,2ps-l,hdrf",
    parts: Annotated[str, option("N,N,...")] = "32",
    scale: _Scale = 20,
    edge_factor: _EdgeFactor = 16,
    ids: Annotated[str, option("[dense|int64|string]", panel=_RMAT)] = "dense",
    folder: Annotated[
        Path | None, option("PATH", default="the system's temporary directory")
    ] = None,
    runs: _Runs = 1,
    threads: Threads = None,
    json: _Json = None,
) -> None:
    """Time partitioning from tables to a store, and its quality.

    Args:
        methods: Partitioners to time: {methods}.
        parts: Numbers of parts.
        ids: Type of the node ids.
        folder: Directory for the graph and the stores, which are deleted again.

    Example:
      graphtheta bench partition graph/ --methods dbh,hdrf --parts 8,32
    """
    from graphtheta.cli.worker import start_worker

    _, count = start_worker(threads)
    from graphtheta.bench.partition import Job, partition_record
    from graphtheta.cli.bench_tables import PARTITION_HEAD, partition_row
    from graphtheta.datasets.generate import rmat
    from graphtheta.partition.pipeline.plan import named_partitioner

    named = [name.strip() for name in methods.split(",")]
    for name in named:
        named_partitioner(name)  # raises an error if it is unknown
    numbers = _integers(parts, "--parts")
    with scratch_folder(folder) as made:
        if input is None:
            source = made / "rmat"
            rmat(source, scale=scale, edge_factor=edge_factor, ids=ids, threads=count)
            graph = {"graph": f"rmat {scale} x {edge_factor}", "ids": ids}
        else:
            source, graph = Path(input), {"graph": Path(input).name}
        jobs = [
            Job(str(source), str(made), name, number, count) for number in numbers for name in named
        ]
        found = (partition_record(job, graph, runs=runs) for job in jobs)
        rows = [partition_row(r) for r in _collect(found, json, "partition", len(jobs), "stores")]
    show_rows(rows, title=f"{graph['graph']}, {counted(count, 'thread')}", head=PARTITION_HEAD)


@bench.command("scaling", cls=Command)
def _scaling(
    input: _Input = None,
    ranks: Annotated[str, option("N,N,...")] = "1,2",
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
    threads: Threads = None,
    json: _Json = None,
) -> None:
    """Time epochs with several numbers of workers on this host.

    The workers are started with mpiexec. Efficiency is the speed-up divided by the growth of the
    number of cores in use. By default all cores are in use in each case, so that an efficiency of
    1 means that processes are as fast as threads.

    Args:
        ranks: Numbers of workers. The first is the base of the speed-up.

    Example:
      graphtheta bench scaling store --ranks 1,2,4 --model gat-e
    """
    from graphtheta.cli.worker import start_worker

    comm, cores = start_worker()
    from graphtheta.bench.epoch import ModelOptions
    from graphtheta.bench.scaling import scaling_records, store_to_scale
    from graphtheta.cli.bench_tables import graph_title, scaling_head, scaling_rows

    if comm.size > 1:
        raise ConfigError(
            f"bench scaling: expected one worker, which starts the others, got {comm.size}. Run "
            "it without mpiexec."
        )
    numbers = _integers(ranks, "--ranks")
    generated = {"scale": scale, "edge_factor": edge_factor, "features": features}
    options = ModelOptions(model, hidden, layers, heads, dropout)
    with scratch_folder() as folder:
        store = store_to_scale(folder, input, numbers, method=method, **generated)
        jobs = [(size, threads or max(1, cores // size)) for size in numbers]
        found = scaling_records(store, options, jobs, runs=runs)
        records = _collect(found, json, "scaling", len(jobs), "jobs")
    title = f"{model} on {graph_title(records[0]['case'])}"
    show_rows(list(scaling_rows(records)), title=title, head=scaling_head(records))


@bench.command("compare", cls=Command)
def _compare(
    before: Annotated[Path, argument("A")],
    after: Annotated[Path, argument("B")],
    fail: Annotated[bool, flag("--fail")] = False,
) -> int:
    """Compare the measurements that two files of records share.

    Prints the ratio of the medians, B over A, and its noise: half the distance from the 10th to
    the 90th percentile, over the median, of both files together.

    Args:
        before: Records of an earlier run, written with --json.
        after: Records of a later run.
        fail: Exit with code 1 if a measurement is worse by more than the noise.

    Example:
      graphtheta bench compare before.jsonl after.jsonl --fail
    """
    from graphtheta.bench.compare import compare, differences
    from graphtheta.bench.record import load
    from graphtheta.cli.bench_tables import comparison_row

    pairs = compare(load(before), load(after))
    for line in differences(pairs):
        print(f"warning: the machines differ in {line}")
    show_rows(
        [comparison_row(pair) for pair in pairs], head=("measured", "A", "B", "B / A", "B is")
    )
    return int(fail and any(pair.is_worse for pair in pairs))


def _collect(
    found: Iterator[Record], path: Path | None, title: str, total: int, unit: str
) -> list[Record]:
    """Return records, each appended to a file as soon as it is measured, and show the progress."""
    from graphtheta.bench.record import append
    from graphtheta.cli.terminal.progress import PhaseProgress

    records = []
    with PhaseProgress(shown=True).phase(title, total, unit) as advance:
        for record in found:
            append(path, [record] if "refused" not in record else [])
            records.append(record)
            advance(1)
    return records


def _integers(text: str, option: str) -> list[int]:
    try:
        found = [int(item) for item in text.split(",")]
    except ValueError:
        found = [0]
    if min(found) < 1:
        raise ConfigError(
            f"{option}: expected numbers of at least 1 such as 1,2,4, got {text!r}. Correct it."
        )
    return found
