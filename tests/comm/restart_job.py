"""A job that loses rank 1 in its first attempt: restart_job.py FILE [cut].

FILE is made before rank 1 is killed. With `cut`, nobody is killed, and the job goes on for ever.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from graphtheta.comm.launch import communicator, guarded


def main() -> None:
    comm = communicator(2.0 if "cut" in sys.argv else 60.0)
    file, counter = Path(sys.argv[1]), comm.counter()
    for epoch in itertools.count() if "cut" in sys.argv else range(4):
        if epoch == 3 and comm.rank == 1 and not file.exists():
            file.touch()
            if "cut" not in sys.argv:
                os.kill(os.getpid(), signal.SIGKILL)
        total = np.ones(1)
        comm.all_reduce(total, stage=f"epoch {epoch}")
        assert total[0] == comm.size
        number = counter.next(stage="count")
        time.sleep(0.01)
    numbers = comm.all_gather_int(number, stage="numbers")
    if comm.rank == 0:
        print(f"finished with {numbers.max()}")


if __name__ == "__main__":
    sys.exit(guarded(main))
