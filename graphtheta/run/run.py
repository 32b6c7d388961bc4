"""Trainer of a run from its configuration, and predictions from the directory of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor, nn

from graphtheta.comm.communicator import Communicator
from graphtheta.data.encode.recipe import Recipe
from graphtheta.errors import ConfigError
from graphtheta.inference.label_propagation import correct_and_smooth
from graphtheta.inference.nodes import infer_nodes, masters_in_table
from graphtheta.inference.whole import infer
from graphtheta.nn import EdgeModel
from graphtheta.partition import LabelSpec, Manifest, read_recipe
from graphtheta.partition.store.recipe_file import recipe_text
from graphtheta.run.build import (
    check_names,
    columns_read,
    is_weighted,
    model_of,
    schedule_of,
    strategy_of,
    task_of,
)
from graphtheta.run.config import RunConfig
from graphtheta.run.open_graph import RunGraph, open_graph, open_run_graph
from graphtheta.run.pair_prediction import read_pairs, score_pairs
from graphtheta.run.prediction_writer import (
    PredictedLabel,
    outputs_as_columns,
    require_empty,
    write_columns,
    write_predictions,
)
from graphtheta.run.resolve import load_config
from graphtheta.shard.shard import Shard
from graphtheta.task import LinkPrediction
from graphtheta.task.metrics.scored import kind_of
from graphtheta.train.run_dir import RunDirectory
from graphtheta.train.trainer import Trainer
from graphtheta.train.weights import file_hash, load_weights
from graphtheta.wording import counted, some

__all__ = [
    "Predicted",
    "load_model",
    "predict_run",
    "predicted_type",
    "read_label",
    "recipe_of",
    "start_run",
    "trained_model",
]


def start_run(
    config: RunConfig,
    comm: Communicator,
    *,
    resume: bool = False,
    progress: bool | Literal["lines"] = False,
    callbacks: Iterable[Any] = (),
    graph: RunGraph | None = None,
) -> Trainer:
    """Return the trainer of a run, ready to `fit`; collective.

    Nothing is written before the arguments and the graph have been checked.

    Args:
        config: Configuration of the run.
        comm: The workers.
        resume: Whether to continue from the last checkpoint in the run's directory.
        progress: How rank 0 shows progress, as for `ProgressBar`.
        callbacks: Callbacks of the trainer, on all workers.
        graph: Graph of the run, if it is open already: what `open_run_graph` returns.

    Raises:
        ConfigError: If an option is invalid, or the directory holds another run, or a run is in
            progress in it, or it cannot be written.
        GraphFormatError: If the graph is invalid, or no node is in the training split.
        StoreError: If the store is damaged.
    """
    check_names(config)
    _refuse_inside(config.run_dir, config.input, "--run-dir")
    strategy, task, schedule = strategy_of(config), task_of(config), schedule_of(config)
    # Only rank 0 checks that the directory is free: it may already write to it when others check.
    run_dir = RunDirectory(config.run_dir, resume=resume or comm.rank > 0)
    groups, shard = graph or open_run_graph(config, comm)
    trainer = Trainer(
        model_of(config, shard),
        shard,
        task=task,
        strategy=strategy,
        optimizer=config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        decay_biases=config.decay_biases,
        clip=config.clip,
        schedule=schedule,
        accumulate=config.accumulate,
        precision=config.precision,
        seed=config.seed,
        prefetch=config.prefetch,
        groups=groups,
        micro_batches=config.micro_batches,
        patience=config.patience,
        evaluate_every=config.evaluate_every,
        run_dir=run_dir,
        checkpoint_every=config.checkpoint_every,
        checkpoint_seconds=config.checkpoint_seconds,
        progress=progress,
        callbacks=callbacks,
    )
    try:
        if comm.rank == 0:
            run_dir.lock()  # until the end of `fit`
        if resume:
            trainer.resume()
        if comm.rank == 0:
            # Record the choices that depend on the graph, to repeat the run on another graph.
            columns = trainer.task.resolved.items()
            found = {
                "undirected": shard.manifest.undirected,
                "drop_self_loops": not shard.manifest.self_loops,
                "drop_duplicates": not shard.manifest.repeats,
                "drop_unknown": shard.manifest.drop_unknown,
                "weighted": is_weighted(config, shard),
                **{option: name for option, name in columns if getattr(config, option) is None},
            }
            run_dir.write_config(config.model_copy(update=found).record())
            spec = trainer.task.spec.model_dump()
            more = {"types": _types_of(shard), "positive": getattr(trainer.task, "positive", 1)}
            run_dir.write_recipe(recipe_text(shard.manifest.recipe))
            run_dir.write_label({**spec, "columns": columns_read(config, shard), **more})
    except BaseException:
        run_dir.unlock()
        raise
    return trainer


class Predicted(NamedTuple):
    """What `predict_run` has written.

    Attributes:
        rows: Number of nodes or pairs.
        label: Label that was predicted, with the threshold that was applied.
    """

    rows: int
    label: PredictedLabel


def predict_run(
    run_dir: Path,
    source: str,
    out: Path,
    comm: Communicator,
    *,
    embeddings: bool = False,
    nodes: str | None = None,
    edges: str | None = None,
    smooth: bool = False,
    threshold: float | None = None,
    device: str = "cpu",
) -> Predicted:
    """Predict nodes or pairs of nodes with the best weights of a run; collective.

    Args:
        run_dir: Directory of the run.
        source: A store, or another input, which is partitioned by the method of the run.
        out: New or empty directory for the Parquet files, see `write_predictions`.
        comm: The workers.
        embeddings: Whether to write the input of the last layer, too.
        nodes: Table of the original ids of the nodes to predict. If None, all nodes of the type
            that has the run's label.
        edges: Table of the pairs to predict, for a run of edge or link prediction.
        smooth: Whether to apply `correct_and_smooth` with the labels of the graph.
        threshold: Probability from which yes is predicted. If None, that of the run.
        device: Device, as for `open_shard`.

    Raises:
        ConfigError: If the run does not exist, has no weights yet, does not fit the graph or has
            another task, or `out` is not empty.
        GraphFormatError: If `nodes` or `edges` has ids that are not in the graph.
        StoreError: If the store is damaged.
    """
    config = load_config(run_dir)
    _weights(run_dir)
    _refuse_inside(out, source, "--out")
    require_empty(out, comm)
    _check_kind(config, nodes, edges, embeddings, smooth)
    if threshold is not None:
        _check_threshold(threshold, read_label(RunDirectory(run_dir, resume=True).label))
    shard = open_graph(config, source, comm, device, recipe_of(run_dir))
    model, spec = load_model(config, run_dir, shard)
    if smooth:
        spec = spec.model_copy(update={"threshold": None})  # it is one of other probabilities
    if threshold is not None:
        spec = spec.model_copy(update={"threshold": threshold})
    if edges is not None:
        assert isinstance(model, EdgeModel)
        return Predicted(_predict_edges(config, model, spec, shard, edges, out), spec)
    of_type = predicted_type(config, shard.manifest)
    rows = None if nodes is None else masters_in_table(shard, nodes, of_type)
    run: Callable[..., Tensor] = (
        partial(infer, node_type=of_type) if rows is None else partial(infer_nodes, rows=rows)
    )
    predicted = _smoothed(model, shard, config, rows) if smooth else run(model, shard)
    vectors = run(model, shard, embeddings=True) if embeddings else None
    write_predictions(predicted, shard, spec, out, vectors, rows=rows, node_type=of_type)
    return Predicted(int(comm.all_gather_int(len(predicted), stage="predicted").sum()), spec)


def _smoothed(
    model: nn.Module, shard: Shard, config: RunConfig, rows: NDArray[np.int64] | None
) -> Tensor:
    """Return logarithms of the smoothed probabilities of all nodes, or of some; collective."""
    if len(shard.node_types) > 1:
        raise ConfigError(
            "--smooth: expected a graph of one node type, got "
            f"{', '.join(shard.node_types)}. Leave it out."
        )
    probabilities = infer(model, shard).softmax(1)
    smoothed = correct_and_smooth(shard, probabilities, config.label, config.split)
    logarithms = smoothed.clamp(min=torch.finfo(smoothed.dtype).tiny).log()
    return logarithms if rows is None else logarithms[rows]


def trained_model(run_dir: Path, shard: Shard) -> tuple[nn.Module, LabelSpec]:
    """Return the model of a node prediction run with its best weights, and its label; collective.

    Args:
        run_dir: Directory of the run.
        shard: The graph to predict on.

    Raises:
        ConfigError: If the run does not exist, has no weights yet, does not fit the graph or has
            another task.
    """
    config = load_config(run_dir)
    if config.task != "node":
        raise ConfigError(
            f"{run_dir}: expected a run of --task node, got {config.task}. Choose another run."
        )
    return load_model(config, run_dir, shard)


def predicted_type(config: RunConfig, manifest: Manifest) -> str | None:
    """Return the node type that a node prediction run predicts; None if the graph has only one.

    Raises:
        ConfigError: If the graph has no such type.
    """
    return manifest.type_of_label(config.label, config.target_type)


def load_model(config: RunConfig, run_dir: Path, shard: Shard) -> tuple[nn.Module, PredictedLabel]:
    """Return the model of a run with its best weights, and its label; collective."""
    spec = read_label(RunDirectory(run_dir, resume=True).label)
    _check_types(run_dir, spec.types, _types_of(shard))
    _check_columns(run_dir, spec.columns, columns_read(config, shard))
    _check_recipe(run_dir, shard.manifest.recipe)
    model = model_of(config, shard, spec).to(shard.device)
    load_weights(model, shard, _weights(run_dir))
    return model, spec.model_copy(update={"threshold": _summary(run_dir).get("threshold")})


class _RunLabel(PredictedLabel):
    """Label of a run, and the widths of the columns and the types that its model reads."""

    columns: dict[str, int] = Field(default_factory=dict)  # runs of earlier versions have none
    types: list[str] = Field(default_factory=list)


def _types_of(shard: Shard) -> list[str]:
    """Return the names of the node types and relations of a typed graph, by which models index."""
    if not shard.manifest.is_typed:
        return []
    return [*shard.node_types, *(relation.text for relation in shard.relations)]


def _check_types(run_dir: Path, trained: list[str], given: list[str]) -> None:
    """Raise a ConfigError if a typed graph has other types than the one a run was trained on."""
    if trained and trained != given:
        raise ConfigError(
            f"{run_dir}: expected a graph with the types and relations {', '.join(trained)}, in "
            f"this order, got {', '.join(given) or 'none'}. Partition it from such tables."
        )


def _check_columns(run_dir: Path, trained: dict[str, int], given: dict[str, int]) -> None:
    """Raise a ConfigError if a graph has other columns than the one that a run was trained on."""
    odd = [noun for noun, width in trained.items() if given.get(noun, 0) != width]
    if odd:
        expected, got = (", ".join(counted(w.get(n, 0), n) for n in odd) for w in (trained, given))
        raise ConfigError(
            f"{run_dir}: expected a graph with {expected}, as the one that the run was trained on, "
            f"got one with {got}. Read the same columns when you partition it (--like {run_dir})."
        )


def recipe_of(run_dir: Path) -> Recipe | None:
    """Return the recipe of a run; None for a run of an earlier version."""
    return read_recipe(run_dir) if RunDirectory(run_dir, resume=True).recipe.exists() else None


def _check_recipe(run_dir: Path, given: Recipe) -> None:
    """Raise a ConfigError if a graph's columns are encoded otherwise than those of a run."""
    trained = recipe_of(run_dir)
    if trained is not None and (odd := trained.differences(given)):
        raise ConfigError(
            f"{run_dir}: expected a graph whose columns are encoded as those of the run, got other "
            f"encodings of {some(odd, len(odd))}. Partition it with --like {run_dir}."
        )


