"""From a configuration to a trainer, and from a run's folder back to its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graphtheta.cache import open_input
from graphtheta.comm.communicator import Communicator
from graphtheta.errors import ConfigError
from graphtheta.nn import MODELS, Stack, model_for
from graphtheta.open import open_shard, pick_device
from graphtheta.partition import LabelSpec
from graphtheta.shard import Shard
from graphtheta.strategy import STRATEGIES, ClusterBatch, GlobalBatch, MiniBatch, Strategy
from graphtheta.train.checkpoint import load_weights
from graphtheta.train.chosen import chosen_rows, infer_chosen
from graphtheta.train.config import RunConfig, load_run
from graphtheta.train.predict import infer, refuse_occupied, write_predictions
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.trainer import OPTIMIZERS, Trainer

__all__ = ["predict_run", "start_run", "trained_model"]


def start_run(
    config: RunConfig, comm: Communicator, *, resume: bool = False, progress: bool = False
) -> Trainer:
    """Return the trainer of a run, ready to `fit`; collective.

    Nothing is written before all arguments and the graph have been found to be right.

    Args:
        config: What to train.
        comm: The workers.
        resume: Whether to go on from the last checkpoint in the run's folder.
        progress: Whether rank 0 draws a progress bar.

    Raises:
        ConfigError: If a name or number is wrong, or the folder holds another run.
        GraphFormatError: If the graph is wrong, or no node is in the training split.
        StoreError: If the store is damaged.
    """
    for option, name, registry in (
        ("--model", config.model, MODELS),
        ("--strategy", config.strategy, STRATEGIES),
        ("--optimizer", config.optimizer, OPTIMIZERS),
    ):
        _known(option, name, registry)
    strategy = _STRATEGIES[config.strategy](config)
    # Rank 0 alone looks whether the folder is free: for the others it may have begun to fill it.
    run_dir = RunDirectory(config.run_dir, resume=resume or comm.rank > 0)
    shard = _open(config, config.input, comm, config.device)
    trainer = Trainer(
        _model(config, shard),
        shard,
        strategy=strategy,
        label=config.label,
        split=config.split,
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        seed=config.seed,
        prefetch=config.prefetch,
        patience=config.patience,
        run_dir=run_dir,
        checkpoint_every=config.checkpoint_every,
        progress=progress,
    )
    if resume:
        trainer.resume()
    if comm.rank == 0:
        # What was left to the graph to say is said: the run may be repeated on another.
        found = {
            "undirected": shard.manifest.undirected,
            "label": trainer.label,
            "split": config.split or shard.default_split,
        }
        run_dir.write_config(config.model_copy(update=found).record())
    return trainer


def predict_run(
    run_dir: Path,
    source: str,
    out: Path,
    comm: Communicator,
    *,
    embeddings: bool = False,
    nodes: str | None = None,
    device: str = "cpu",
) -> int:
    """Predict nodes of a graph with the best weights of a run; collective.

    Args:
        run_dir: The run.
        source: A store, or another input; an unpartitioned one is partitioned as in the run.
        out: New or empty folder of the Parquet dataset, see `write_predictions`.
        comm: The workers.
        embeddings: Whether to add what the last layer reads.
        nodes: Table of the original ids of those to predict; None: all nodes.
        device: As of `open_shard`, wherever the run was trained.

    Returns:
        How many nodes were predicted.

    Raises:
        ConfigError: If there is no such run, it has no weights yet, they do not fit the graph, or
            `out` is in use.
        GraphFormatError: If `nodes` names nodes that are not there.
        StoreError: If the store is damaged.
    """
    config = load_run(run_dir)
    _weights(run_dir)
    refuse_occupied(out, comm)
    shard = _open(config, source, comm, device)
    model, spec = trained_model(run_dir, shard)
    rows = None if nodes is None else chosen_rows(shard, nodes)

    def outputs(*, embeddings: bool) -> Tensor:
        if rows is None:
            return infer(model, shard, embeddings=embeddings)
        return infer_chosen(model, shard, rows, embeddings=embeddings)

    predicted = outputs(embeddings=False)
    write_predictions(
        predicted,
        shard,
        spec,
        out,
        embeddings_M=outputs(embeddings=True) if embeddings else None,
        rows=rows,
    )
    return int(comm.all_gather_int(len(predicted), stage="predicted").sum())


def trained_model(run_dir: Path, shard: Shard) -> tuple[Stack, LabelSpec]:
    """Return the model of a run with its best weights, and what it predicts; collective.

    Args:
        run_dir: The run.
        shard: The graph to predict on.

    Raises:
        ConfigError: If there is no such run, it has no weights yet, or they do not fit the graph.
    """
    config = load_run(run_dir)
    model = _model(config, shard).to(shard.device)
    load_weights(model, _weights(run_dir))
    return model, shard.label_spec(config.label or shard.default_label)


def _weights(run_dir: Path) -> Path:
    weights = RunDirectory(run_dir, resume=True).weights
    if not weights.exists():
        raise ConfigError(
            f"{weights}: expected the weights of a run, got none: it has not come to its end. "
            "Go on with it: graphtheta train --resume."
        )
    return weights


def _mini(config: RunConfig) -> MiniBatch:
    return MiniBatch(
        config.batch_size,
        _fanouts(config.fanouts, config.layers),
        replace=config.replace,
        weight=config.edge_weight,
    )


def _cluster(config: RunConfig) -> ClusterBatch:
    return ClusterBatch(
        config.clusters_per_batch,
        config.communities,
        boundary_hops=config.boundary_hops,
        renormalise=config.renormalise,
    )


_STRATEGIES: dict[str, Callable[[RunConfig], Strategy]] = {
    "global": lambda config: GlobalBatch(),
    "mini": _mini,
    "cluster": _cluster,
}


def _fanouts(text: str, layers: int) -> list[int | None] | None:
    """Return the fanouts of each layer, or None for all in-edges."""
    if text == "all":
        return None
    words = [word.strip() for word in text.split(",")]
    right = all(word == "all" or (word.isdecimal() and int(word) > 0) for word in words)
    if not right or len(words) != layers:
        raise ConfigError(
            f"--fanouts: expected all, or a number (or all) for each of {layers} layers, as in "
            f"{','.join(['10'] * layers)}, got '{text}'. Correct it, or --layers."
        )
    return [None if word == "all" else int(word) for word in words]


def _known(option: str, name: str, registry: Mapping[str, Any]) -> None:
    if name not in registry:
        raise ConfigError(
            f"{option}: unknown name '{name}'. Choose among {', '.join(sorted(registry))}."
        )


def _open(config: RunConfig, source: str, comm: Communicator, device: str) -> Shard:
    place = pick_device(device, comm)  # before the input is partitioned, which may take long
    store = open_input(source, comm, method=config.method, undirected=config.undirected)
    return open_shard(store, comm, device=place)


def _model(config: RunConfig, shard: Shard) -> Stack:
    return model_for(
        config.model,
        shard,
        config.label or shard.default_label,
        hidden_channels=config.hidden,
        num_layers=config.layers,
        heads=config.heads,
        dropout=config.dropout,
        batch_norm=config.batch_norm,
        num_bases=config.num_bases,
        seed=config.seed,
    )
