"""Training on a device is that on the CPU, and no tensor is left behind there.

Without a GPU the pretended device of `tests.devices` shows that.
"""

from __future__ import annotations

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
from graphtheta.inference.whole import infer
from graphtheta.partition.store.manifest import LabelKind
from graphtheta.run.prediction_writer import write_predictions
from graphtheta.shard.open import pick_device
from graphtheta.task.metrics import MAIN_METRIC
from graphtheta.tgar import View
from graphtheta.train.run_dir import RunDirectory
from tests.devices import DEVICES, Pretended
from tests.graphs import random_graph, to_graph
from tests.integration.cli import Run, assert_one_line, command, elsewhere, files  # noqa: F401
from tests.nn.steps import CASES, assert_equal, step
from tests.train.test_trainer import small_graph

# Weights loaded to "meta" would be lost, warns torch; on the pretended device they are not.
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")

NO_GPU = not torch.cuda.is_available()
OTHERS = [
    "pretended",
    pytest.param("cuda", marks=pytest.mark.skipif(NO_GPU, reason="no GPU")),
]
GRAPH = to_graph(random_graph(57, 300), dtype=np.float64)


@pytest.mark.parametrize(("workers", "method"), [(1, "node-hash"), (3, "dbh")])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", OTHERS)
def test_step_same_as_on_cpu(device: str, name: str, workers: int, method: str) -> None:
    want = step(CASES[name], GRAPH, workers, method)
    got = step(CASES[name], GRAPH, workers, method, device=device)
    assert_equal(got, want, 1e-10)


@pytest.mark.parametrize("device", OTHERS)
def test_ties_with_self_loops_same_as_on_cpu(device: str) -> None:
    def make() -> nn.Module:
        model = CASES["sage_max"]()
        for layer in model.convs:
            layer.self_loops = True
        return model

    want = step(make, GRAPH, 3, "dbh")
    assert_equal(step(make, GRAPH, 3, "dbh", device=device), want, 1e-10)


@pytest.mark.parametrize("device", OTHERS)
def test_gradient_of_edge_columns_same_as_on_cpu(device: str) -> None:
    def gradients(device: str) -> np.ndarray[Any, Any]:
        def work(comm: Communicator) -> np.ndarray[Any, Any]:
            with DEVICES[device].usable():
                shard = gt.open_shard(GRAPH, comm, method="dbh", device=DEVICES[device].name)
                layer = gt.nn.GATE(3, 4, 4, heads=2, edge_dim=2, dropout=0.4).convs[0]
                layer.to(shard.device, torch.float64)
                view = View(shard, seed=3)
                attr = shard.edge_columns["attr"].clone().requires_grad_()
                view[0].edge_columns["attr"] = attr
                out = layer(view[0], view.inputs())
                with torch.autograd.set_multithreading_enabled(False):
                    (out.square().sum() + view.token).backward()
                assert attr.grad is not None
                return np.concatenate(comm.all_gather(attr.grad.cpu().numpy(), stage="test"))

        return gt.run_local(work, workers=2, timeout_s=30)

    assert_equal(gradients(device), gradients("cpu"), 1e-10)


def task_graph(task: LabelKind) -> gt.Graph:
    rng = np.random.default_rng(0)
    labels: dict[LabelKind, pa.Array] = {
        "multiclass": pa.array(rng.integers(0, 3, 60)),
        "binary": pa.array(rng.random(60) > 0.5),
        "multilabel": pa.FixedSizeListArray.from_arrays(pa.array(rng.random(180) > 0.5), 3),
        "regression": pa.array(rng.standard_normal(60).astype(np.float32)),
    }
    return small_graph(**{"label:y": labels[task]})