def read_label(path: Path) -> _RunLabel:
    """Return the label of a run from its file."""
    try:
        return _RunLabel.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise ConfigError(
            f"{path}: expected the label of the run, got "
            f"{'an invalid file' if path.exists() else 'no file'}. To write it again: graphtheta "
            f"train --resume --run-dir {path.parent}"
        ) from None


def _refuse_inside(folder: Path, source: str, option: str) -> None:
    """Raise a ConfigError if a folder to write is the input, or inside it."""
    is_store = (Path(source) / "manifest.json").exists()
    if is_store and folder.resolve().is_relative_to(Path(source).resolve()):
        raise ConfigError(
            f"{option}: expected a directory outside of the store {source}, got {folder}. Choose "
            "another."
        )


def _weights(run_dir: Path) -> Path:
    """Return the file of a run's weights, after comparing its hash with that in the summary."""
    files = RunDirectory(run_dir, resume=True)
    weights = files.weights
    if not weights.exists():
        raise ConfigError(
            f"{weights}: expected the weights of a finished run, got no file. To finish it: "
            f"graphtheta train --resume --run-dir {run_dir}"
        )
    expected = _summary(run_dir).get("weights_hash")
    if expected is not None and expected != (got := file_hash(weights)):
        raise ConfigError(
            f"{weights}: expected the weights of this run, of hash {expected!s:.32}, got others, "
            f"of hash {got}. To write them again: graphtheta train --resume --run-dir {run_dir}"
        )
    return weights


