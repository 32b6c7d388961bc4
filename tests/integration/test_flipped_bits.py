"""Flipped bits in all files of a store and of a run: refused in one line, found, or no effect."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from graphtheta.comm.single import SingleCommunicator
from graphtheta.partition import Plan, Store, make_store, open_store
from graphtheta.partition.store.communities import write_communities
from graphtheta.run.resolve import resolve
from graphtheta.run.run import start_run, trained_model
from graphtheta.shard.open import open_shard
from graphtheta.shard.shard import Shard
from tests.damage import flip_bits
from tests.graphs import power_law, to_graph

GRAPH = to_graph(power_law(40, 150), text_ids=True)
ALONE = SingleCommunicator()
EPOCHS = 4


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = make_store(GRAPH, tmp_path / "store", Plan(2, "dbh"))
    write_communities(made, "c", np.arange(40) % 6)
    return made


@pytest.fixture
def run(tmp_path: Path, store: Store) -> Path:
    """A run with checkpoints after two and four epochs."""
    folder = tmp_path / "run"
    options = {"input": str(store.path), "run_dir": folder, "hidden": 4, "embedding": 2}
    for epochs in (2, EPOCHS):
        config = resolve({**options, "epochs": epochs}, resume=epochs > 2)
        start_run(config, ALONE, resume=epochs > 2).fit(epochs)
        options = {"run_dir": folder}
    return folder


def everything(shard: Shard) -> bytes:
    """Return all that a shard holds, as bytes."""
    local, manifest = shard.local, shard.manifest
    tensors = [shard.features, *shard.edge_columns.values()]
    for name in manifest.labels:
        tensors += shard.label(name)
    tensors += [shard.split(name) for name in manifest.splits]
    arrays = [
        *(tensor.numpy() for tensor in tensors),
        *(local.edges[name] for name in ("src", "edge_key", "in_position")),
        local.in_indptr,
        local.node_key_L,
        shard.communities("c"),
    ]
    ids = shard.original_ids.combine_chunks()
    return b"".join(array.tobytes() for array in arrays) + repr(ids.to_pylist()).encode()


def read_store(path: Path) -> bytes:
    opened = open_store(path)
    shard = open_shard(path)
    new_ids = opened.index.new_ids(shard.original_ids.combine_chunks())
    keys = opened.index.new_ids_of_keys(np.arange(shard.manifest.num_nodes))
    return everything(shard) + new_ids.tobytes() + keys.tobytes()


def files_of(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def read_run(run: Path, store: Path) -> bytes:
    """Predict with the weights of a run, and train it further in a copy; return both results."""
    copy = run.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    shard = open_shard(store)
    model, label = trained_model(copy, shard)
    written = io.BytesIO()
    torch.save([model.state_dict(), label.model_dump()], written)
    config = resolve({"run_dir": copy, "epochs": EPOCHS + 1}, resume=True)
    trainer = start_run(config, ALONE, resume=True)
    trainer.fit(EPOCHS + 1)
    torch.save([trainer.model.state_dict(), trainer.history.loss], written)
    return written.getvalue()


@pytest.mark.parametrize("flips", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_flipped_bits_of_a_store(flips: int, store: Store) -> None:
    outcomes = flip_bits(
        files_of(store.path),
        flips,
        lambda: read_store(store.path),
        lambda: open_store(store.path).verify(),
    )
    # Training never reads changed values, so that none is left for `info --verify` to find.
    assert set(outcomes) <= {"refused", "same"}, outcomes
    assert outcomes["refused"] > flips / 2


@pytest.mark.parametrize(
    "flips", [20, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_flipped_bits_of_a_run(flips: int, run: Path, store: Store) -> None:
    outcomes = flip_bits(files_of(run), flips, lambda: read_run(run, store.path))
    assert set(outcomes) <= {"refused", "same"}, outcomes
