"""`graphtheta train`: train a model, with options made from the fields of `RunConfig`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from graphtheta.cli.terminal.help import Command, flag, option
from graphtheta.cli.terminal.run_options import with_run_options
from graphtheta.cli.terminal.show import show_rows
from graphtheta.cli.terminal.tls import client_tls
from graphtheta.errors import ConfigError
from graphtheta.run.config import RunConfig
from graphtheta.run.resolve import check_group_options, resolve
from graphtheta.train.phase_times import phase_times
from graphtheta.train.signals import Stopped
from graphtheta.wording import counted

if TYPE_CHECKING:
    from graphtheta.engine.client.connection import Tls
    from graphtheta.train.trainer import Trainer

__all__ = ["TrainCommand", "result_line", "run_lines", "train"]


class TrainCommand(Command):
    """Command whose flag `--resume` may be followed by `auto`, which means the same."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        kept = [
            "--resume" if word == "--resume=auto" else word
            for before, word in zip(["", *args], args, strict=False)
            if (before, word) != ("--resume", "auto")
        ]
        return super().parse_args(ctx, kept)


@with_run_options
def train(
    options: dict[str, Any],
    *,
    config: Annotated[Path | None, option("FILE", panel="Run")] = None,
    resume: Annotated[bool, flag("--resume", panel="Run")] = False,
    no_progress: Annotated[bool, flag("--no-progress", panel="Run")] = False,
    parameters: Annotated[str | None, option("HOST:PORT", panel="Run")] = None,
    tls_ca: Annotated[Path | None, option("FILE", panel="Run")] = None,
    tls_cert: Annotated[Path | None, option("FILE", panel="Run")] = None,
    tls_key: Annotated[Path | None, option("FILE", panel="Run")] = None,
) -> None:
    """Train a model on one worker, or on all workers of a job.

    Under mpiexec, srun or torchrun the workers train together, each on its share of the graph.

    Args:
        options: Options of the run that were given, by field name.
        config: TOML file of these options, such as the config.toml of another run. Options on the
            command line take precedence.
        resume: Continue the run in --run-dir from its newest whole checkpoint, or start it if there
            is none. It may be written as --resume auto.
        no_progress: Print a line for each epoch instead of a progress bar.
        parameters: Train as a group of the parameter service at this address (graphtheta
            parameters), which has all options of the run but INPUT, --device, --threads, --timeout
            and --embedding-storage.
        tls_ca: Certificate authority of the parameter service (PEM). Enables TLS.
        tls_cert: Certificate of this group (PEM), for services that require one.
        tls_key: Private key of --tls-cert (PEM).

    Example:
      mpiexec -n 2 graphtheta train store --model gat --hidden 8 --run-dir runs/gat
      graphtheta train store --task link --negatives 8 --strategy mini --run-dir runs/link
    """
    from graphtheta.cli.worker import start_worker

    if parameters is not None:
        for name, given in (("--config", config), ("--resume", resume)):
            if given:
                raise ConfigError(
                    f"{name}: expected it not with --parameters, got both. The service has the "
                    "options and the files of the run; leave it out."
                )
        _train_group(options, parameters, client_tls(tls_ca, tls_cert, tls_key))
        return
    run = resolve(options, file=config, resume=resume)
    if run.delay:
        raise ConfigError(
            f"--delay: expected 0 without a parameter service, got {run.delay}. Start graphtheta "
            "parameters with it, and train with --parameters."
        )
    comm, _ = start_worker(run.threads, timeout=run.timeout, allocator="training")

    from graphtheta.run.run import start_run  # imports torch

    trainer = start_run(run, comm, resume=resume, progress="lines" if no_progress else True)
    for line in run_lines(trainer, run):
        print(line, flush=True)
    if trainer.resumed_from:
        print(f"continues from {trainer.resumed_from}", flush=True)
    try:
        summary = trainer.fit(run.epochs, signals=True)
    except (Stopped, KeyboardInterrupt) as stop:
        if comm.rank == 0:
            print(_continuation(stop, run), file=sys.stderr, flush=True)
        raise
    if comm.rank == 0:
        _show_times(summary, run.groups)
        print(result_line(summary))
        print(f"wrote the run to {run.run_dir}")


def _train_group(options: dict[str, Any], address: str, tls: Tls | None) -> None:
    """Train as a group of a parameter service."""
    check_group_options(options)

    from graphtheta.cli.worker import start_worker

    comm, _ = start_worker(
        options.get("threads"), timeout=options.get("timeout"), allocator="training"
    )

    from graphtheta.engine.client.parameters import ParameterClient
    from graphtheta.run.group import join_run  # imports torch

    timeout = float(options.get("timeout") or RunConfig.model_fields["timeout"].default)
    client = ParameterClient(address, tls=tls, wait_s=0.9 * timeout)
    trainer = join_run(client, options, comm)
    manifest = trainer.shard.manifest
    print(
        f"{options['input']}: {counted(manifest.num_nodes, 'node')}, "
        f"{counted(manifest.num_edges, 'edge')}, a group of {counted(comm.size, 'worker')} of the "
        f"parameter service at {address}",
        flush=True,
    )
    try:
        summary = trainer.fit(signals=True)
    except Stopped:
        print("left the run; its other groups go on", file=sys.stderr, flush=True)
        raise
    finally:
        client.close()
    if comm.rank == 0:
        print(result_line(summary))


