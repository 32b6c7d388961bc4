"""Sparse features: every model computes what it computes from dense ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import psutil
import pytest
import scipy.sparse
import torch
from torch import Tensor

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.nn import MODELS, model_for
from graphtheta.rng.philox import Purpose, keep_mask, step_key, stream_id
from graphtheta.shard import sparse_product, sparse_rows
from graphtheta.shard.sparse_rows import SparseRows

N, E, F = 40, 160, 120
RNG = np.random.default_rng(0)
WORDS = scipy.sparse.random(N, F, 0.04, "csr", np.float32, RNG)
EDGES = {
    "src": RNG.integers(0, N, E),
    "dst": RNG.integers(0, N, E),
    "attr": RNG.standard_normal((E, 2)),
    "type": RNG.integers(0, 3, E),
}
LABEL, SPLIT = RNG.integers(0, 3, N), RNG.integers(1, 3, N).astype(np.int8)


def graph_of(features: Any) -> gt.Graph:
    nodes = {"id": np.arange(N), "features": features, "label:y": LABEL, "split:split": SPLIT}
    return gt.Graph(nodes, EDGES)


SPARSE, DENSE = graph_of(WORDS), graph_of(WORDS.toarray())


def losses_and_gradients(
    graph: gt.Graph, name: str, workers: int, strategy: Any = None, **options: Any
) -> tuple[list[float], list[Tensor], Tensor]:
    def train(comm: Communicator) -> tuple[list[float], list[Tensor], Tensor]:
        shard = gt.open_shard(graph, comm, method="hdrf" if workers > 1 else "node-hash")
        sizes = {"hidden_channels": 4, "num_layers": 2, "heads": 2, "dropout": 0.5}
        model = model_for(name, shard, None, **{**sizes, **options}).double()
        trainer = gt.Trainer(model, shard, strategy=strategy, lr=0.01, seed=3)
        assert isinstance(shard.features, SparseRows) == (graph is SPARSE)
        trainer.fit(epochs=2)
        losses = trainer.history.loss
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return losses, gradients, trainer.predict()

    return gt.run_local(train, workers=workers)


QUICK = ("gcn", "gin")  # one that multiplies by itself, and one that is rearranged


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *OTHERS])
def test_models_equal_those_on_dense_features(name: str, caplog: pytest.LogCaptureFixture) -> None:
    sparse_rows._report.cache_clear()
    expected = losses_and_gradients(DENSE, name, 1)
    for workers in (1, 2):
        losses, gradients, outputs = losses_and_gradients(SPARSE, name, workers)
        assert losses == pytest.approx(expected[0], rel=1e-9)
        for found, other in zip(gradients, expected[1], strict=True):
            assert torch.allclose(found, other, rtol=1e-8, atol=1e-11)
        assert torch.allclose(outputs, expected[2], rtol=1e-8)
    # The messages of PNA have as many columns as its input.
    assert ("become dense" in caplog.text) == (name == "pna")
    assert name == "pna" or "chunk" not in caplog.text  # PNA has no kernel for any input


@pytest.mark.slow
def test_bases_of_relations() -> None:
    expected = losses_and_gradients(DENSE, "rgcn", 1, num_bases=2)
    losses, _, outputs = losses_and_gradients(SPARSE, "rgcn", 2, num_bases=2)
    assert losses == pytest.approx(expected[0], rel=1e-9)
    assert torch.allclose(outputs, expected[2], rtol=1e-8)


def test_mini_batches_equal_those_on_dense_features() -> None:
    batch = gt.MiniBatch(8, fanouts=[3, 3])
    expected = losses_and_gradients(DENSE, "gcn", 1, batch)
    losses, _, outputs = losses_and_gradients(SPARSE, "gcn", 2, batch)
    assert losses == pytest.approx(expected[0], rel=1e-9)
    assert torch.allclose(outputs, expected[2], rtol=1e-8)


def test_dropout_draws_what_it_draws_for_dense_rows() -> None:
    keys, key, stream = np.arange(N) * 7, step_key(1, 2), stream_id(Purpose.NODE_DROPOUT, 1, 2)
    sparse, dense = rows_of()
    mask = torch.from_numpy(keep_mask(keys, F, 0.3, key, stream))
    expected = dense * mask * np.float32(1 / 0.7)
    assert torch.equal(sparse.dropout(keys, 0.3, key, stream).dense(), expected)


def rows_of() -> tuple[SparseRows, Tensor]:
    rows = gt.open_shard(SPARSE).features
    assert isinstance(rows, SparseRows)
    return rows, rows.dense()


@pytest.mark.parametrize("threads", [1, 3])
def test_products_and_their_gradients(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_product, "_threads_for", lambda matrix: threads)
    sparse, dense = rows_of()
    weight = torch.randn((5, F), generator=torch.Generator().manual_seed(0), requires_grad=True)
    bias = torch.ones(5, requires_grad=True)
    for function in (
        lambda x: torch.nn.functional.linear(x, weight, bias),
        lambda x: x @ weight.t(),
        lambda x: torch.addmm(torch.ones(5), x, weight.t()),
        lambda x: torch.cat([x, dense[:, :1]], 1)[2:9] @ torch.cat([weight, weight[:, :1]], 1).t(),
        lambda x: x[3:20].to(torch.float32).index_select(0, torch.tensor([4, 4, 0])) @ weight.t(),
    ):
        found, expected = function(sparse), function(dense)
        assert torch.allclose(found, expected, atol=1e-6)
        gradients = [
            torch.autograd.grad(out.square().sum(), weight)[0] for out in (found, expected)
        ]
        assert torch.allclose(*gradients, atol=1e-5)


def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse, _ = rows_of()
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(sparse_product, "_threads_for", lambda matrix, n=threads: n)
        weight = torch.linspace(0, 1, 5 * F).reshape(F, 5).requires_grad_()
        out = sparse @ weight
        found.append((out.detach(), torch.autograd.grad(out.sin().sum(), weight)[0]))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_other_functions_get_dense_rows(caplog: pytest.LogCaptureFixture) -> None:
    sparse_rows._report.cache_clear()
    sparse, dense = rows_of()
    assert torch.equal(torch.relu(sparse), torch.relu(dense))
    both = torch.cat([sparse, dense], 1)
    assert torch.equal(both.dense(), torch.cat([dense, dense], 1))  # type: ignore[attr-defined]
    assert torch.equal(torch.cat([sparse, sparse]), torch.cat([dense, dense]))
    assert torch.equal(sparse.sum(1), dense.sum(1))
    assert torch.equal(2 * sparse + sparse, 3 * dense)
    assert "whole rows of the 120 sparse columns, which become dense" in caplog.text


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sparse, _ = rows_of()
    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(ConfigError, match="begins with a linear map of the 120 sparse columns"):
        torch.relu(sparse)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a matrix with 120 rows"):
        sparse @ torch.ones(7, 2)


def test_products_on_a_device_equal_those_on_the_cpu() -> None:
    sparse, dense = rows_of()
    weight = torch.randn(F, 4, requires_grad=True)
    found = sparse_rows._on_device(sparse._torch_matrix(), weight)
    assert torch.allclose(found, dense @ weight, atol=1e-6)
    gradient = torch.autograd.grad(found.square().sum(), weight)[0]
    expected = torch.autograd.grad((dense @ weight).square().sum(), weight)[0]
    assert torch.allclose(gradient, expected, atol=1e-5)
