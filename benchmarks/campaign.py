"""Disturb groups and the parameter service of a run at random, and compare the final weights.

    python benchmarks/campaign.py --events 100 --restarts 10 --json FILE

A first run is undisturbed: one service, one group. In the second, groups are killed by SIGKILL,
stopped by SIGSTOP for longer than a lease, ended by SIGTERM, and cut off by a proxy, at random
times and in random order, and start again; the service is killed and started again. The weights of
both runs must be the same bits. Gaps between two updates are taken from the service's log; one
that has a restart of the service in it counts apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from graphtheta.bench.record import append, new_record

LEASE_S = 3.0
_KINDS = ("kill", "stop", "end", "cut off")
_WEIGHTS = (2, 3, 1, 4)
_ENDS = (0, -signal.SIGKILL, 128 + signal.SIGTERM)  # exit codes of groups; others are faults


def main() -> None:
    """Run the campaign and print what it found."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(
            Path(folder),
            options.train,
            events=options.events,
            restarts=options.restarts,
            groups=options.groups,
            pause_s=options.pause,
            seed=options.seed,
        )
    for name, value in found.items():
        print(f"{name}: {value}")
    if options.json:
        case = {"train": " ".join(options.train), "groups": options.groups, "threads": 1}
        samples = [found.pop("wild_seconds")]
        append(options.json, [new_record("campaign", case, samples, **found)])
    assert found["same_weights"]


def campaign(
    folder: Path,
    train: Sequence[str],
    *,
    events: int,
    restarts: int,
    groups: int = 2,
    pause_s: float = 1.0,
    seed: int = 0,
    limit_s: float = 3600.0,
) -> dict[str, Any]:
    """Train undisturbed and disturbed, and return what happened.

    Args:
        folder: Empty folder for a store and the runs.
        train: Options of the run.
        events: Number of times that a group is killed, stopped, ended or cut off.
        restarts: Number of times that the service is killed.
        groups: Number of groups that are kept alive.
        pause_s: Mean seconds between two events.
        seed: Random seed of the events.
        limit_s: Seconds after which the campaign has failed.
    """
    store = folder / "store"
    _run(["partition", "cora", store, "--parts", "2"])
    (folder / "calm").mkdir()
    port = free_port()
    with service(folder / "calm", store, train, port) as calm:
        with group(folder / "calm" / "group.log", store, port):
            calm_s = wait_for(calm, limit_s)
    rng = random.Random(seed)
    wild = folder / "wild"
    wild.mkdir()
    port, counts, killed_at = free_port(), dict.fromkeys(_KINDS, 0), []
    start, last_restart = time.monotonic(), 0
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(port))
        served = [stack.enter_context(service(wild, store, train, port))]
        logs = (wild / f"{number}.log" for number in itertools.count())

        def start_group() -> Process:
            log = next(logs)
            return Process(stack.enter_context(group(log, store, proxy.port)), log)

        alive = [start_group() for _ in range(groups)]
        order = ["restart"] * restarts + rng.choices(_KINDS, _WEIGHTS, k=events)
        rng.shuffle(order)
        while (process := served[-1].process).poll() is None:
            assert time.monotonic() - start < limit_s
            time.sleep(rng.uniform(0.2, 1.8) * pause_s)
            ready = [one for one in alive if has_joined(one)]
            kind = order[-1] if order else ""
            if kind == "restart" and num_steps(wild) > last_restart:
                process.kill()
                process.wait()
                killed_at.append(time.time())
                last_restart = num_steps(wild)
                served.append(stack.enter_context(service(wild, store, train, port)))
                order.pop()
            elif kind in _KINDS and ready:
                counts[kind] += 1
                disturb(rng.choice(ready).process, kind, proxy)
                order.pop()
            for number, one in enumerate(alive):
                if one.process.poll() is not None and process.poll() is None:
                    assert one.process.returncode in _ENDS, one.log.read_text()[-2000:]
                    alive[number] = start_group()
        assert served[-1].process.returncode == 0, (wild / "service.log").read_text()[-2000:]
        wild_s = time.monotonic() - start
    weights = [(f / "run" / "weights.safetensors").read_bytes() for f in (folder / "calm", wild)]
    losses = [json.loads((f / "run" / "summary.json").read_text()) for f in (folder / "calm", wild)]
    gaps, gaps_of_restarts, steps = step_gaps(wild / "service.log", killed_at)
    return {
        "same_weights": weights[0] == weights[1],
        "same_losses": losses[0]["loss_history"] == losses[1]["loss_history"],
        "steps": steps,
        "events": counts,
        "restarts": len(killed_at),
        "events_left": len(order),
        "calm_seconds": round(calm_s, 1),
        "wild_seconds": round(wild_s, 1),
        "longest_gap_seconds": round(max(gaps), 2),
        "longest_gap_of_a_restart_seconds": round(max(gaps_of_restarts, default=0.0), 2),
        "lease_seconds": LEASE_S,
    }


