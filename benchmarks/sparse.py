"""Epochs, memory and stores of a bag-of-words graph: sparse and dense features, and PyG's.

    python benchmarks/sparse.py FOLDER --json benchmarks/results/sparse.jsonl

The graph is planted: the words of a node are drawn from those of its class with probability 0.7,
and most of its neighbours have its class. A GCN of two layers with 64 columns between them is
trained on all nodes with Adam, in one worker. Each row of the table is a process of its own:

- `sparse`, `dense`: GraphTheta on a store of sparse features, and on one of dense features.
- `pyg-sparse`, `pyg-dense`: PyTorch Geometric with the adjacency matrix as a torch CSR tensor, its
  fastest form, and features as a torch CSR tensor or dense.

All of them start from the same weights, without dropout, and record their losses and the gradients
of the first epoch, whose largest differences from `dense` the table shows, relative to the largest
value. In float32, one hidden value that is rounded to the other side of 0 changes the gradients of
its column by 1e-3: compare them with `--double`, on fewer nodes. CPU seconds are those of all
threads. Memory is the peak of resident memory above that of the process before it opens the graph,
when libraries are loaded and kernels compiled. `partition` rows are processes that write the
stores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

import graphtheta as gt
from graphtheta.bench.memory import peak_bytes, release_memory, reset_peak, resident_bytes
from graphtheta.bench.record import append, new_record
from graphtheta.comm.launch import tune_rank
from graphtheta.inference.run_model import run_model
from graphtheta.partition import Plan, make_store

CASES = ("dense", "sparse", "pyg-dense", "pyg-sparse")
CLASSES, DEGREE, HIDDEN = 16, 10, 64


def main() -> None:
    """Measure every case in a process of its own, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder for stores and results")
    parser.add_argument("--nodes", type=int, default=50_000)
    parser.add_argument("--columns", type=int, default=10_000)
    parser.add_argument("--density", type=float, default=0.005)
    parser.add_argument("--dropout", type=float, default=0.0, help="of GraphTheta's rows")
    parser.add_argument("--double", action="store_true", help="compute in float64")
    parser.add_argument("--epochs", type=int, default=7, help="epochs, of which two warm up")
    parser.add_argument("--cases", default=",".join(CASES), help="cases of the table")
    parser.add_argument("--case", help="measure this case only, and print its record")
    parser.add_argument("--json", type=Path, help="JSON Lines file to append records to")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.case is not None:
        steps = {"partition": partition, "pyg": with_pyg}
        name, _, kind = options.case.partition("-")
        print(json.dumps(steps.get(name, train)(options, kind or name)))
        return
    cases = options.cases.split(",")
    ours = [case for case in cases if "-" not in case]
    print("| case | seconds | CPU | memory | store | losses | gradients |")
    print("|---|---|---|---|---|---|---|")
    for case in [*(f"partition-{kind}" for kind in ours), *cases]:
        command = [sys.executable, *sys.argv, "--case", case]
        record = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        if "partition" not in case:
            record |= differences(options.folder, case)
        append(options.json, [record])
        store = f"{record['store_bytes'] / 1e6:,.1f} MB" if "store_bytes" in record else ""
        print(
            f"| {case} | {record['median']:.2f} s | {record['cpu_seconds']:.3f} s "
            f"| {record['bytes'] / 1e6:,.0f} MB | {store} "
            f"| {record.get('losses', 0):.1e} | {record.get('gradients', 0):.1e} |",
            flush=True,
        )