@pytest.mark.parametrize("task", MAIN_METRIC)
@pytest.mark.parametrize("device", OTHERS)
def test_trainer_same_as_on_cpu(device: str, task: LabelKind, tmp_path: Path) -> None:
    graph = task_graph(task)

    def train(device: str) -> tuple[list[float], torch.Tensor]:
        def trainer(comm: Communicator) -> gt.Trainer:
            shard = gt.open_shard(graph, comm, method="dbh", device=DEVICES[device].name)
            model = gt.nn.GCN(6, 8, shard.num_outputs("y"), batch_norm=True).double()
            return gt.Trainer(model, shard, run_dir=RunDirectory(tmp_path / device, resume=True))

        def work(comm: Communicator) -> tuple[list[float], torch.Tensor]:
            with DEVICES[device].usable():
                trainer(comm).fit(3)
                resumed = trainer(comm)
                assert resumed.resume() == 3
                summary = resumed.fit(5)
                write_predictions(
                    infer(resumed.model, resumed.shard),
                    resumed.shard,
                    resumed.task.spec,
                    tmp_path / f"{device} predictions",
                    infer(resumed.model, resumed.shard, embeddings=True),
                )
                outputs = resumed.predict()
                values = resumed.evaluate().values()
                return [*summary["loss_history"], *values], (
                    torch.empty(0) if outputs is None else outputs
                )

        return gt.run_local(work, workers=2, timeout_s=60)

    (got, outputs), (want, expected) = train(device), train("cpu")
    assert_equal(got, want, 1e-8)
    assert_equal(outputs, expected, 1e-8)


@pytest.mark.parametrize("device", OTHERS)
def test_shard_is_on_its_device_whole(device: str) -> None:
    with DEVICES[device].usable():
        shard = gt.open_shard(GRAPH, device=DEVICES[device].name)
        tensors = [
            shard.features, *shard.label("y"), shard.split("split"), *shard.edge_columns.values(),
            shard.topology.src, shard.topology.edge_key, shard.loopless_topology.position,
            shard.loopless_in_degree, shard.in_degree_by_type, shard.loop_column("attr"),
            shard.node_column("in_degree"), View(shard).token,
        ]  # fmt: skip
        assert {t.device for t in tensors if t is not None} == {shard.device}
        assert shard.device.type == torch.device(DEVICES[device].name).type


def test_pretended_device_refuses_what_a_gpu_does() -> None:
    with Pretended():
        there, here = torch.arange(3.0).to("meta"), torch.arange(3.0)
        for mix in (
            lambda: there + here,
            lambda: there[torch.tensor([0, 2])],
            lambda: here.index_add(0, torch.arange(3, device="meta"), here),
            lambda: torch.where(there > 1, there, here),
        ):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same"):
                mix()
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert (2 * there[1:] + torch.tensor(1.0)).cpu().tolist() == [3.0, 5.0]
        assert (there.add_(1) is there, there.cpu().tolist()) == (True, [1.0, 2.0, 3.0])


# A GPU that is not there.


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_missing_gpu_raises_config_error() -> None:
    with pytest.raises(ConfigError, match=r"cuda, and 0 GPUs. Use --device cpu"):
        gt.open_shard(GRAPH, device="cuda")


def test_unknown_device_raises_config_error() -> None:
    with pytest.raises(ConfigError, match="cpu or cuda, got 'gpu'"):
        gt.open_shard(GRAPH, device="gpu")


def test_each_worker_of_a_host_gets_the_next_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def devices(comm: Communicator) -> list[str]:
        assert str(pick_device("cuda:1", comm)) == "cuda:1"
        index = pick_device("cuda", comm).index
        return [f"cuda:{k}" for k in comm.all_gather_int(index, stage="test")]

    assert gt.run_local(devices, workers=3) == ["cuda:0", "cuda:1", "cuda:0"]


def test_command_line_names_the_devices(command: Run) -> None:  # noqa: F811
    words = ["train", "cora", "--run-dir", "run", "--device"]
    assert_one_line(command(*words, "gpu"), "--device: expected 'cpu' or 'cuda', got 'gpu'")
    if NO_GPU:
        assert_one_line(command(*words, "cuda"), "got cuda, and 0 GPUs")
        assert not files(Path())


@pytest.mark.skipif(NO_GPU, reason="no GPU")
def test_command_line_trains_on_a_gpu(command: Run) -> None:  # noqa: F811
    words = ["train", "cora", "--epochs", "5", "--device", "cuda", "--run-dir", "run"]
    assert command(*words).code == 0
    assert command("predict", "run", "cora", "--out", "here").code == 0
    assert command("predict", "run", "cora", "--out", "there", "--device", "cuda").code == 0
