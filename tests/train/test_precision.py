"""Training with products in bfloat16."""

from __future__ import annotations

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
from graphtheta.nn import MODELS, decoder_for, model_for
from graphtheta.nn.typed_input import TypedInput
from tests.graphs import random_graph, to_graph
from tests.typed_graphs import typed_graph

PLAIN, TYPED = to_graph(random_graph(30, 90)), typed_graph()
SPLIT = pa.array((np.arange(90) % 4).astype(np.int8))
LINKS = gt.Graph(PLAIN.nodes, PLAIN.edges.append_column("split:split", SPLIT))
QUICK = ("gcn", "gat")


def trained(comm: Communicator, name: str, precision: Any = "bf16", **options: Any) -> gt.Trainer:
    is_typed = name in ("hgt", "han")
    shard = gt.open_shard(TYPED if is_typed else PLAIN, comm)
    model: nn.Module = model_for(
        name, shard, None, hidden_channels=4, num_layers=2, heads=2, dropout=0.2,
        batch_norm=name == "sage", more_channels=4 if is_typed else 0,
    )  # fmt: skip
    if is_typed:
        model = TypedInput(shard, 4, model)
    mine = gt.Trainer(model, shard, precision=precision, lr=0.02, **options)
    mine.fit(3)
    return mine


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]
)
def test_every_model_trains_close_to_float32(name: str) -> None:
    want = trained(SingleCommunicator(), name, "full").history.loss
    mine = trained(SingleCommunicator(), name)
    assert mine.history.loss != want
    np.testing.assert_allclose(mine.history.loss, want, rtol=0.03)
    assert {p.dtype for p in mine.model.parameters()} == {torch.float32}
    assert trained(SingleCommunicator(), name).history.loss == mine.history.loss  # the same bits
    got = gt.run_local(lambda comm: trained(comm, name).history.loss, workers=3, timeout_s=60)
    np.testing.assert_allclose(got, mine.history.loss, rtol=0.01)


def test_links_and_batches_train_in_bfloat16() -> None:
    def work(comm: Communicator, precision: Any) -> list[float]:
        shard = gt.open_shard(LINKS, comm)
        model = gt.nn.EdgeModel(
            gt.nn.GCN(shard.num_features, 8, 8), decoder_for("mlp", 8, hidden_channels=8)
        )
        mine = gt.Trainer(
            model, shard, task=gt.LinkPrediction(ranking=False),
            strategy=gt.MiniBatch(40, [5, 5]), precision=precision,
        )  # fmt: skip
        mine.fit(1)
        return mine.history.loss

    want, got = (work(SingleCommunicator(), p) for p in ("full", "bf16"))
    np.testing.assert_allclose(got, want, rtol=0.02)


def test_other_precisions_are_refused() -> None:
    shard, model = gt.open_shard(PLAIN), gt.nn.GCN(3, 4, 4)
    with pytest.raises(ConfigError, match="precision: expected 'full' or 'bf16', got 'fp16'"):
        gt.Trainer(model, shard, precision="fp16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"float32 parameters on the CPU .*got float64 on cpu"):
        gt.Trainer(model.double(), shard, precision="bf16")
