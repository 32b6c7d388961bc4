"""Sentinel: it reports the rank that was killed, but none that the launcher ends after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

# Ranks 0 and 1 of a host, in process groups of their own, as under mpiexec.
HOST = """
import subprocess, sys, time
from graphtheta.comm.sentinel import Lifeline, listen

mine = Lifeline()
mine.set_stage("start")
if sys.argv[1:]:
    mine.connect(bytes.fromhex(sys.argv[1]), 1)
    mine.set_stage("epoch 1")
    print("connected", flush=True)
else:
    listener, address = listen()
    mine.connect(address, 0)
    other = subprocess.Popen(
        [sys.executable, __file__, address.hex()], stdout=subprocess.PIPE, start_new_session=True
    )
    other.stdout.readline()
    mine.start_sentinel(listener)
    print(other.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.spawn
@pytest.mark.skipif(sys.platform != "linux", reason="there is no sentinel")
@pytest.mark.parametrize(
    ("killed", "expected"), [("rank", "error: rank 1 (last in 'epoch 1'): killed"), ("decoy", "")]
)
def test_only_a_rank_that_is_killed_alone_is_reported(
    killed: str, expected: str, tmp_path: Path
) -> None:
    script = tmp_path / "host.py"
    script.write_text(HOST)
    first = subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert first.stdout is not None
    second = int(first.stdout.readline())
    assert first.stderr is not None
    errors = ""
    if killed == "rank":
        os.kill(second, signal.SIGKILL)
        errors = first.stderr.readline()
    else:  # as the launcher: the whole group, of which the decoy is the first to end
        (decoy,) = [p for p in psutil.Process(first.pid).children() if p.name() == "cat"]
        assert os.getpgid(decoy.pid) == first.pid
        decoy.kill()
        while decoy.status() != psutil.STATUS_ZOMBIE:  # a busy machine ends it late
            time.sleep(0.001)
        os.kill(second, signal.SIGKILL)
    os.killpg(first.pid, signal.SIGKILL)
    errors += first.communicate(timeout=60)[1]
    assert errors.startswith(expected)
    assert bool(errors) == bool(expected)
