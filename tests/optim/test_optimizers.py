"""Optimisers as names, objects and functions; their groups, checkpoints and clipping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator
from graphtheta.comm.single import SingleCommunicator
from graphtheta.errors import ConfigError
from graphtheta.nn.embedding import ShardedParameter
from graphtheta.optim.clipping import clip_gradients
from graphtheta.optim.optimizers import make_optimizer
from graphtheta.train.run_dir import RunDirectory
from tests.graphs import random_graph

N = 60
RNG = np.random.default_rng(2)
NODES = {"id": np.arange(N), "label:y": RNG.integers(0, 3, N), "split:split": np.arange(N) % 4}
NODES["split:split"] = NODES["split:split"].astype(np.int8)
EDGES = dict(zip(("src", "dst"), random_graph(N, 200)[1:], strict=True))
GRAPH = gt.Graph(pa.table(NODES), pa.table(EDGES))


def trained(
    comm: Communicator,
    optimizer: Any = "adamw",
    *,
    epochs: int = 3,
    run_dir: Path | None = None,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> gt.Trainer:
    """Return a trainer of a model with learned rows after some epochs."""
    shard = gt.open_shard(GRAPH, comm)
    encoder = gt.nn.GCN(4, 5, 3, dropout=0.2)
    model = gt.nn.NodeEmbedding(shard, 4, encoder).to(dtype)
    given = optimizer(model) if getattr(optimizer, "takes_model", False) else optimizer
    directory = None if run_dir is None else RunDirectory(run_dir, resume=True)
    mine = gt.Trainer(
        model, shard, optimizer=given, run_dir=directory, strategy=gt.MiniBatch(6), **options
    )
    if run_dir is not None:
        mine.resume()
    if epochs > len(mine.history.loss):
        mine.fit(epochs)
    return mine


def of_model(make: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
    make.takes_model = True  # type: ignore[attr-defined]
    return make


def as_object(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)


SAME: dict[str, dict[str, Any]] = {
    "object": {"optimizer": of_model(as_object)},
    "function": {
        "optimizer": lambda params: torch.optim.AdamW(params, lr=0.02, weight_decay=0.1),
    },
    "groups": {
        "lr": 0.5,
        "parameter_groups": lambda model: [
            {"params": list(model.encoder.parameters()), "lr": 0.02, "weight_decay": 0.1},
            {"params": [model.weight], "lr": 0.02, "weight_decay": 0.1},
        ],
    },
}


def test_objects_functions_and_groups_train_as_names() -> None:
    want = trained(SingleCommunicator(), lr=0.02, weight_decay=0.1, epochs=2).history.loss
    for options in SAME.values():
        assert trained(SingleCommunicator(), **options, epochs=2).history.loss == want


def test_biases_without_decay() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.5}
    optimizer = make_optimizer("sgd", model, decay_biases=False, **options)
    found = [(g["weight_decay"], [tuple(p.shape) for p in g["params"]])
             for g in optimizer.param_groups]  # fmt: skip
    assert found == [(0.5, [(4, 3)]), (0.0, [(4,), (4,), (4,)])]
    (group,) = make_optimizer("sgd", model, **options).param_groups
    assert group["weight_decay"] == 0.5
    function = lambda params: torch.optim.SGD(params, 0.1, weight_decay=0.5)  # noqa: E731
    optimizer = make_optimizer(function, model, lr=None, weight_decay=None, decay_biases=False)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]


OTHER = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "number": (3, {}, "expected one of adam, .* got int"),
    "other parameters": (OTHER, {}, "of the model's parameters, got SGD with 2 others"),
    "lr": (OTHER, {"lr": 0.1}, "expected no lr with an optimiser that is an object"),
    "decay": (torch.optim.Adam, {"weight_decay": 0.0}, "no weight_decay .* is a function"),
    "groups of an object": (OTHER, {"parameter_groups": len}, "no parameter_groups"),
    "result": (lambda params: 3, {}, "which returns int"),
    "arguments": (lambda: 3, {}, "is called otherwise"),
    "both": ("sgd", {"decay_biases": False, "parameter_groups": len}, "no decay_biases with"),
    "keys": ("sgd", {"parameter_groups": lambda m: [{"p": 1}]}, "key 'params', got the keys p"),
    "whole steps": (torch.optim.LBFGS, {}, "optimiser of whole steps .* got LBFGS"),
    "sparse": (torch.optim.SparseAdam, {}, "dense gradients, got SparseAdam"),
    "of whole matrices": (torch.optim.Adafactor, {}, "updates each number by itself"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_optimisers_are_refused_in_one_line(name: str) -> None:
    given, options, words = WRONG[name]
    with pytest.raises(ConfigError, match=words) as caught:
        trained(SingleCommunicator(), given, epochs=0, **options)
    assert "\n" not in str(caught.value)


def test_parameters_that_no_group_holds_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(2, 2)
    make_optimizer(
        "sgd", model, lr=None, weight_decay=None,
        parameter_groups=lambda m: [{"params": [m.weight]}],
    )  # fmt: skip
    assert "SGD holds no bias, which keep their values" in caplog.text


KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": lambda params: torch.optim.SGD(params, 0.1, momentum=0.9, nesterov=True),
    "amsgrad": lambda params: torch.optim.Adam(params, 0.02, amsgrad=True),
    "adagrad": torch.optim.Adagrad,
}


@pytest.mark.parametrize(
    "kind",
    [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("momentum", "amsgrad")), "adagrad"],
)
def test_any_optimiser_continues_from_a_checkpoint(kind: str, tmp_path: Path) -> None:
    def work(comm: Communicator, epochs: int) -> list[float]:
        return trained(comm, KINDS[kind], epochs=epochs, run_dir=tmp_path).history.loss

    want = trained(SingleCommunicator(), KINDS[kind], epochs=4).history.loss
    gt.run_local(lambda comm: work(comm, 2), workers=2, timeout_s=60)
    got = gt.run_local(lambda comm: work(comm, 4), workers=3, timeout_s=60)
    np.testing.assert_allclose(got, want, rtol=1e-10)
    if kind == "adagrad":
        with pytest.raises(ConfigError, match="expected the state of Adam, got that of Adagrad"):
            trained(SingleCommunicator(), "adam", epochs=4, run_dir=tmp_path)


def test_an_optimiser_of_other_state_is_refused_when_saved(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            self.state[self.param_groups[0]["params"][0]]["names"] = ["a"]

    with pytest.raises(ConfigError, match="state is tensors and numbers, got list 'names' of Odd"):
        trained(SingleCommunicator(), lambda p: Odd(p, 0.1), epochs=1, run_dir=tmp_path)


# -- clipping -------------------------------------------------------------------------------------


def test_clipping_as_in_torch() -> None:
    whole, rows = nn.Parameter(torch.zeros(3)), ShardedParameter(torch.zeros(6, 2))
    grads = torch.tensor([3.0, 0.0, 1.0]), torch.tensor([[1.0, 2.0], [0.0, 2.0]])
    whole.grad = grads[0].clone()
    rows.grad = torch.sparse_coo_tensor(
        torch.tensor([[4, 1]]), grads[1], (6, 2), check_invariants=False
    )
    norm = clip_gradients([whole, rows], 2.0, SingleCommunicator())
    want = [nn.Parameter(torch.zeros_like(g)) for g in grads]
    for parameter, gradient in zip(want, grads, strict=True):
        parameter.grad = gradient.clone()
    assert norm == pytest.approx(float(torch.nn.utils.clip_grad_norm_(want, 2.0)))
    torch.testing.assert_close(whole.grad, want[0].grad)
    assert rows.grad is not None
    assert want[1].grad is not None
    torch.testing.assert_close(rows.grad.to_dense()[[4, 1]], want[1].grad)
    assert clip_gradients([whole, rows], 5.0, SingleCommunicator()) == pytest.approx(2.0)


def test_clipped_training_is_the_same_on_any_number_of_workers() -> None:
    def work(comm: Communicator) -> list[float]:
        return trained(comm, "sgd", lr=1.0, clip=0.05).history.loss

    want, free = work(SingleCommunicator()), trained(SingleCommunicator(), "sgd", lr=1.0)
    assert not np.allclose(want, free.history.loss, rtol=1e-3)
    got = gt.run_local(work, workers=3, timeout_s=60)
    np.testing.assert_allclose(got, want, rtol=1e-10)
