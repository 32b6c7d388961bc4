"""Time and memory of R-GCN and HGT epochs for GraphTheta, PyG and DGL on typed graphs, in one run.

    python benchmarks/typed.py --peers-python PEERS/bin/python --data ../shared/data

An epoch is forward, loss, backward and a step of torch's fused Adam on the whole graph, of two
layers whose inputs, 32 columns, are learned; HGT has 4 heads, and a linear map after the layers.
The graphs are Debian's packages with their sources, maintainers and tags (11 relations and their
reverses; the label is the section of a package), and RMAT with 4 node types and 8 relations. All
libraries start with the same weights, and outputs and gradients are compared before anything is
timed, except those of DGL's HGTConv, which has no GELU and no biases. `peers/pyg_typed.py` and
`peers/dgl_typed.py` describe the forms of the peers; forms that need more than `--largest` bytes
are left out.

The columns, and how memory is measured, are those of `epochs.py`; CPU seconds are those of all
threads together, which other programs on the machine disturb less.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from peers.compare import (
    TOLERANCE,
    PeerComparison,
    arguments,
    largest_difference,
    megabytes,
    memory,
    milliseconds,
    ratio,
)

import graphtheta as gt
from graphtheta.bench.record import Record
from graphtheta.data.types import Relation
from graphtheta.datasets.generate.rmat import rmat_edges
from graphtheta.partition import Plan, Resources, make_store

TIME_BAR, MEMORY_BAR = 3.0, 2.0
WIDTH, HEADS = 32, 4  # of the learned inputs, and of HGT
MEMORY_EPOCHS = 3


@dataclass(frozen=True)
class TypedGraph:
    """Typed graph whose nodes are numbered from 0 within each type.

    Attributes:
        counts: Number of nodes of each type.
        ends: (2, E_r) sources and destinations of each relation.
        labels: (N,) classes of the nodes of all types, -1 for unknown ones.
        train: (N,) nodes to train on.
    """

    counts: Mapping[str, int]
    ends: Mapping[Relation, NDArray[np.int64]]
    labels: NDArray[np.int64]
    train: NDArray[np.bool_]

    @property
    def num_edges(self) -> int:
        """Number of edges of all relations."""
        return sum(ends.shape[1] for ends in self.ends.values())

    @property
    def num_sources(self) -> int:
        """Number of nodes that each relation may start from, over all relations."""
        return sum(self.counts[relation.source] for relation in self.ends)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """Write the graph for all workers: arrays of all types as one graph, and a store."""
        first = dict(zip(self.counts, np.cumsum([0, *self.counts.values()]), strict=False))
        shifted = [
            ends + np.array([[first[relation.source]], [first[relation.destination]]])
            for relation, ends in self.ends.items()
        ]
        src, dst = np.concatenate(shifted, axis=1)
        relation = np.repeat(np.arange(len(self.ends)), [ends.shape[1] for ends in shifted])
        order = np.argsort(dst, kind="stable")
        arrays = {"src": src[order], "dst": dst[order], "type": relation[order]}
        arrays |= {"y": self.labels, "train": self.train, "num_nodes": np.array(len(self.labels))}
        with tempfile.TemporaryDirectory(prefix="graphtheta-benchmark-") as name:
            folder = Path(name)
            for key, array in arrays.items():
                np.save(folder / f"{key}.npy", array)
            types = {"counts": dict(self.counts), "relations": list(self.ends)}
            (folder / "types.json").write_text(json.dumps(types))
            graph = gt.Graph.from_arrow(
                {name: pa.table({"id": np.arange(count)}) for name, count in self.counts.items()},
                {one: pa.table({"src": src, "dst": dst}) for one, (src, dst) in self.ends.items()},
            )
            make_store(graph, folder / "store", Plan(1, "node-hash"), Resources())
            yield folder


def main() -> int:
    """Run all cases, print the table, and return 1 if the results of a peer differ."""
    options = _options()
    print(f"{options.threads} threads, medians of {options.runs} runs\n")
    libraries = ("graphtheta", *(name for name in options.peers.split(",") if name))
    head = ["graph", "model", "hidden", *(f"{name} ms" for name in libraries), "x (bar)"]
    head += [*(f"{name} CPU s" for name in libraries), "x (bar)"]
    head += [*(f"{name} MB" for name in libraries), "less memory (bar)", "differs"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    differs = False
    for name, graph in _graphs(options):
        with graph.written() as folder:
            comparison = PeerComparison("typed", folder, options, libraries)
            for case in _cases(options):
                cells, difference = _measure(comparison, name, graph, case)
                differs |= difference > TOLERANCE
                print(f"| {' | '.join(cells)} |", flush=True)
    return int(differs)


def _options() -> argparse.Namespace:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--graphs", default="debian,rmat", help="debian, rmat")
    parser.add_argument("--models", default="rgcn,hgt", help="rgcn, hgt")
    parser.add_argument("--hidden", default="32,64", help="columns between the layers")
    parser.add_argument("--bases", default="0", help="bases of R-GCN's matrices; 0 for none")
    parser.add_argument("--scale", type=int, default=20, help="RMAT scale")
    parser.add_argument("--largest", type=float, default=3e9, help="bytes for a peer's form")
    parser.add_argument("--data", type=Path, help="folder with debian/")
    parser.add_argument("--no-memory", action="store_true", help="measure only time")
    return parser.parse_args()


def _graphs(options: argparse.Namespace) -> Iterator[tuple[str, TypedGraph]]:
    if "debian" in options.graphs:
        if options.data is None:
            sys.exit("typed: expected --data for Debian, got none. Specify its folder.")
        yield "Debian", debian(options.data / "debian")
    if "rmat" in options.graphs:
        yield f"rmat {options.scale} x 10", typed_rmat(options.scale)


def _cases(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for model in options.models.split(","):
        for hidden in map(int, options.hidden.split(",")):
            for bases in map(int, options.bases.split(",") if model == "rgcn" else "0"):
                yield {"model": model, "hidden": hidden, "bases": bases or None}


def debian(folder: Path) -> TypedGraph:
    """Return Debian's graph with every relation's reverse."""
    nodes = {
        file.stem.removeprefix("nodes-"): pq.read_table(file)
        for file in sorted(folder.glob("nodes-*.parquet"))
    }
    counts = {name: len(table) for name, table in nodes.items()}
    ends: dict[Relation, NDArray[np.int64]] = {}
    for file in sorted(folder.glob("edges-*.parquet")):
        relation = Relation.of(file.stem.removeprefix("edges-"))
        table = pq.read_table(file)
        columns = (("src", relation.source), ("dst", relation.destination))
        found = np.stack(
            [
                pc.index_in(table[column], nodes[name]["id"].combine_chunks())
                .cast("int64")
                .to_numpy()
                for column, name in columns
            ]
        )
        ends[relation] = found
        ends[Relation(relation.destination, f"rev_{relation.name}", relation.source)] = found[::-1]
    packages = nodes["package"]
    codes = packages["section"].combine_chunks().dictionary_encode().indices
    start = sum(counts[name] for name in counts if name < "package")
    rows = slice(start, start + len(packages))
    count = sum(counts.values())
    labels, train = np.full(count, -1), np.zeros(count, np.bool_)
    labels[rows] = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    train[rows] = pc.equal(packages["split"], "train").to_numpy()
    return TypedGraph(counts, ends, labels, train & (labels >= 0))


def typed_rmat(scale: int, seed: int = 0) -> TypedGraph:
    """Return an RMAT graph of 4 node types, each with edges of 2 relations to 2 types.

    Args:
        scale: Binary logarithm of the number of nodes; there are 10 edges per node.
        seed: Random seed.
    """
    count, rng = 1 << scale, np.random.default_rng(seed)
    src, dst = rmat_edges(0, 10 * count, scale=scale, seed=seed)
    relation = 2 * (src % 4) + rng.integers(0, 2, len(src))
    order = np.argsort(relation, kind="stable")
    pairs = np.split(np.stack([src, dst])[:, order] // 4, np.cumsum(np.bincount(relation))[:-1], 1)
    names = [Relation(f"n{r // 2}", f"r{r % 2}", f"n{(r // 2 + r % 2) % 4}") for r in range(8)]
    labels = np.append(rng.integers(0, 16, count - 1), 15)
    counts = dict.fromkeys(("n0", "n1", "n2", "n3"), count // 4)
    return TypedGraph(
        counts, dict(zip(names, pairs, strict=True)), labels, np.ones(count, np.bool_)
    )


def _measure(
    comparison: PeerComparison, name: str, graph: TypedGraph, sizes: dict[str, Any]
) -> tuple[list[str], float]:
    """Compare and time all libraries; return the cells of a row, and the largest difference."""
    options, folder = comparison.options, comparison.folder
    names = comparison.libraries
    about = {"graph": name, "nodes": len(graph.labels), "edges": graph.num_edges}
    about |= {"relations": len(graph.ends)}
    case = {"weights": str(folder / "weights.npz"), **sizes}
    times: dict[str, Record] = {}
    cpu: dict[str, float] = {}
    taken: dict[str, Record] = {}
    built: dict[str, dict[str, Any]] = {}
    with comparison.started(*names) as workers:
        for library, worker in workers.items():
            loaded = worker.request("load", folder=str(folder))
            loaded["forms"] = _forms(loaded["forms"], graph, sizes, options.largest)
            built[library] = comparison.build(worker, loaded, **case)
            form = {"form": built[library]["form"], "allow_chunked": options.allow_chunked}
            worker.request("build", **form, **case)
            worker.request("save", path=str(folder / f"{library}.npz"))
        ours = folder / "graphtheta.npz"
        differences = (largest_difference(ours, folder / f"{peer}.npz") for peer in names[1:])
        difference, what = max(differences, default=(0.0, ""))
        for library, parts in comparison.time(workers).items():
            cpu[library] = float(np.median(parts["cpu"]))
            more = built[library] | {"difference": difference, "cpu_seconds": cpu[library]}
            described = {"library": library, **sizes, **about}
            times[library] = comparison.record("typed", described, parts["epoch"], **more)
    for library in () if options.no_memory else names:
        with comparison.started(library) as workers:
            form = {"form": built[library]["form"], "allow_chunked": options.allow_chunked}
            size = memory(workers[library], folder, MEMORY_EPOCHS, **form, **case)
        described = {"library": library, **sizes, **about}
        taken[library] = comparison.record("typed", described, [size], unit="bytes", **form)
    model = sizes["model"] + (f", {sizes['bases']} bases" if sizes["bases"] else "")
    cells = [name, model, str(sizes["hidden"])]
    cells += [*(milliseconds(times.get(one)) for one in names), ratio(times, TIME_BAR)]
    cells += [f"{cpu[one]:.2f}" for one in names]
    least = min((cpu[one] for one in names[1:]), default=0.0)
    cells.append(f"{least / cpu['graphtheta']:.2f} ({TIME_BAR:g})")
    cells += [*(megabytes(taken.get(one)) for one in names), ratio(taken, MEMORY_BAR)]
    return [*cells, f"{what} by {difference:.1e}" if difference > TOLERANCE else "no"], difference


def _forms(forms: list[str], graph: TypedGraph, sizes: dict[str, Any], largest: float) -> list[str]:
    """Return a library's forms of a model, without those that need too much memory."""
    hidden, relations = sizes["hidden"], len(graph.ends)
    needed = {
        "rgcn fast": graph.num_edges * WIDTH * hidden * 4,
        # moved by backward rather than held
        "hgt shipped": graph.num_sources * hidden * 4 * relations * HEADS,
    }
    found = [form for form in forms if form.split()[0] == sizes["model"]]
    if sizes["bases"]:
        found = [form for form in found if "hetero" not in form]
    return [one for one in found if needed.get(one, 0) <= largest]


if __name__ == "__main__":
    sys.exit(main())