def words(
    nodes: int, columns: int, density: float
) -> tuple[scipy.sparse.csr_matrix, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the planted words, the classes, and the edges in both directions."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, CLASSES, nodes)
    each = round(columns * density)
    rows = np.repeat(np.arange(nodes), each)
    of_class = columns // CLASSES
    own = label[rows] * of_class + rng.integers(0, of_class, len(rows))
    column = np.where(rng.random(len(rows)) < 0.7, own, rng.integers(0, columns, len(rows)))
    values = rng.random(len(rows), np.float32) + np.float32(0.5)
    matrix = scipy.sparse.csr_matrix((values, (rows, column)), (nodes, columns))
    by_class, first = np.argsort(label, kind="stable"), np.append(0, np.cumsum(np.bincount(label)))
    src = rng.integers(0, nodes, nodes * DEGREE // 2)
    size = np.diff(first)[label[src]]
    same = by_class[first[label[src]] + (rng.random(len(src)) * size).astype(np.int64)]
    dst = np.where(rng.random(len(src)) < 0.8, same, rng.integers(0, nodes, len(src)))
    pairs = np.unique(np.concatenate([src * nodes + dst, dst * nodes + src]))
    src, dst = pairs % nodes, pairs // nodes
    return matrix, label, np.stack([src, dst])[:, src != dst]


def graph_of(features: Any, label: Any, edges: Any) -> gt.Graph:
    """Return the graph, all nodes of which are targets."""
    split = np.ones(len(label), np.int8)
    nodes = {"id": np.arange(len(label)), "features": features}
    nodes |= {"label:y": label, "split:split": split}
    return gt.Graph(nodes, {"src": edges[0], "dst": edges[1]})


def small() -> gt.Graph:
    """Return a graph to compile the kernels with."""
    return graph_of(*words(400, 320, 0.03))


def partition(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the record of writing a store."""
    threads, path = tune_rank(), options.folder / f"store-{kind}"
    make_store(small(), options.folder / "small", Plan(1, seed=time.time_ns() % 1000))
    subprocess.run(["rm", "-rf", options.folder / "small", path], check=True)
    matrix, label, edges = words(options.nodes, options.columns, options.density)
    begin = measured()
    features = matrix if kind == "sparse" else matrix.toarray()
    make_store(graph_of(features, label, edges), path, Plan(1))
    seconds, cpu, peak = begin()
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    case = {"step": "partition", "features": kind, **described(options, threads)}
    return new_record("sparse", case, [seconds], cpu_seconds=cpu, bytes=peak, store_bytes=size)


def train(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the record of training GraphTheta on a store."""
    threads = tune_rank()
    for dense in (False, True):  # compile for both
        matrix, label, edges = words(400, 320, 0.03)
        shard = gt.open_shard(graph_of(matrix.toarray() if dense else matrix, label, edges))
        trainer = gt.Trainer(model_of(shard, options.dropout), shard, evaluate_every=100)
        trainer.fit(2)
    begin = measured()
    shard = gt.open_shard(options.folder / f"store-{kind}")
    model = model_of(shard, options.dropout)
    model = model.double() if options.double else model
    torch.save(model.state_dict(), options.folder / "weights.pt")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    task = gt.NodePrediction().bind(model, shard, 0)
    schedule = gt.GlobalBatch().schedule(shard, task.targets, layers=2, seed=0)

    def epoch(number: int) -> Tensor:
        (step,) = schedule(number)
        batch = step()
        optimizer.zero_grad()
        outputs = run_model(model, batch.view)
        loss, count = batch.step_targets.loss(batch.view, outputs[batch.rows])
        (loss / count + batch.view.token).backward()
        return loss / count

    return run(options, kind, "graphtheta", threads, epoch, model, optimizer, begin)


def with_pyg(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the record of training PyTorch Geometric."""
    from peers.torch_csr import adjacency
    from torch_geometric.nn import GCNConv
    from torch_geometric.nn.conv.gcn_conv import gcn_norm

    threads = tune_rank()
    matrix, label, edges = words(options.nodes, options.columns, options.density)
    begin = measured()
    dtype = torch.float64 if options.double else torch.float32
    x = torch.from_numpy(matrix.toarray()).to(dtype) if kind == "dense" else csr(matrix, dtype)
    y = torch.from_numpy(label)
    pairs, weight = gcn_norm(torch.from_numpy(edges), num_nodes=len(label))
    order = torch.argsort(pairs[1] * len(label) + pairs[0])
    (src, dst), weight = pairs[:, order], weight[order]
    if options.double:
        degrees = torch.bincount(dst).double()
        weight = (degrees[src] * degrees[dst]).rsqrt()
    graph = adjacency(src, dst, len(label), weight)
    weights = torch.load(options.folder / "weights.pt")
    convs = torch.nn.ModuleList(
        GCNConv(*sizes, normalize=False) for sizes in ((options.columns, HIDDEN), (HIDDEN, CLASSES))
    )
    model = torch.nn.Module()
    model.convs = convs.to(dtype)
    model.load_state_dict(weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    def epoch(_: int) -> Tensor:
        optimizer.zero_grad()
        out = convs[1](convs[0](x, graph).relu(), graph)
        loss = torch.nn.functional.cross_entropy(out, y)
        loss.backward()
        return loss

    return run(options, kind, "pyg", threads, epoch, model, optimizer, begin)


def run(
    options: argparse.Namespace,
    kind: str,
    library: str,
    threads: int,
    epoch: Callable[[int], Tensor],
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    begin: Callable[[], tuple[float, float, int]],
) -> dict[str, Any]:
    """Train, write losses and gradients to a file, and return the record."""
    losses, seconds, cpu_seconds, gradients = [], [], [], {}
    for number in range(options.epochs):
        start, cpu = time.perf_counter(), time.process_time()
        losses.append(float(epoch(number).detach()))
        if not number:
            gradients = {n: p.grad.numpy().copy() for n, p in model.named_parameters()}
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu)
    _, _, peak = begin()
    case = kind if library == "graphtheta" else f"pyg-{kind}"
    np.savez(options.folder / f"{case}.npz", losses=losses, **gradients)
    described_case = {"step": "epoch", "library": library, "features": kind}
    case_of = {**described_case, **described(options, threads), "dropout": options.dropout}
    more = {"cpu_seconds": statistics.median(cpu_seconds[2:]), "cpu_samples": cpu_seconds[2:]}
    return new_record("sparse", case_of, seconds[2:], bytes=peak, **more)


def model_of(shard: gt.Shard, dropout: float) -> gt.nn.GCN:
    """Return the model for a graph."""
    return gt.nn.GCN(shard.num_features, HIDDEN, CLASSES, dropout=dropout)


def csr(matrix: scipy.sparse.csr_matrix, dtype: torch.dtype) -> Tensor:
    """Return a matrix as a torch CSR tensor."""
    dense = (torch.from_numpy(getattr(matrix, name)) for name in ("indptr", "indices", "data"))
    indptr, indices, data = dense
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # sparse CSR is in beta state
        return torch.sparse_csr_tensor(indptr.long(), indices.long(), data.to(dtype), matrix.shape)


def measured() -> Callable[[], tuple[float, float, int]]:
    """Begin a measurement; return a function that ends it with seconds, CPU seconds and memory."""
    release_memory()
    before = resident_bytes()
    reset_peak()
    start, cpu = time.perf_counter(), time.process_time()
    return lambda: (
        time.perf_counter() - start,
        time.process_time() - cpu,
        peak_bytes() - before,
    )


def described(options: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Return what all records have in common."""
    names = ("nodes", "columns", "density", "double")
    return {**{name: getattr(options, name) for name in names}, "threads": threads, "workers": 1}


def differences(folder: Path, case: str) -> dict[str, float]:
    """Return the largest differences of losses and gradients from `dense`, all relative."""
    path = folder / "dense.npz"
    if not path.exists():
        return {}
    expected, found = np.load(path), np.load(folder / f"{case}.npz")
    apart = {
        name: float(abs(found[name] - expected[name]).max() / abs(expected[name]).max())
        for name in expected.files
    }
    losses = apart.pop("losses")
    return {"losses": losses, "gradients": max(apart.values())}


if __name__ == "__main__":
    main()
