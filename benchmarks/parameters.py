"""Measure a parameter service: groups, bytes a second, and a slow group.

    python benchmarks/parameters.py groups --json FILE
    python benchmarks/parameters.py stream --json FILE
    python benchmarks/parameters.py slow --json FILE
    python benchmarks/parameters.py delay --data cora --epochs 60 --json FILE

`groups` compares two groups of one worker that share a service with `--groups 2` in one job: steps
a second, in turns. `stream` pulls and pushes parameters, and compares the bytes a second with a
bare gRPC stream of messages of 2 MiB. `slow` stops one of two groups for three quarters of the
time, and compares both together with the sum of the speeds that each has by itself. `delay` prints
the test accuracy of a GCN for some delays, over some seeds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import torch
from torch import nn

import graphtheta as gt
from graphtheta.bench.graphs import rmat_graph
from graphtheta.bench.record import append, new_record
from graphtheta.engine.client.connection import Connection
from graphtheta.engine.server.parameter_service import ParameterServer
from graphtheta.engine.wire.pieces import encode_contribution, read_pieces
from graphtheta.engine.wire.protocol import MESSAGE_BYTES
from graphtheta.partition import Plan, make_store
from graphtheta.proto.v1 import parameters_pb2 as messages
from graphtheta.train.elastic.layout import ModelLayout
from graphtheta.train.elastic.ledger import Work
from graphtheta.train.elastic.source import Contribution, GroupName, RunTerms, Task

RUN = ["--model", "gat", "--hidden", "16", "--layers", "2", "--strategy", "mini"]
STEPS = ["--batch-size", "2048", "--fanouts", "10,10", "--evaluate-every", "1000"]
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1),
]
MESSAGE = 2 << 20
SPAWN = multiprocessing.get_context("spawn")
ON_S, OFF_S = 0.02, 0.06  # of a group that is slowed four times


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=MEASUREMENTS)
    parser.add_argument("--scale", type=int, default=14, help="2^scale nodes")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--mib", type=int, default=128, help="size of the parameters")
    parser.add_argument("--data", default="cora", help="data set of delay")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of delay")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    MEASUREMENTS[options.what](options)


# -- groups ---------------------------------------------------------------------------------------


def measure_groups(options: Any) -> None:
    """Compare two groups with a service with two groups in one job."""
    found: dict[str, list[float]] = {"service": [], "one job": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make(folder, options.scale)
        train = [*RUN, *STEPS, "--micro-batches", "8", "--epochs", str(options.epochs)]
        for turn in range(options.repeats):
            run = folder / f"job-{turn}"
            launch = [str(Path(sys.executable).parent / "mpiexec"), "-n", "2"]
            one = ["train", store, *train, "--groups", "2", "--threads", "1", "--run-dir", run]
            command([*launch, sys.executable, "-m", "graphtheta", *one])
            found["one job"].append(epoch_seconds(run))
            run = folder / f"service-{turn}"
            with served(store, run, train) as address:
                with ExitStack() as stack:
                    for _ in range(2):
                        stack.enter_context(group(store, address))
                    wait_for_end(run)
            found["service"].append(epoch_seconds(run))
    report("parameters groups", found, options, "epoch")
    share = statistics.median(found["one job"]) / statistics.median(found["service"])
    print(f"throughput of the service: {share:.2f} of one job")


def epoch_seconds(run: Path) -> float:
    """Return the median time of an epoch after the first."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(line["seconds"] for line in lines[1:])


# -- a slow group ---------------------------------------------------------------------------------


