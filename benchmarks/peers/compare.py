"""Comparison of GraphTheta with its peers on one graph, in turns, for the benchmark scripts."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphtheta import Graph
from graphtheta.bench.memory import peak_bytes, reset_peak, resident_bytes
from graphtheta.bench.record import Record, append, new_record
from graphtheta.bench.timing import alternate
from graphtheta.partition import Plan, Resources, make_store
from peers.worker import Worker

__all__ = [
    "PeerComparison",
    "arguments",
    "better",
    "largest_difference",
    "megabytes",
    "memory",
    "milliseconds",
    "ratio",
    "written",
]

TOLERANCE = 1e-5


def arguments(about: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks that compare with peers."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--peers-python", help="Python interpreter with torch_geometric and dgl")
    parser.add_argument("--peers", default="pyg,dgl", help="peers to compare with")
    parser.add_argument("--threads", type=int, default=2, help="threads per library")
    parser.add_argument("--runs", type=int, default=7, help="measured runs, at least 5")
    parser.add_argument("--warmup", type=int, default=2, help="warm-up runs before them")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    parser.add_argument("--plot", type=Path, help="plot to write, .png or .svg")
    parser.add_argument(
        "--allow-chunked", action="store_true", help="allow layers that do not run fused"
    )
    return parser


@contextmanager
def written(graph: Graph, weight: bool = False) -> Iterator[Path]:
    """Write a graph for all workers: NumPy arrays for the peers, and a store for GraphTheta."""
    with tempfile.TemporaryDirectory(prefix="graphtheta-benchmark-") as name:
        folder = Path(name)
        order = np.argsort(graph.dst, kind="stable")
        arrays = {"src": graph.src[order], "dst": graph.dst[order]}
        if weight:
            arrays["weight"] = graph.column("weight")[order]
        if "attr" in graph.edges.column_names:
            arrays["attr"] = graph.column("attr")[order]
        if graph.num_features:
            labels = graph.label().astype(np.int64)
            arrays |= {
                "x": graph.column("features", of="nodes"),
                "y": labels,
                "train": graph.split() == 1,
            }
        arrays["num_nodes"] = np.array(graph.num_nodes)
        for key, array in arrays.items():
            np.save(folder / f"{key}.npy", array)
        make_store(graph, folder / "store", Plan(1, "node-hash"), Resources())
        yield folder


@dataclass(frozen=True)
class PeerComparison:
    """Comparison of libraries on one graph, with a worker process for each library.

    Attributes:
        work: What is measured: "gather", "attention", "epoch", "typed", "sample" or "steps".
        folder: Folder of the graph, as `written` yields it.
        options: Command-line options (see `arguments`).
        libraries: Libraries to compare; "graphtheta" first.
    """

    work: str
    folder: Path
    options: argparse.Namespace
    libraries: tuple[str, ...]

    @contextmanager
    def started(self, *libraries: str) -> Iterator[dict[str, Worker]]:
        """Start the workers of the named libraries (default: all), and end them on exit."""
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(self._process(name))
                for name in libraries or self.libraries
            }

    def _process(self, library: str) -> Worker:
        threads = self.options.threads
        if library == "graphtheta":
            return Worker(library, sys.executable, "graphtheta_worker", self.work, threads=threads)
        python = self.options.peers_python or sys.executable
        return Worker(library, python, "peer_worker", library, self.work, threads=threads)

    def build(self, worker: Worker, loaded: Mapping[str, Any], **case: Any) -> dict[str, Any]:
        """Build a case in the worker's fastest form, and return the form and the times of all."""
        allowed = {"allow_chunked": self.options.allow_chunked}
        found: dict[str, float] = {}
        refused = ""
        for form in loaded["forms"] if len(loaded["forms"]) > 1 else ():
            try:
                worker.request("build", form=form, **case, **allowed)
                times = [_total_seconds(worker.request("run")) for _ in range(3)]
            except RuntimeError as error:
                refused = str(error)
                continue
            found[form] = min(times[1:])
        if refused and not found:
            raise RuntimeError(refused)
        form = min(found, key=found.__getitem__) if found else loaded["forms"][0]
        worker.request("build", form=form, **case, **allowed)
        return {"form": form, "forms_seconds": found, "version": loaded["version"]}

    def time(self, workers: Mapping[str, Worker]) -> dict[str, dict[str, list[float]]]:
        """Run the built cases in turns, and return the seconds of each part by library."""

        def run(worker: Worker) -> Callable[[], dict[str, float]]:
            return lambda: _seconds(worker.request("run"))

        return alternate(
            {name: run(worker) for name, worker in workers.items()},
            runs=self.options.runs,
            warmup=self.options.warmup,
        )

    def record(
        self, benchmark: str, case: Mapping[str, Any], samples: Sequence[float], **more: Any
    ) -> Record:
        """Return a record, and append it to the `--json` file."""
        machine = {"threads": self.options.threads, "workers": 1}
        record = new_record(benchmark, {**case, **machine}, samples, **more)
        append(self.options.json, [record])
        return record


def memory(worker: Worker, folder: Path, epochs: int, **case: Any) -> int:
    """Return the peak bytes of training beyond libraries, graph, model and optimiser.

    Peers build the graph in the form they train on before memory is measured. GraphTheta only loads
    features and edge columns by then, so its in-edges and out-edges are counted.
    """
    worker.request("load", folder=str(folder))
    worker.request("build", **case)
    worker.request("settle")
    before = resident_bytes(worker.pid)
    worker.request("run")
    worker.request("settle")
    reset_peak(worker.pid)
    for _ in range(epochs):
        worker.request("run")
    return peak_bytes(worker.pid) - before


def largest_difference(actual: Path, expected: Path) -> tuple[float, str]:
    """Return the largest relative difference (2-norm) of saved arrays, and the array's name."""
    found = [(0.0, "")]
    with np.load(actual) as a, np.load(expected) as b:
        for name in a.keys() & b.keys():
            scale = float(np.linalg.norm(b[name])) or 1.0
            found.append((float(np.linalg.norm(a[name] - b[name])) / scale, name))
    return max(found)


def better(records: Mapping[str, Record]) -> tuple[str, float]:
    """Return the peer with the smallest median, and its ratio to the median of GraphTheta."""
    peers = {name: record["median"] for name, record in records.items() if name != "graphtheta"}
    name = min(peers, key=peers.__getitem__)
    return name, peers[name] / records["graphtheta"]["median"]


def ratio(records: Mapping[str, Record], bar: float) -> str:
    """Return a table's cell with the ratio to the better peer, its name, and the ratio to reach."""
    if len(records) < 2:
        return f"- ({bar:g})"
    peer, times = better(records)
    return f"{times:.2f} {peer} ({bar:g})"


def milliseconds(record: Record | None) -> str:
    """Return a table's cell with the median, half the range from p10 to p90, and the form."""
    if record is None:
        return "-"
    half = (record["p90"] - record["p10"]) / 2
    form = f" {record['form']}" if record["forms_seconds"] else ""
    return f"{1000 * record['median']:.0f} ± {1000 * half:.0f}{form}"


def megabytes(record: Record | None) -> str:
    """Return a table's cell with the memory in MB."""
    return "-" if record is None else f"{record['median'] / 1e6:.0f}"


def _total_seconds(answer: Mapping[str, Any]) -> float:
    """Return the total seconds of all parts; "waited" and "cpu" are included in another part."""
    return sum(v for name, v in _seconds(answer).items() if name not in ("waited", "cpu"))


def _seconds(answer: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in answer.items() if name != "executors"}
