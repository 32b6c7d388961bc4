"""Measure the engine under load: batches per second and latency, or memory over time.

    python benchmarks/engine.py --json FILE
    python benchmarks/engine.py --soak 600

Eight clients on loopback fetch batches: a subgraph of 1,024 seed nodes with fan-outs 10 and 10, and
the 128 float32 features of its nodes. Each client draws its seeds from a pool of nodes that it has
looked up once, as the PyG loader does with its input nodes. In the same run, the same number of
bare gRPC servers stream as many bytes for each batch to the same number of clients: constant bytes
in messages of 2 MiB, without protobuf. Bytes are taken from the servers' metrics.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from graphtheta.bench.graphs import rmat_graph
from graphtheta.bench.record import append, new_record, provenance
from graphtheta.engine import connect
from graphtheta.engine.wire.protocol import MESSAGE_BYTES
from graphtheta.partition import Plan, make_store

SEEDS, FANOUTS, FEATURES = 1024, [10, 10], 128
MESSAGE = 1 << 21  # bytes
POOL = 1 << 16  # nodes from which a client draws its seeds
GOAL = 0.5  # share of the bare stream's rate
SPAWN = multiprocessing.get_context("spawn")
OPTIONS = [("grpc.max_receive_message_length", MESSAGE_BYTES)]


def main() -> None:
    """Run the benchmark and print its table."""
    options = arguments()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        graph = rmat_graph(options.scale, 16, features=FEATURES, edge_features=0, edge_types=0)
        store = make_store(graph, Path(folder) / "store", Plan(options.servers, options.method))
        case = {
            "graph": f"rmat {options.scale} x 16",
            "servers": options.servers,
            "clients": options.clients,
            "method": options.method,
        }
        del graph
        servers = [stack.enter_context(serve(store.path, k)) for k in range(options.servers)]
        addresses = [server.address for server in servers]
        run(fetch_batches, addresses, options.clients, batches=2)  # warm-up: kernels, page cache
        if options.soak:
            soak(servers, addresses, case, options)
            return
        before = sum(server.sent_bytes() for server in servers)
        times, wall = run(fetch_batches, addresses, options.clients, batches=options.batches)
        per_batch = (sum(server.sent_bytes() for server in servers) - before) // len(times)
        bare = [stack.enter_context(bare_server()) for _ in servers]
        share = per_batch // len(bare)
        bare_times, bare_wall = run(
            read_bytes, bare, options.clients, batches=options.batches, size=share
        )
    rows = {"graphtheta": (times, wall), "bare gRPC": (bare_times, bare_wall)}
    print(f"{case}, {per_batch / 2**20:.1f} MiB a batch\n")
    print(f"| | batches/s | MB/s | p50 ms | p95 ms | p99 ms |\n{'|---' * 6}|")
    for name, (some, seconds) in rows.items():
        p50, p95, p99 = 1000 * np.percentile(some, [50, 95, 99])
        rate = len(some) / seconds
        print(
            f"| {name} | {rate:.1f} | {rate * per_batch / 1e6:.0f} | {p50:.0f} | {p95:.0f} | "
            f"{p99:.0f} |"
        )
        if options.json:
            record = new_record(
                "engine", {"side": name, **case}, some, wall=seconds, bytes=per_batch
            )
            append(options.json, [record])
    share_of_bare = (len(times) / wall) / (len(bare_times) / bare_wall)
    print(f"\n{share_of_bare:.0%} of the bare stream (goal: {GOAL:.0%})")


def arguments() -> argparse.Namespace:
    """Return the command-line options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=int, default=18, help="RMAT scale")
    parser.add_argument("--servers", type=int, default=2, help="servers, one for each part")
    parser.add_argument("--clients", type=int, default=8, help="client processes")
    parser.add_argument("--batches", type=int, default=30, help="batches of each client")
    parser.add_argument("--method", default="node-hash", help="partitioner")
    parser.add_argument(
        "--soak",
        type=float,
        default=0,
        help="measure memory under this many seconds of load instead",
    )
    parser.add_argument("--json", type=Path, help="file to append records to")
    return parser.parse_args()


# -- clients --------------------------------------------------------------------------------------


def fetch_batches(addresses: list[str], number: int) -> Callable[[int], int]:
    """Return a function that fetches the batch of a step from the engine."""
    graph = connect(addresses, timeout_s=600)
    keys = graph.random_nodes(min(POOL, graph.num_nodes), seed=number)
    new_ids = graph.new_ids(keys, "node_key")

    def batch(step: int) -> int:
        rows = np.arange(step * SEEDS, (step + 1) * SEEDS) % len(keys)
        found = graph.subgraph(
            new_ids[rows], FANOUTS, by="new_id", node_keys=keys[rows], seed=number, step=step
        )
        return graph.columns(found.new_id, ["features"], "new_id")["features"].nbytes

    return batch


def read_bytes(addresses: list[str], number: int, size: int) -> Callable[[int], int]:
    """Return a function that reads `size` bytes from each bare server, in parallel."""
    calls = [grpc.insecure_channel(a, OPTIONS).unary_stream("/bare/Stream") for a in addresses]
    pool = ThreadPoolExecutor(len(calls))

    def read(call: Any) -> int:
        return sum(len(message) for message in call(size.to_bytes(8, "little"), timeout=600))

    return lambda step: sum(pool.map(read, calls))