def measure_slow(options: Any) -> None:
    """Compare a fast and a slow group together with the sum of both by themselves."""
    found: dict[str, list[float]] = {"fast": [], "slow": [], "both": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make(folder, options.scale)
        train = [*RUN, *STEPS, "--micro-batches", "16", "--delay", "4", "--epochs", "1000"]
        for turn in range(options.repeats):
            for who in found:
                run = folder / f"{who}-{turn}"
                with served(store, run, train) as address, ExitStack() as stack:
                    if who != "slow":
                        stack.enter_context(group(store, address))
                    if who != "fast":
                        stack.enter_context(slowed(stack.enter_context(group(store, address))))
                    found[who].append(1 / steps_a_second(run, 5 * options.epochs))
    report("parameters slow", found, options, "step")
    fast, slow, both = (1 / statistics.median(found[who]) for who in found)
    print(f"steps/s: fast {fast:.2f}, slow {slow:.2f}, both {both:.2f}", end="; ")
    print(f"both are {both / (fast + slow):.2f} of the sum")


@contextmanager
def slowed(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop a process for three quarters of the time while the context is active."""
    end = threading.Event()

    def work() -> None:
        with suppress(ProcessLookupError):
            while not end.is_set():
                process.send_signal(signal.SIGSTOP)
                time.sleep(OFF_S)
                process.send_signal(signal.SIGCONT)
                time.sleep(ON_S)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def steps_a_second(run: Path, count: int) -> float:
    """Return the rate of updates, once there are some, over `count` of them."""
    first = 5
    while len(times := step_times(run)) < first + count:
        time.sleep(0.5)
    return (len(times) - 1 - first) / (times[-1] - times[first])


def step_times(run: Path) -> list[float]:
    """Return the time of each update, from the log of the service."""
    lines = run.with_suffix(".log").read_text().splitlines()
    events = [json.loads(line) for line in lines if '"event": "step"' in line and line[-1] == "}"]
    return [datetime.fromisoformat(event["time"]).timestamp() for event in events]


# -- processes ------------------------------------------------------------------------------------


def make(folder: Path, scale: int) -> Path:
    """Make a store of a random graph with labels."""
    graph = rmat_graph(scale, 16, features=64, edge_features=0, edge_types=0)
    return make_store(graph, folder / "store", Plan(1)).path


def command(words: Sequence[Any]) -> None:
    """Run a command to its end."""
    done = subprocess.run([str(word) for word in words], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


@contextmanager
def running(words: Sequence[Any], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of graphtheta while the context is active."""
    with log.open("wb") as output:
        program = [sys.executable, "-m", "graphtheta", *map(str, words)]
        process = subprocess.Popen(program, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def served(store: Path, run: Path, train: Sequence[str]) -> Iterator[str]:
    """Serve a run while the context is active, and yield its address."""
    log = run.with_suffix(".log")
    words = ["parameters", store, "--run-dir", run, "--threads", "1", "--bind", "127.0.0.1:0"]
    with running([*words, *train], log):
        while "serving the parameters" not in (text := log.read_text()):
            time.sleep(0.1)
        yield text.partition("serving the parameters")[2].splitlines()[0].split()[-1]


@contextmanager
def group(store: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """Train in a group of one worker while the context is active."""
    words = ["train", store, "--parameters", address, "--threads", "1", "--timeout", "60"]
    with tempfile.NamedTemporaryFile() as log, running(words, Path(log.name)) as process:
        yield process


def wait_for_end(run: Path) -> None:
    """Wait until a run has written its summary."""
    while not (run / "summary.json").exists():
        time.sleep(0.2)


# -- accuracy by delay ----------------------------------------------------------------------------


def measure_delay(options: Any) -> None:
    """Train with several delays, and print the test accuracy in the best epoch by validation."""
    for delay in (0, 1, 4, 16):
        found = [
            accuracy(options.data, delay, options.epochs, seed) for seed in range(options.seeds)
        ]
        case = {"data": options.data, "delay": delay, "epochs": options.epochs, "threads": 1}
        best = [1 - value for value in found]  # of records, less is better
        append(options.json, [new_record("parameters delay", case, best, unit="seconds")])
        spread = statistics.stdev(found)
        print(f"delay {delay}: {statistics.mean(found):.4f} ± {spread:.4f}", flush=True)


def accuracy(data: str, delay: int, epochs: int, seed: int) -> float:
    """Return the test accuracy of a GCN on mini-batches of an eighth of the training nodes."""
    shard = gt.open_shard(gt.datasets.load(data))

    def trainer(**more: Any) -> gt.Trainer:
        model = gt.nn.GCN(shard.num_features, 16, shard.num_classes, dropout=0.5, seed=seed)
        strategy = gt.MiniBatch(-(-shard_size(shard) // 8), [10, 10])
        return gt.Trainer(model, shard, strategy=strategy, seed=seed, **more)

    host = gt.ParameterHost(trainer(weight_decay=5e-4, evaluate_every=5), epochs, delay=delay)
    summary = trainer(parameters=host).fit()
    host.close()
    return float(summary["test_accuracy"])


def shard_size(shard: Any) -> int:
    """Return the number of training nodes."""
    _, known = shard.label("y")
    return int(((shard.split("split") == 0) & known).sum())


# -- bytes a second -------------------------------------------------------------------------------


class Host:
    """Parameters of a size, without a run: what a `ParameterHost` answers to pull and push."""

    def __init__(self, mib: int) -> None:
        self.layout = ModelLayout(nn.Linear(1 << 18, mib, bias=False))
        self._state = self.layout.state()

    def terms(self) -> RunTerms:
        """Return empty terms."""
        return RunTerms("", {}, {"store": ""}, 1, 1, 1)

    def status(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def pull(self, version: int) -> Any:
        """Return the parameters."""
        return self._state

    def next(self, *_: Any, **__: Any) -> Task:
        """Return no work."""
        return Task("wait", "")

    def push(self, *_: Any) -> str:
        """Drop a result."""
        return "counted"


def measure_stream(options: Any) -> None:
    """Compare bytes a second of pull and push with bare streams."""
    size = options.mib << 20
    with ExitStack() as stack:
        host = stack.enter_context(in_process(serve_host, options.mib))
        bare = stack.enter_context(in_process(serve_bare, size))
        connection = Connection(host, None)
        channel = grpc.insecure_channel(bare, OPTIONS)
        layout = ModelLayout(nn.Linear(1 << 18, options.mib, bias=False))
        gradients = np.zeros(layout.num_gradients, np.float32)
        result = Contribution(0.0, 1.0, gradients, {})
        name, work = GroupName.new(1), Work(0, 0, 0)
        message = bytes(MESSAGE)

        def far() -> float:
            return time.monotonic() + 600

        calls: dict[str, Callable[[], Any]] = {
            "pull": lambda: connection.read(
                "Pull", messages.PullRequest(version=0), far(), lambda s: read_pieces(s, size)
            ),
            "bare pull": lambda: list(channel.unary_stream("/bare/Pull")(b"", timeout=600)),
            "push": lambda: connection.upload(
                "Push", lambda: encode_contribution(name, work, result), far()
            ),
            "bare push": lambda: channel.stream_unary("/bare/Push")(
                iter([message] * (size // MESSAGE)), timeout=600
            ),
        }
        found: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(options.repeats + 1):
            for what, call in calls.items():
                start = time.perf_counter()
                call()
                if turn:
                    found[what].append(time.perf_counter() - start)
    report("parameters stream", found, options, f"{options.mib} MiB")
    for what in ("pull", "push"):
        seconds, bare_s = (statistics.median(found[k]) for k in (what, f"bare {what}"))
        print(f"{what}: {size / seconds / 1e6:,.0f} MB/s, {bare_s / seconds:.2f} of a bare stream")


@contextmanager
def in_process(serve: Callable[..., None], argument: int) -> Iterator[str]:
    """Run a server in a process of its own, and yield its address."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=serve, args=(theirs, argument), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def serve_host(pipe: Any, mib: int) -> None:
    """Serve parameters of a size."""
    torch.set_num_threads(1)
    host: Any = Host(mib)
    server = ParameterServer(host)
    pipe.send(server.port)
    time.sleep(3600)


def serve_bare(pipe: Any, size: int) -> None:
    """Serve streams of constant bytes."""
    message = bytes(MESSAGE)

    def pull(request: bytes, context: Any) -> Iterator[bytes]:
        yield from [message] * (size // MESSAGE)

    def push(requests: Iterator[bytes], context: Any) -> bytes:
        for _ in requests:
            pass
        return b""

    methods = {
        "Pull": grpc.unary_stream_rpc_method_handler(pull),
        "Push": grpc.stream_unary_rpc_method_handler(push),
    }
    server = grpc.server(ThreadPoolExecutor(4), options=OPTIONS[:1])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("bare", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(port)
    time.sleep(3600)


def report(benchmark: str, found: dict[str, list[float]], options: Any, unit: str) -> None:
    """Print seconds, and append them to the file of records."""
    for name, seconds in found.items():
        print(f"{name}: {statistics.median(seconds):.4f} s per {unit} ({len(seconds)} times)")
        case = {"side": name, "scale": options.scale, "mib": options.mib, "threads": 1}
        append(options.json, [new_record(benchmark, case, seconds)])


MEASUREMENTS = {
    "groups": measure_groups,
    "stream": measure_stream,
    "slow": measure_slow,
    "delay": measure_delay,
}

if __name__ == "__main__":
    main()
