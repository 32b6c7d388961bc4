"""`graphtheta train`: train a model, with options made from the fields of `RunConfig`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Lt
from pydantic.fields import FieldInfo

from graphtheta.cli.terminal.help import Command, flag, option
from graphtheta.cli.terminal.names import NAMES, names
from graphtheta.cli.terminal.show import show_rows
from graphtheta.errors import ConfigError
from graphtheta.run.config import RunConfig, option_details
from graphtheta.run.resolve import resolve
from graphtheta.train.phase_times import phase_times
from graphtheta.train.signals import Stopped
from graphtheta.wording import counted

if TYPE_CHECKING:
    from graphtheta.train.trainer import Trainer

__all__ = ["TrainCommand", "train"]

_METAVARS = {int: "INTEGER", float: "FLOAT", Path: "PATH"}


def _with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that also has an option for each field of `RunConfig`.

    Args:
        command: Called with a dictionary of the `RunConfig` options that were given, and its own
            options as keyword arguments.
    """

    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in RunConfig.model_fields}
        options = {n: v for n, v in given.items() if v is not None and v != []}
        if "fanouts" in options:
            options["fanouts"] = _joined_fanouts(options["fanouts"])
        command(options, **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    parameters = [
        *(
            inspect.Parameter(name, keyword, default=None, annotation=_annotation(name, field))
            for name, field in RunConfig.model_fields.items()
        ),
        *(parameter.replace(kind=keyword) for parameter in own),
    ]
    # typer finds the parameters of a function by these two attributes.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _annotation(name: str, field: FieldInfo) -> Any:
    """Return the type of an option, which is None if it is omitted, and its help."""
    details = option_details(name)
    kinds = [kind for kind in _members(field.annotation) if kind is not NoneType]
    kind = list[str] if dict[str, str] in kinds else kinds[0]  # a dictionary has several texts
    if get_origin(kind) is Literal:
        kind, metavar = str, f"[{'|'.join(get_args(kind))}]"
    else:
        metavar = _METAVARS.get(kind, details["metavar"])
    description = (field.description or "").format_map({key: names(key) for key in NAMES})
    notes = "; ".join([*_default(field, details["without"]), *_range(field)])
    text = f"{description}  [{notes}]" if notes else description
    if name == "input":
        return Annotated[kind | None, typer.Argument(help=text, metavar=metavar)]
    option = typer.Option(help=text, metavar=metavar, rich_help_panel=details["panel"])
    return Annotated[kind | None, option]


def _joined_fanouts(texts: Sequence[str]) -> str | dict[str, str]:
    """Return the value of the option from the texts that it was given, such as `a-b-c=15,10`.

    Raises:
        ConfigError: If a relation is named twice, or only some of several texts name one.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    found: dict[str, str] = {}
    for text in texts:
        relation, equals, numbers = (part.strip() for part in text.partition("="))
        if not equals:
            raise ConfigError(
                f"--fanouts: expected one list of numbers, or SOURCE-NAME-DESTINATION=N,N,... each "
                f"time, got '{text}' and others. Name its relation, or leave out the others."
            )
        if relation in found:
            raise ConfigError(
                f"--fanouts: {relation}: expected it once, got {found[relation]} and {numbers}. "
                "Leave one out."
            )
        found[relation] = numbers
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _default(field: FieldInfo, without: str) -> Iterator[str]:
    if without:
        yield f"default: ({without})"
    elif field.is_required():
        yield "required here or in --config"
    elif field.default is True:
        yield "default: on"
    elif field.default is False:
        yield "default: off"
    elif field.default is not None:
        yield f"default: {field.default}"


def _range(field: FieldInfo) -> Iterator[str]:
    """Yield the range of a number, as `x>=1` or `0<=x<1`."""
    limits = {type(limit): limit for limit in field.metadata}
    if Gt in limits:
        yield f"x>{limits[Gt].gt}"
    elif Lt in limits and limits[Lt].lt <= 1:
        yield f"{limits[Ge].ge}<=x<{limits[Lt].lt}"
    elif Ge in limits:
        yield f"x>={limits[Ge].ge}"


class TrainCommand(Command):
    """Command whose flag `--resume` may be followed by `auto`, which means the same."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        kept = [
            "--resume" if word == "--resume=auto" else word
            for before, word in zip(["", *args], args, strict=False)
            if (before, word) != ("--resume", "auto")
        ]
        return super().parse_args(ctx, kept)


@_with_run_options
def train(
    options: dict[str, Any],
    *,
    config: Annotated[Path | None, option("FILE", panel="Run")] = None,
    resume: Annotated[bool, flag("--resume", panel="Run")] = False,
    no_progress: Annotated[bool, flag("--no-progress", panel="Run")] = False,
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

    Example:
      mpiexec -n 2 graphtheta train store --model gat --hidden 8 --run-dir runs/gat
      graphtheta train store --task link --negatives 8 --strategy mini --run-dir runs/link
    """
    run = resolve(options, file=config, resume=resume)

    from graphtheta.cli.worker import start_worker

    comm, _ = start_worker(run.threads, timeout=run.timeout, allocator="training")

    from graphtheta.run.run import start_run  # imports torch

    trainer = start_run(run, comm, resume=resume, progress="lines" if no_progress else True)
    manifest = trainer.shard.manifest
    print(
        f"{run.input}: {counted(manifest.num_nodes, 'node')}, "
        f"{counted(manifest.num_edges, 'edge')}, "
        f"{counted(comm.size, 'worker')}"
        f"{f' in {run.groups} groups' if run.groups > 1 else ''}",
        flush=True,
    )
    print(_target(trainer), flush=True)
    if trainer.task.metric.why:
        metric = trainer.task.metric
        print(f"best epoch by validation {metric.name}: {metric.why}", flush=True)
    for line in _learned_rows(trainer):
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
        print(_result(summary))
        print(f"wrote the run to {run.run_dir}")


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


def _result(summary: dict[str, Any]) -> str:
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