def run(
    make: Callable[..., Callable[[int], int]],
    addresses: list[str],
    clients: int,
    *,
    batches: int = 0,
    seconds: float = 0.0,
    **more: Any,
) -> tuple[list[float], float]:
    """Return the durations of all clients' batches, and of the whole run, in seconds.

    Args:
        make: Called in each client with the addresses, its number and `more`; returns a function
            that fetches the batch of a step.
        addresses: Servers.
        clients: Number of client processes.
        batches: Batches of each client.
        seconds: Shortest duration of the run.
        more: Further arguments of `make`.
    """
    barrier, queue = SPAWN.Barrier(clients + 1), SPAWN.Queue()
    processes = [
        SPAWN.Process(
            target=client, args=(make, addresses, k, batches, seconds, more, barrier, queue)
        )
        for k in range(clients)
    ]
    for process in processes:
        process.start()
    barrier.wait(300)
    started = time.perf_counter()
    times = [seconds for _ in processes for seconds in queue.get()]
    wall = time.perf_counter() - started
    for process in processes:
        process.join()
    return times, wall


def client(
    make: Callable[..., Callable[[int], int]],
    addresses: list[str],
    number: int,
    batches: int,
    seconds: float,
    more: dict[str, Any],
    barrier: Any,
    queue: Any,
) -> None:
    """Fetch batches one after another, in a client process."""
    batch = make(addresses, number, **more)
    batch(10**6 + number)
    barrier.wait(300)
    times, started = [], time.perf_counter()
    while len(times) < batches or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        batch(len(times))
        times.append(time.perf_counter() - before)
    queue.put(times)


# -- servers --------------------------------------------------------------------------------------


class Server:
    """A process of `graphtheta serve` for one part."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.address = process.stdout.readline().split()[-1]
        self._metrics = json.loads(process.stderr.readline())["metrics_port"]
        self._process = psutil.Process(process.pid)

    def sent_bytes(self) -> int:
        """Return the bytes of all responses so far, from the metrics."""
        url = f"http://127.0.0.1:{self._metrics}/metrics"
        with urllib.request.urlopen(url, timeout=30) as page:
            lines = page.read().decode().splitlines()
        counts = (line.split()[-1] for line in lines if line.startswith("graphtheta_sent_bytes_to"))
        return int(sum(map(float, counts)))

    def resources(self) -> tuple[float, int, int]:
        """Return private MiB (without the mapped store), file handles and threads."""
        memory = self._process.memory_info()
        return (
            (memory.rss - memory.shared) / 2**20,
            self._process.num_fds(),
            self._process.num_threads(),
        )


@contextmanager
def serve(store: Path, part: int) -> Iterator[Server]:
    """Serve a part from another process while the context is active."""
    command = [sys.executable, "-m", "graphtheta", "serve", store, "--part", part]
    process = subprocess.Popen(
        [*map(str, command), "--metrics-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Server(process)
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def bare_server() -> Iterator[str]:
    """Run a bare gRPC server in another process; yield its address."""
    queue = SPAWN.Queue()
    process = SPAWN.Process(target=stream_bytes, args=(queue, os.getpid()), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{queue.get(timeout=60)}"
    finally:
        process.terminate()
        process.join()


def stream_bytes(queue: Any, parent: int) -> None:
    """Serve `/bare/Stream`, which streams as many bytes as requested, until the parent exits."""
    message = bytes(MESSAGE)

    def stream(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        left = int.from_bytes(request, "little")
        while left > 0:
            yield message if left >= MESSAGE else message[:left]
            left -= MESSAGE

    handler = grpc.unary_stream_rpc_method_handler(stream)
    server = grpc.server(ThreadPoolExecutor(36))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("bare", {"Stream": handler})]
    )
    queue.put(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    while os.getppid() == parent:
        time.sleep(1)


def soak(
    servers: list[Server], addresses: list[str], case: dict[str, Any], options: argparse.Namespace
) -> None:
    """Load the servers in ten intervals, and print the resources of each server after each."""
    print(f"| seconds | batches/s | MiB | handles | threads |\n{'|---' * 5}|")
    started, rows = time.perf_counter(), []
    for _ in range(10):
        times, wall = run(fetch_batches, addresses, options.clients, seconds=options.soak / 10)
        columns = list(zip(*(server.resources() for server in servers), strict=True))
        memory, handles, threads = (" + ".join(f"{x:.0f}" for x in each) for each in columns)
        passed, rate = time.perf_counter() - started, len(times) / wall
        print(f"| {passed:.0f} | {rate:.1f} | {memory} | {handles} | {threads} |", flush=True)
        resources = dict(zip(("mebibytes", "handles", "threads"), columns, strict=True))
        rows.append({"seconds": passed, "batches_per_second": rate, **resources})
    if options.json:
        record = {"benchmark": "engine soak", "case": case, "stretches": rows, **provenance(1)}
        append(options.json, [record])


if __name__ == "__main__":
    main()
