"""A job that communicates as training does: toy_job.py FAULT STAGE [options].

`--check` compares the operations of all ranks. `--unguarded` does without `guarded`, as a script of
a user's may, and `--hooks` then has `communicator` install its hooks.
"""

from __future__ import annotations

import sys

import numpy as np

from graphtheta.comm.launch import communicator, guarded
from tests.faults import arm

TIMEOUT_S = 1.0


def main() -> None:
    comm = communicator(TIMEOUT_S, check="--check" in sys.argv, install_hooks="--hooks" in sys.argv)
    arm(comm, sys.argv[1], 1, sys.argv[2])
    right, left = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    rows, mirrors, loss = np.zeros(1000), np.zeros(1000), np.zeros(1)
    for epoch in range(5):
        pending = comm.exchange({right: rows}, {left: mirrors}, stage=f"epoch {epoch} sync")
        if pending is not None:  # a skipped one
            pending.wait()
        comm.all_reduce(loss, stage=f"epoch {epoch} loss")
    comm.all_gather(loss, stage="predict")
    if comm.rank == 0:
        print("finished")


if __name__ == "__main__":
    if "--unguarded" in sys.argv:
        main()
    else:
        sys.exit(guarded(main))