def _summary(run_dir: Path) -> dict[str, Any]:
    """Return the summary of a run; empty if it was killed after it had written its weights."""
    path = RunDirectory(run_dir, resume=True).summary
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, RecursionError):
        raise ConfigError(
            f"{path}: expected the summary of the run, got an invalid file. To write it again: "
            f"graphtheta train --resume --run-dir {run_dir}"
        ) from None


def _check_kind(
    config: RunConfig, nodes: str | None, edges: str | None, embeddings: bool, smooth: bool
) -> None:
    is_node_task = config.task == "node"
    if is_node_task and edges is not None:
        raise ConfigError(
            "--edges: expected a run of --task edge or link, got --task node. Leave --edges out, "
            "or choose nodes with --nodes."
        )
    if not is_node_task and (edges is None or nodes is not None or embeddings or smooth):
        raise ConfigError(
            "predict: expected --edges, without --nodes, --embeddings and --smooth, for a run of "
            f"--task {config.task}, which predicts pairs of nodes. Give a table with columns src "
            "and dst."
        )


def _check_threshold(threshold: float, spec: LabelSpec) -> None:
    """Raise a ConfigError if a threshold is no probability, or the label is not yes or no."""
    if not 0 <= threshold <= 1:
        raise ConfigError(
            f"--threshold: expected a probability from 0 to 1, got {threshold}. Correct it."
        )
    if kind_of(spec) != "binary":
        raise ConfigError(
            f"--threshold: expected a run of a yes-or-no label, got one of kind {spec.task}. Leave "
            "it out."
        )


def _predict_edges(
    config: RunConfig, model: EdgeModel, spec: LabelSpec, shard: Shard, edges: str, out: Path
) -> int:
    task, bound = task_of(config), model.decoder.num_relations
    pairs = read_pairs(shard, edges, config.relation_column, bound, config.relation)
    with_messages = task.message_shard(shard) if isinstance(task, LinkPrediction) else shard
    scores = score_pairs(model, with_messages, pairs)
    write_columns({**pairs.columns, **outputs_as_columns(scores, spec)}, out, shard.comm)
    return int(shard.comm.all_gather_int(len(scores), stage="predicted").sum())
