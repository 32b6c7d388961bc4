"""`graphtheta launch`: run a command under mpiexec, and start it again when it fails."""

from __future__ import annotations

import shlex
import shutil
import sys
from typing import Annotated

from graphtheta.cli.terminal.help import argument, option
from graphtheta.errors import ConfigError

__all__ = ["launch"]


def launch(
    command: Annotated[list[str], argument("COMMAND")],
    workers: Annotated[int, option("INTEGER", names=("--workers", "-n"), min=1)],
    restarts: Annotated[int, option("INTEGER", min=0)] = 3,
    mpiexec: Annotated[str | None, option("TEXT", default="mpiexec of this environment")] = None,
) -> int:
    """Run a command of graphtheta under mpiexec, and start it again when it fails.

    Training is started again with --resume auto, so that it continues from its last checkpoint. The
    wait before a restart is 1 s, 2 s, 4 s, ... up to a minute. A mistake of the user (exit code 2)
    is not tried again. SIGTERM, Ctrl-C and SIGUSR1 are forwarded to the job.

    Args:
        command: Command and its options, such as train store --run-dir runs/gcn.
        workers: Number of workers.
        restarts: Largest number of restarts.
        mpiexec: Command that starts the workers, with its options.

    Example:
      graphtheta launch -n 4 --restarts 3 train store --run-dir runs/gcn --checkpoint-seconds 60
    """
    from graphtheta.comm.launch import launcher
    from graphtheta.runtime.supervisor import Supervisor, find_mpiexec

    if (by := launcher()) is not None:
        raise ConfigError(
            f"launch: expected to start the workers, got started as one ({by.variable} is set). "
            "Run it without mpiexec, srun and torchrun."
        )
    start = [find_mpiexec()] if mpiexec is None else shlex.split(mpiexec)
    if not start or shutil.which(start[0]) is None:
        raise ConfigError(
            f"--mpiexec: expected a command that starts the workers, got '{mpiexec}', which is not "
            "a program. Correct it."
        )
    program = [*start, "-n", str(workers), sys.executable, "-m", "graphtheta", *command]
    resumes = command[0] == "train" and "--resume" not in command
    again = [*program, "--resume", "auto"] if resumes else program
    return Supervisor(program, again, restarts).run()
