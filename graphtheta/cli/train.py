"""`graphtheta train`: train a model on a store or another input, and write a run's folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from graphtheta.cli.run_options import with_run_options
from graphtheta.cli.show import show_rows
from graphtheta.run.resolve import resolve
from graphtheta.train.phase_times import phases
from graphtheta.train.signals import Stopped

__all__ = ["train"]


@with_run_options
def train(
    options: dict[str, Any],
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file of these options, such as the config.toml of another run. Options on "
            "the command line take precedence.",
            metavar="FILE",
            rich_help_panel="Run",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in --run-dir from its last checkpoint, if there is one.",
            rich_help_panel="Run",
        ),
    ] = False,
    no_progress: Annotated[
        bool,
        typer.Option("--no-progress", help="Show no progress bar.", rich_help_panel="Run"),
    ] = False,
) -> None:
    """Train a model on one worker, or on all workers of a job.

    Under mpiexec, srun or torchrun the workers train together, each on its share of the graph.

    Example:
      mpiexec -n 2 graphtheta train store --model gat --hidden 8 --run-dir runs/gat
      graphtheta train store --task link --negatives 8 --strategy mini --run-dir runs/link
    """
    run = resolve(options, file=config, resume=resume)

    from graphtheta.cli.worker import start_worker

    comm, _ = start_worker(run.threads, timeout=run.timeout)

    from graphtheta.run.run import start_run  # imports torch

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