def disturb(process: subprocess.Popen[bytes], kind: str, proxy: Proxy) -> None:
    """Do something to a group."""
    if kind == "cut off":
        proxy.cut()
        return
    with suppress(ProcessLookupError):
        if kind == "stop":
            process.send_signal(signal.SIGSTOP)
            timer = threading.Timer(2 * LEASE_S, _continue, [process])
            timer.daemon = True
            timer.start()
        else:
            process.send_signal(signal.SIGKILL if kind == "kill" else signal.SIGTERM)


def _continue(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)


@dataclass
class Process:
    """A running command, and the file of its output."""

    process: subprocess.Popen[bytes]
    log: Path


def has_joined(one: Process) -> bool:
    """Return whether a group is alive and has joined."""
    return one.process.poll() is None and "a group of" in one.log.read_text()


def num_steps(folder: Path) -> int:
    """Return the number of lines of steps in the log of a service."""
    return (folder / "service.log").read_text().count('"event": "step"')


@contextmanager
def service(folder: Path, store: Path, train: Sequence[str], port: int) -> Iterator[Process]:
    """Serve a run while the context is active."""
    command = ["parameters", store, "--run-dir", folder / "run", "--bind", f"127.0.0.1:{port}"]
    more = ["--lease-seconds", LEASE_S, "--checkpoint-seconds", "2", *train]
    with running([*command, *more], folder / "service.log") as process:
        yield Process(process, folder / "service.log")


def group(log: Path, store: Path, port: int) -> Any:
    """Return a context in which a group of one worker trains."""
    return running(["train", store, "--parameters", f"127.0.0.1:{port}", "--timeout", "120"], log)


@contextmanager
def running(arguments: Sequence[Any], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of graphtheta while the context is active; its output is appended to a file."""
    command = [sys.executable, "-m", "graphtheta", *map(str, arguments)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(one: Process, limit_s: float) -> float:
    """Return the seconds until a process has ended well."""
    start = time.monotonic()
    code = one.process.wait(limit_s)
    assert code == 0, f"exit code {code}: {one.log.read_text()[-2000:]}"
    return time.monotonic() - start


def step_gaps(log: Path, killed_at: Sequence[float]) -> tuple[list[float], list[float], int]:
    """Return the seconds between updates, without and with a restart, and the number of steps."""
    times: list[float] = []
    steps: set[int] = set()
    for line in log.read_text().splitlines():
        if '"event": "step"' in line:
            event = json.loads(line)
            times.append(datetime.fromisoformat(event["time"]).timestamp())
            steps.add(event["step"])
    gaps, with_restart = [0.0], []
    for before, after in itertools.pairwise(times):
        is_restart = any(before <= at <= after for at in killed_at)
        (with_restart if is_restart else gaps).append(after - before)
    assert steps == set(range(len(steps)))  # none is missing
    return gaps, with_restart, len(steps)


class Proxy:
    """Proxy in front of a service, which can cut all connections.

    Args:
        target: Port of the service.

    Attributes:
        port: Port of the proxy.
    """

    def __init__(self, target: int) -> None:
        self._target, self._sockets = target, set[socket.socket]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Close all connections."""
        for one in list(self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                for one, other in ((client, server), (server, client)):
                    self._sockets.add(one)
                    threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._sockets.discard(source)
        source.close()


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _run(arguments: Sequence[Any]) -> None:
    command = [sys.executable, "-m", "graphtheta", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def arguments() -> Any:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--pause", type=float, default=2.5, help="mean seconds between events")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("train", nargs="*", help="options of the run, after --")
    options = parser.parse_args()
    options.train = options.train or [
        *("--model", "gat", "--hidden", "32", "--heads", "8", "--layers", "3"),
        *("--micro-batches", "4", "--epochs", "200", "--evaluate-every", "20", "--delay", "1"),
    ]
    return options


if __name__ == "__main__":
    main()
