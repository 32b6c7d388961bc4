"""Learned rows that are updated when they are read equal those that every step updates."""

from __future__ import annotations

import math
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import ShardedParameter
from graphtheta.optim.optimizers import OPTIMIZERS
from graphtheta.optim.row_optimizer import RowOptimizer
from graphtheta.optim.schedules import Cosine
from graphtheta.strategy import GlobalBatch, Strategy
from graphtheta.train import weights
from graphtheta.train.run_dir import RunDirectory
from tests.graphs import random_graph

N = 500
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-10}


# -- rows alone -----------------------------------------------------------------------------


def updated(
    kind: Any, is_lazy: bool, dtype: torch.dtype, decay: float, changing: bool
) -> dict[str, torch.Tensor]:
    """Return rows and moments after steps that read 3 of 80 rows, once with a long break.

    The learning rate rises and falls if it changes, and another option changes once.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(80, 3, generator=generator, dtype=dtype)
    weight = ShardedParameter(start) if is_lazy else nn.Parameter(start)
    optimizer = kind([weight], lr=0.01, weight_decay=decay)
    rows_optimizer = RowOptimizer(optimizer)
    with rows_optimizer.lazy():
        steps = 450 if dtype == torch.float64 else 255  # more than the moves of a row last
        for step in range(steps):
            few = torch.randperm(80, generator=generator)[:3]
            rows = few if step < 15 or step > steps - 5 else torch.tensor([7])
            target = torch.randn(3, generator=generator, dtype=dtype)
            if changing:
                group = optimizer.param_groups[0]
                group["lr"] = 0.01 * min((step + 1) / 10, math.cos(1.5 * step / steps))
                if step == steps // 2 and "betas" in group:
                    group["betas"] = (0.8, 0.99)
            rows_optimizer.zero_grad()
            # The same rows twice: their gradients are added.
            twice = [
                weight.read(rows) if isinstance(weight, ShardedParameter) else weight[rows]
                for _ in range(2)
            ]
            ((twice[0] + twice[1] - target) ** 2 * 10.0 ** -(step % 6)).sum().backward()
            assert weight.grad is not None
            assert weight.grad.is_sparse == is_lazy
            rows_optimizer.step()
    state = {k: v for k, v in optimizer.state[weight].items() if v is not None}
    return {"weight": weight.detach(), **state}


@pytest.mark.parametrize(("decay", "changing"), [(0.0, False), (0.02, False), (0.02, True)])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_dense_optimiser(
    dtype: torch.dtype, kind: Any, decay: float, changing: bool
) -> None:
    want, got = (updated(kind, is_lazy, dtype, decay, changing) for is_lazy in (False, True))
    assert want.keys() == got.keys()
    for name, values in want.items():
        torch.testing.assert_close(got[name], values, rtol=0, atol=DTYPES[dtype])


def test_other_optimisers_stay_dense() -> None:
    weight = ShardedParameter(torch.zeros(8, 2))
    for optimizer in (
        torch.optim.Adam([weight], amsgrad=True),
        torch.optim.SGD([weight], momentum=0.9),
        torch.optim.Adagrad([weight]),
    ):
        with RowOptimizer(optimizer).lazy():
            assert weight.before_read is None


# -- training -------------------------------------------------------------------------------


class DenseAdam(torch.optim.Adam):
    """Adam that is none of the optimisers whose rows are updated when they are read."""


@pytest.fixture(autouse=True)
def dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS, "dense", DenseAdam)


RATES = [Cosine(10).rate(step, 90, 0.02) for step in range(90)]


@cache
def graph() -> gt.Graph:
    _, src, dst = random_graph(N, 700)
    rng = np.random.default_rng(2)
    nodes = {
        "id": np.arange(N),
        "label:y": rng.integers(0, 4, N),
        "split:split": rng.choice([0, 1, 1, 2, 3], N).astype(np.int8),
    }
    return gt.Graph(pa.table(nodes), pa.table({"src": src, "dst": dst}))


def train(
    comm: Communicator,
    optimizer: str = "adam",
    *,
    epochs: int = 4,
    dtype: torch.dtype = torch.float64,
    method: str = "node-hash",
    groups: int = 1,
    micro_batches: int = 1,
    strategy: Strategy | None = None,
    storage: Path | None = None,
    run_dir: Path | None = None,
) -> tuple[list[float], Any, set[bool]]:
    """Return losses, rows by key and other weights, and whether gradients of rows were sparse.

    The learning rate rises and falls along a cosine.
    """
    grouped = gt.Groups(comm, groups)
    shard = gt.open_shard(graph(), grouped.comm, method=method)
    encoder = gt.nn.GCN(6, 5, shard.num_classes, dropout=0.2)
    model = gt.nn.NodeEmbedding(shard, 6, encoder, storage=storage)
    trainer = gt.Trainer(
        model.to(dtype),
        shard,
        strategy=strategy or gt.MiniBatch(14, [2, 2]),
        optimizer=optimizer,
        weight_decay=5e-4,
        evaluate_every=3,
        schedule=RATES,
        groups=grouped,
        micro_batches=micro_batches,
        run_dir=None if run_dir is None else RunDirectory(run_dir, resume=True),
    )
    if run_dir is not None:
        trainer.resume()
    sparse: set[bool] = set()
    model.weight.register_post_accumulate_grad_hook(
        lambda p: sparse.add(p.grad is not None and p.grad.is_sparse)
    )
    trainer.fit(epochs)
    keys = torch.from_numpy(shard.node_key_L[: shard.num_masters].copy())
    rows = torch.empty(N, 6, dtype=dtype)
    for key, some in zip(
        grouped.comm.all_gather(keys.numpy(), stage="keys"),
        grouped.comm.all_gather(model.weight.detach().numpy(), stage="rows"),
        strict=True,
    ):
        rows[torch.from_numpy(key)] = torch.from_numpy(some)
    others = [p.detach().flatten() for p in encoder.parameters()]
    return trainer.history.loss, torch.cat([rows.flatten(), *others]), sparse


@cache
def reference(dtype: torch.dtype, epochs: int = 4) -> tuple[list[float], Any, set[bool]]:
    return train(gt.communicator(), "dense", dtype=dtype, epochs=epochs)


def assert_same(got: Any, want: Any, tolerance: float) -> None:
    np.testing.assert_allclose(got[0], want[0], rtol=0, atol=tolerance)
    torch.testing.assert_close(got[1], want[1], rtol=0, atol=tolerance)


CASES: list[Any] = [
    {"workers": 1},
    pytest.param({"workers": 1, "dtype": torch.float32}, marks=pytest.mark.slow),
    pytest.param({"workers": 2, "method": "node-hash"}, marks=pytest.mark.slow),
    {"workers": 2, "method": "dbh", "dtype": torch.float32},
    {"workers": 3, "method": "dbh"},
    {"workers": 3, "method": "node-hash", "micro_batches": 3},
    {"workers": 4, "method": "dbh", "groups": 2, "micro_batches": 3},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_training_equals_dense_adam(case: dict[str, Any]) -> None:
    options = dict(case)
    workers, dtype = options.pop("workers"), options.get("dtype", torch.float64)
    want = reference(dtype)
    assert want[2] == {False}
    got = gt.run_local(lambda comm: train(comm, **options), workers=workers, timeout_s=60)
    assert_same(got, want, DTYPES[dtype])
    assert got[2] == {True}


def test_the_number_of_groups_does_not_change_a_bit() -> None:
    found = [
        gt.run_local(
            partial(train, groups=groups, micro_batches=3, epochs=1),
            workers=groups,
            timeout_s=60,
        )
        for groups in (1, 3)
    ]
    assert torch.equal(found[0][1], found[1][1])


def test_global_batches_take_the_dense_path_bit_for_bit() -> None:
    got, want = (
        train(gt.communicator(), name, strategy=GlobalBatch(), epochs=3)
        for name in ("adam", "dense")
    )
    assert torch.equal(got[1], want[1])
    assert got[2] == {False}
    divided = train(gt.communicator(), strategy=GlobalBatch(), epochs=3, micro_batches=2)
    assert_same(divided, want, 1e-10)


def test_resumes_on_other_workers_and_from_rows_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_FILE_BYTES", 1 << 12)
    run, want = tmp_path / "run", reference(torch.float32)
    rows = tmp_path / "rows"
    for workers, options in (
        (2, {"epochs": 1}),
        (3, {"epochs": 2, "storage": rows}),
        (2, {"epochs": 3, "storage": rows, "optimizer": "dense"}),  # its checkpoints are the same
        (1, {"epochs": 4, "storage": rows}),
    ):
        job = partial(train, run_dir=run, dtype=torch.float32, **options)
        got = gt.run_local(job, workers=workers, timeout_s=60)
    assert_same(got, want, 1e-5)
    assert len(list((run / "checkpoints" / "epoch-000004").glob("model.rows-00000*"))) > 1
    assert not list(rows.iterdir())  # the files have no names


def test_rows_and_moments_are_mapped_from_files(tmp_path: Path) -> None:
    shard = gt.open_shard(graph())
    model = gt.nn.NodeEmbedding(shard, 6, gt.nn.GCN(6, 5, 4), storage=tmp_path / "rows")
    other = gt.nn.NodeEmbedding(shard, 6)
    assert torch.equal(model.weight, other.weight)
    trainer = gt.Trainer(model, shard, strategy=gt.MiniBatch(14, [2, 2]))
    trainer.fit(1)
    state = trainer.optimizer.state[model.weight]
    assert trainer.best_weights.best is not None
    mapped = Path("/proc/self/maps").read_text().splitlines()
    ours = [line for line in mapped if str(tmp_path / "rows") in line]
    for tensor in (
        model.weight,
        state["exp_avg"],
        state["exp_avg_sq"],
        trainer.best_weights.best["weight"],
    ):
        address = tensor.data_ptr()
        bounds = [[int(x, 16) for x in line.split()[0].split("-")] for line in ours]
        assert any(start <= address < stop for start, stop in bounds)


def test_a_storage_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"expected to write learned rows, got .*Choose a path"):
        gt.nn.NodeEmbedding(gt.open_shard(graph()), 6, storage=file)
