"""`graphtheta train`: train a model on a store or another input, and write a run's folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from graphtheta.cli.show import show_rows
from graphtheta.run.config import RunConfig, resolve
from graphtheta.train.phase_times import phases
from graphtheta.train.signals import Stopped

__all__ = ["train"]


def _option(name: str) -> Any:
    return typer.Option(help=_help(name))


def _help(name: str) -> str:
    field = RunConfig.model_fields[name]
    default = field.default
    shown = not field.is_required() and default is not None and not isinstance(default, bool)
    return f"{field.description}{f' By default {default}.' if shown else ''}"


def train(
    context: typer.Context,
    input: Annotated[str | None, typer.Argument(help=_help("input"))] = None,
    run_dir: Annotated[Path | None, _option("run_dir")] = None,
    model: Annotated[str | None, _option("model")] = None,
    task: Annotated[str | None, _option("task")] = None,
    decoder: Annotated[str | None, _option("decoder")] = None,
    relation_column: Annotated[str | None, _option("relation_column")] = None,
    negatives: Annotated[int | None, _option("negatives")] = None,
    corrupt: Annotated[str | None, _option("corrupt")] = None,
    exclude_targets: Annotated[bool | None, _option("exclude_targets")] = None,
    validation_messages: Annotated[bool | None, _option("validation_messages")] = None,
    ranking: Annotated[bool | None, _option("ranking")] = None,
    embedding: Annotated[int | None, _option("embedding")] = None,
    strategy: Annotated[str | None, _option("strategy")] = None,
    batch_size: Annotated[int | None, _option("batch_size")] = None,
    fanouts: Annotated[str | None, _option("fanouts")] = None,
    replace: Annotated[bool | None, _option("replace")] = None,
    edge_weight: Annotated[str | None, _option("edge_weight")] = None,
    clusters_per_batch: Annotated[int | None, _option("clusters_per_batch")] = None,
    communities: Annotated[str | None, _option("communities")] = None,
    only: Annotated[str | None, _option("only")] = None,
    boundary_hops: Annotated[int | None, _option("boundary_hops")] = None,
    renormalise: Annotated[bool | None, _option("renormalise")] = None,
    prefetch: Annotated[int | None, _option("prefetch")] = None,
    groups: Annotated[int | None, _option("groups")] = None,
    micro_batches: Annotated[int | None, _option("micro_batches")] = None,
    epochs: Annotated[int | None, _option("epochs")] = None,
    evaluate_every: Annotated[int | None, _option("evaluate_every")] = None,
    hidden: Annotated[int | None, _option("hidden")] = None,
    layers: Annotated[int | None, _option("layers")] = None,
    heads: Annotated[int | None, _option("heads")] = None,
    dropout: Annotated[float | None, _option("dropout")] = None,
    batch_norm: Annotated[bool | None, _option("batch_norm")] = None,
    num_bases: Annotated[int | None, _option("num_bases")] = None,
    optimizer: Annotated[str | None, _option("optimizer")] = None,
    lr: Annotated[float | None, _option("lr")] = None,
    weight_decay: Annotated[float | None, _option("weight_decay")] = None,
    seed: Annotated[int | None, _option("seed")] = None,
    patience: Annotated[int | None, _option("patience")] = None,
    label: Annotated[str | None, _option("label")] = None,
    split: Annotated[str | None, _option("split")] = None,
    checkpoint_every: Annotated[int | None, _option("checkpoint_every")] = None,
    method: Annotated[str | None, _option("method")] = None,
    undirected: Annotated[bool | None, _option("undirected")] = None,
    device: Annotated[str | None, _option("device")] = None,
    threads: Annotated[int | None, _option("threads")] = None,
    timeout: Annotated[float | None, _option("timeout")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of options, such as another run's config.toml.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the last checkpoint in --run-dir, if any."),
    ] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="Draw no bar.")] = False,
) -> None:
    """Train a model; under mpiexec or torchrun, on the graph as the workers share it.

    Options come before --config, and that before the defaults.

    Example: mpiexec -n 2 graphtheta train store --model gat --hidden 8 --run-dir runs/gat

    Example: graphtheta train store --task link --negatives 8 --strategy mini --run-dir runs/link
    """
    # The parameters above are for typer; by name they are the fields of RunConfig.
    fields = RunConfig.model_fields.keys()
    options = {n: v for n, v in context.params.items() if n in fields and v is not None}
    run = resolve(options, file=config, resume=resume)

    from graphtheta.comm.launch import communicator, set_threads, threads_per_rank

    comm = communicator(run.timeout)
    set_threads(run.threads or threads_per_rank())

    from graphtheta.run.run import start_run  # with torch, which reads the number of threads

    trainer = start_run(run, comm, resume=resume, progress=not no_progress)
    manifest = trainer.shard.manifest
    print(
        f"{run.input}: {manifest.num_nodes:,} nodes, {manifest.num_edges:,} edges, "
        f"{comm.size} {'worker' if comm.size == 1 else 'workers'}"
        f"{f' in {run.groups} groups' if run.groups > 1 else ''}",
        flush=True,
    )
    try:
        summary = trainer.fit(run.epochs)
    except Stopped as stop:
        if comm.rank == 0:
            print(
                f"stopped after epoch {stop.epochs} of {run.epochs}, with a checkpoint; "
                "go on with --resume",
                file=sys.stderr,
                flush=True,
            )
        raise
    if comm.rank == 0:
        if run.groups > 1:
            taken = ", ".join(f"{number:,}" for number in summary["micro_batches_by_group"])
            print(f"micro-batches by group: {taken}")
        rows = [
            (name, f"{seconds:.2f}", f"{100 * share:.0f} %")
            for name, (seconds, share) in phases(summary["phase_seconds"]).items()
        ]
        show_rows(rows, head=("phase", "seconds", "share"))
        if ahead := summary["prepared_ahead_seconds"]:
            waited = min(summary["phase_seconds"].get("forward prepare", 0.0), ahead)
            print(f"prepared in the background: {ahead:.2f} s, {1 - waited / ahead:.0%} hidden")
    print(_result(summary, run.run_dir))


def _result(summary: dict[str, Any], run_dir: Path) -> str:
    metric = summary["metric"]
    reached = [
        f"{name} {metric} {summary[key]:.4f}"
        for name, key in (("test", f"test_{metric}"), ("validation", f"val_{metric}"))
        if key in summary
    ] or [f"loss {summary['loss_history'][-1]:.4f}"]
    seconds = summary["epoch_seconds"]["median"]
    return (
        f"{', '.join(reached)} at epoch {summary['best_epoch'] + 1} of {summary['epochs']}, "
        f"{1000 * seconds:.1f} ms an epoch; the run is in {run_dir}"
    )
