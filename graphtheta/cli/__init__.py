"""The command line: one file per command.

Commands import the library when they run, so that help is printed immediately and partitioning
never loads torch.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, cast

import typer
from typer.main import get_command

import graphtheta
from graphtheta.cli.bench import bench
from graphtheta.cli.communities import communities
from graphtheta.cli.datasets import datasets
from graphtheta.cli.doctor import doctor
from graphtheta.cli.explain import explain
from graphtheta.cli.export import export
from graphtheta.cli.info import info
from graphtheta.cli.launch import launch
from graphtheta.cli.parameters import parameters
from graphtheta.cli.partition import partition
from graphtheta.cli.predict import predict
from graphtheta.cli.propagate import propagate
from graphtheta.cli.runs.compare import compare
from graphtheta.cli.runs.report import report
from graphtheta.cli.runs.status import status
from graphtheta.cli.runs.sweep import sweep
from graphtheta.cli.schedule import schedule
from graphtheta.cli.serve import serve
from graphtheta.cli.terminal.help import Command, command_group
from graphtheta.cli.train import TrainCommand, train
from graphtheta.comm.launch import communicator, guarded
from graphtheta.errors import ConfigError
from graphtheta.runtime.tuning import tune
from graphtheta.train.signals import Stopped

__all__ = ["app", "main"]

# Base class of typer's errors about arguments, which typer does not export.
_UsageError = cast(type[Exception], typer.BadParameter.__base__)

_BROKEN_PIPE = 141  # exit code that a shell reports after SIGPIPE

app = command_group(add_completion=False)
for _command in (
    partition,
    communities,
    info,
    export,
    train,
    parameters,
    launch,
    sweep,
    report,
    compare,
    status,
    predict,
    propagate,
    serve,
    explain,
    doctor,
):
    app.command(
        cls=TrainCommand if _command is train else Command,
        # All words after the command that is launched belong to that command.
        context_settings={"allow_interspersed_args": _command is not launch},
    )(_command)
app.add_typer(datasets, name="datasets")
app.add_typer(bench, name="bench")
app.add_typer(schedule, name="schedule")


@app.callback(invoke_without_command=True)
def _graphtheta(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train graph neural networks on partitioned graphs, exactly, on any number of workers.

    The same commands run under mpiexec, srun and torchrun.

    Example:
      mpiexec -n 2 graphtheta train cora --run-dir runs/gcn
    """
    if version:
        print(graphtheta.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line in this worker of the job, and return the exit code.

    0: success. 1: an internal error, printed with a traceback. 2: a mistake of the user, printed
    in one line. 75: a worker was lost or did not answer. 130: Ctrl-C. 141: the output was closed.
    143: training was stopped by SIGTERM, after a checkpoint. If one worker fails, the job ends.

    Args:
        arguments: Arguments without the program's name. If None, those of this process.
    """
    stopped = 0

    def run() -> int | None:
        nonlocal stopped
        with contextlib.ExitStack() as stack:
            if communicator().rank > 0:  # only rank 0 prints results and help
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            try:
                return _run(sys.argv[1:] if arguments is None else arguments)
            except Stopped as stop:
                stopped = int(stop.code or 0)
                return 0  # all ranks stop here, so that the job needs no abort
            except BrokenPipeError:  # the reader closed the output, as `head` does
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return _BROKEN_PIPE

    tune(allocator=None)  # huge pages, before torch allocates a tensor
    return guarded(run) or stopped


def _run(arguments: Sequence[str]) -> int | None:
    # Like typer's own main, except that an error is one line and is printed once per job.
    command = get_command(app)
    try:
        with command.make_context("graphtheta", list(arguments)) as context:
            code: int | None = command.invoke(context)
            return code
    except typer.Exit as done:
        return done.exit_code
    except _UsageError as error:
        at = getattr(error, "ctx", None)
        where = at.command_path if at else "graphtheta"
        message = " ".join(error.format_message().split())  # type: ignore[attr-defined]
        raise ConfigError(f"{where}: {message.rstrip('.?')}. Try: {where} --help") from None