def run_lines(trainer: Trainer, run: RunConfig) -> Iterator[str]:
    """Yield what is trained: sizes, target, metric and learned vectors."""
    manifest, workers = trainer.shard.manifest, counted(trainer.world.size, "worker")
    groups = f" in {run.groups} groups" if run.groups > 1 else ""
    sizes = f"{counted(manifest.num_nodes, 'node')}, {counted(manifest.num_edges, 'edge')}"
    yield f"{run.input}: {sizes}, {workers}{groups}"
    yield _target(trainer)
    if trainer.task.metric.why:
        metric = trainer.task.metric
        yield f"best epoch by validation {metric.name}: {metric.why}"
    yield from _learned_rows(trainer)


def _target(trainer: Trainer) -> str:
    """Return what is predicted, with its kind and classes, and the size of each split."""
    from graphtheta.wording import some

    task = trainer.task
    spec, names = task.spec, ", ".join(f"{kind} {name}" for kind, name in task.resolved.items())
    kind: str = spec.task
    if spec.classes:
        kind += f" ({some(spec.classes, len(spec.classes))})"
    elif spec.task in ("multiclass", "multilabel"):
        kind += f" ({spec.num_classes:,} {'classes' if spec.task == 'multiclass' else 'labels'})"
    sizes = ", ".join(f"{count:,} {name}" for name, count in task.counts.items())
    return f"{names}: {kind}; {sizes}"


def _learned_rows(trainer: Trainer) -> Iterator[str]:
    """Yield the number and size of the learned vectors, for each node type that has some."""
    from graphtheta.nn.embedding import ShardedParameter
    from graphtheta.wording import format_bytes

    manifest = trainer.shard.manifest
    counts = {spec.name: spec.count for spec in manifest.node_types}
    for parameter in trainer.model.parameters():
        if isinstance(parameter, ShardedParameter):
            name = parameter.node_type
            rows = manifest.num_nodes if name is None else counts[name]
            size = format_bytes(rows * parameter.shape[1] * parameter.element_size())
            of_type = "" if name is None else f" of {name}"
            where = "" if parameter.folder is None else f", mapped from {parameter.folder}"
            yield f"learned vectors{of_type}: {rows:,} x {parameter.shape[1]}, {size}{where}"


def _continuation(stop: Stopped | KeyboardInterrupt, run: RunConfig) -> str:
    """Return how a run that was stopped can be continued."""
    from graphtheta.train.checkpoint import latest_checkpoint
    from graphtheta.train.run_dir import RunDirectory

    if isinstance(stop, Stopped):
        steps = f" and {counted(stop.steps, 'step')}" if stop.steps else ""
        what = f"stopped after {stop.epochs} of {run.epochs} epochs{steps} and saved a checkpoint"
    elif path := latest_checkpoint(RunDirectory(run.run_dir, resume=True).checkpoints):
        what = f"the last checkpoint is {path}"
    else:
        return "no checkpoint was saved; --checkpoint-seconds S saves one every S seconds"
    return f"{what}; to continue, add --resume"


def _show_times(summary: dict[str, Any], groups: int) -> None:
    if groups > 1:
        counts = ", ".join(f"{count:,}" for count in summary["micro_batches_by_group"])
        print(f"micro-batches per group: {counts}")
    rows = [
        (name, f"{seconds:.2f}", f"{100 * share:.0f} %")
        for name, (seconds, share) in phase_times(summary["phase_seconds"]).items()
    ]
    show_rows(rows, head=("phase", "seconds", "share"))
    if prepared := summary["prepared_ahead_seconds"]:
        waited = min(summary["phase_seconds"].get("forward prepare", 0.0), prepared)
        print(
            f"batches prepared in the background: {prepared:.2f} s, of which training waited for "
            f"{waited / prepared:.0%}"
        )


def result_line(summary: Mapping[str, Any]) -> str:
    """Return the best epoch of a run, its metrics and the time of an epoch."""
    metric, reached = summary["metric"], []
    for name, split in (("validation", "val"), ("test", "test")):
        if (value := summary.get(f"{split}_{metric}")) is not None:
            reached.append(f"{name} {metric} {value:.4f}")
        elif (loss := summary.get(f"{split}_loss")) is not None:
            reached.append(f"{name} loss {loss:.4f} (no {metric}: all targets have one class)")
    if not reached:
        is_evaluated = any(key.startswith("train_") for key in summary)
        why = "no validation or test targets" if is_evaluated else "not evaluated in these epochs"
        reached = [f"loss {summary['loss_history'][-1]:.4f} ({why})"]
    seconds = summary["epoch_seconds"]["median"]
    best = f"best epoch {summary['best_epoch']} (counted from 0) of {summary['epochs']}"
    return f"{best}: {', '.join(reached)}; {1000 * seconds:.1f} ms per epoch"
