"""The command line: thin, one file a sub-command.

Libraries are imported inside the commands: `graphtheta --help` is there at once, and partitioning
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
from graphtheta.cli.names import NamesInHelp
from graphtheta.cli.partition import partition
from graphtheta.cli.predict import predict
from graphtheta.cli.serve import serve
from graphtheta.cli.train import train
from graphtheta.comm.launch import communicator, guarded
from graphtheta.errors import ConfigError
from graphtheta.train.signals import Stopped

__all__ = ["app", "main"]

# Every error of the command line's own; typer does not export it.
_UsageError = cast(type[Exception], typer.BadParameter.__base__)

_BROKEN_PIPE = 141  # what a shell says of a program that SIGPIPE ended

app = typer.Typer(add_completion=False)
for _command in (partition, communities, info, export, train, predict, serve, explain, doctor):
    app.command(cls=NamesInHelp)(_command)
app.add_typer(datasets, name="datasets")
app.add_typer(bench, name="bench")


@app.callback(invoke_without_command=True)
def _graphtheta(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Train graph neural networks on partitioned graphs, exactly, on any number of workers.

    The same commands run under mpiexec, srun and torchrun.

    Example: mpiexec -n 2 graphtheta train cora --run-dir runs/gcn
    """
    if version:
        print(graphtheta.__version__)
    elif context.invoked_subcommand is None:
        context.get_help()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line as this worker of the job, and return its exit code.

    2 is the user's mistake, said in one line; 1 is ours, with a traceback; 130 is Ctrl-C; 143 is a
    run that SIGTERM ended after a checkpoint; 141 is output that nobody reads. No failure of one
    worker leaves others waiting.

    Args:
        arguments: Without the program's name; None: those of this process.
    """
    stopped = 0

    def run() -> int | None:
        nonlocal stopped
        with contextlib.ExitStack() as stack:
            if communicator().rank > 0:  # results and help are printed once
                nowhere = stack.enter_context(open(os.devnull, "w"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            try:
                return _run(sys.argv[1:] if arguments is None else arguments)
            except Stopped as stop:
                stopped = int(stop.code or 0)
                return 0  # all ranks end here: no reason to abort the job
            except BrokenPipeError:  # whoever read the output has seen enough, as `head` has
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return _BROKEN_PIPE

    return guarded(run) or stopped


def _run(arguments: Sequence[str]) -> int | None:
    # As typer's own main, but for errors: its boxes are neither one line nor for several workers.
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
        raise ConfigError(f"{where}: {message.rstrip('.')}. Try: {where} --help") from None
