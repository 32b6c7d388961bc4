"""From a configuration to a trainer, and from a run's folder back to its model."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from torch import Tensor, nn

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.datasets.store_cache import open_input
from graphtheta.errors import ConfigError
from graphtheta.inference.nodes import infer_nodes, masters_in_table
from graphtheta.inference.whole import infer
from graphtheta.nn import EdgeModel
from graphtheta.partition import LabelSpec
from graphtheta.run.build import check_names, model_of, strategy_of, task_of
from graphtheta.run.config import RunConfig
from graphtheta.run.pair_prediction import read_pairs, score_pairs
from graphtheta.run.prediction_writer import (
    outputs_as_columns,
    refuse_occupied,
    write_columns,
    write_predictions,
)
from graphtheta.run.resolve import load_run
from graphtheta.shard.open import open_shard, pick_device
from graphtheta.shard.shard import Shard
from graphtheta.task import LinkPrediction
from graphtheta.train.checkpoint import load_weights
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.trainer import Trainer

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
    check_names(config)
    strategy, task = strategy_of(config), task_of(config)
    # Rank 0 alone looks whether the folder is free: for the others it may have begun to fill it.
    run_dir = RunDirectory(config.run_dir, resume=resume or comm.rank > 0)
    groups = Groups(comm, config.groups)
    if groups.index:
        comm.barrier(stage="input of the first group")  # which may have to partition it
    shard = _open(config, config.input, groups.comm, config.device)
    if not groups.index and groups.number > 1:
        comm.barrier(stage="input of the first group")
    trainer = Trainer(
        model_of(config, shard),
        shard,
        task=task,
        strategy=strategy,
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        seed=config.seed,
        prefetch=config.prefetch,
        groups=groups,
        micro_batches=config.micro_batches,
        patience=config.patience,
        evaluate_every=config.evaluate_every,
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
            **trainer.task.resolved,
        }
        run_dir.write_config(config.model_copy(update=found).record())
        run_dir.write_label(trainer.task.spec.model_dump())
    return trainer


def predict_run(
    run_dir: Path,
    source: str,
    out: Path,
    comm: Communicator,
    *,
    embeddings: bool = False,
    nodes: str | None = None,
    edges: str | None = None,
    device: str = "cpu",
) -> int:
    """Predict nodes, or edges, of a graph with the best weights of a run; collective.

    Args:
        run_dir: The run.
        source: A store, or another input; an unpartitioned one is partitioned as in the run.
        out: New or empty folder of the Parquet dataset, see `write_predictions`.
        comm: The workers.
        embeddings: Whether to add what the last layer reads.
        nodes: Table of the original ids of those to predict; None: all nodes.
        edges: Table of the pairs to predict, of a run of the task edge or link.
        device: As of `open_shard`, wherever the run was trained.

    Returns:
        How many nodes or edges were predicted.

    Raises:
        ConfigError: If there is no such run, it has no weights yet, they do not fit the graph, or
            `out` is in use, or the run is of another task.
        GraphFormatError: If `nodes` or `edges` names nodes that are not there.
        StoreError: If the store is damaged.
    """
    config = load_run(run_dir)
    _weights(run_dir)
    refuse_occupied(out, comm)
    _check_kind(config, nodes, edges, embeddings)
    shard = _open(config, source, comm, device)
    model, spec = _loaded(config, run_dir, shard)
    if edges is not None:
        assert isinstance(model, EdgeModel)
        return _predict_edges(config, model, spec, shard, edges, out)
    rows = None if nodes is None else masters_in_table(shard, nodes)

    def outputs(*, embeddings: bool) -> Tensor:
        if rows is None:
            return infer(model, shard, embeddings=embeddings)
        return infer_nodes(model, shard, rows, embeddings=embeddings)

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


def trained_model(run_dir: Path, shard: Shard) -> tuple[nn.Module, LabelSpec]:
    """Return the model of a run with its best weights, and what it predicts of nodes; collective.

    Args:
        run_dir: The run.
        shard: The graph to predict on.

    Raises:
        ConfigError: If there is no such run, it has no weights yet, they do not fit the graph, or
            it learned of edges.
    """
    config = load_run(run_dir)
    if config.task != "node":
        raise ConfigError(
            f"{run_dir}: expected a run of --task node, got {config.task}. Name another run."
        )
    return _loaded(config, run_dir, shard)


def _loaded(config: RunConfig, run_dir: Path, shard: Shard) -> tuple[nn.Module, LabelSpec]:
    spec = _learned(RunDirectory(run_dir, resume=True).label)
    model = model_of(config, shard, spec).to(shard.device)
    load_weights(model, shard, _weights(run_dir))
    return model, spec


def _learned(path: Path) -> LabelSpec:
    try:
        return LabelSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise ConfigError(
            f"{path}: expected what the run learned, got "
            f"{'something else' if path.exists() else 'no file'}. Write it again: "
            "graphtheta train --resume."
        ) from None


def _weights(run_dir: Path) -> Path:
    weights = RunDirectory(run_dir, resume=True).weights
    if not weights.exists():
        raise ConfigError(
            f"{weights}: expected the weights of a run, got none: it has not come to its end. "
            "Go on with it: graphtheta train --resume."
        )
    return weights


def _open(config: RunConfig, source: str, comm: Communicator, device: str) -> Shard:
    place = pick_device(device, comm)  # before the input is partitioned, which may take long
    store = open_input(source, comm, method=config.method, undirected=config.undirected)
    return open_shard(store, comm, device=place)


def _check_kind(config: RunConfig, nodes: str | None, edges: str | None, embeddings: bool) -> None:
    of_nodes = config.task == "node"
    if of_nodes and edges is not None:
        raise ConfigError(
            "--edges: the run learned a label of nodes. Name nodes by --nodes, or leave it out."
        )
    if not of_nodes and (edges is None or nodes is not None or embeddings):
        raise ConfigError(
            f"predict: the run is of --task {config.task}, which predicts pairs of nodes. Name a "
            "table with columns src and dst by --edges, without --nodes and --embeddings."
        )


def _predict_edges(
    config: RunConfig, model: EdgeModel, spec: LabelSpec, shard: Shard, edges: str, out: Path
) -> int:
    task, bound = task_of(config), model.decoder.num_relations
    pairs = read_pairs(shard, edges, config.relation_column, bound)
    with_messages = task.message_shard(shard) if isinstance(task, LinkPrediction) else shard
    scores = score_pairs(model, with_messages, pairs)
    write_columns({**pairs.columns, **outputs_as_columns(scores, spec.task)}, out, shard.comm)
    return int(shard.comm.all_gather_int(len(scores), stage="predicted").sum())
