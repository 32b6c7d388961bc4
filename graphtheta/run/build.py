"""Strategy, task and model of a run, built from its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from graphtheta.data.schema import need_name
from graphtheta.errors import ConfigError
from graphtheta.nn import (
    DECODERS,
    MODELS,
    NORMALISED,
    ColumnEmbedding,
    EdgeModel,
    NodeEmbedding,
    TypedInput,
    decoder_for,
    model_for,
)
from graphtheta.nn.embedding import is_sharded
from graphtheta.nn.losses import NAMED_LOSSES
from graphtheta.optim import OPTIMIZERS, SCHEDULES, Schedule, read_rates
from graphtheta.partition import PARTITIONERS, LabelSpec
from graphtheta.run.config import RunConfig
from graphtheta.run.fanouts import fanouts_of
from graphtheta.shard.shard import Shard
from graphtheta.strategy import STRATEGIES, ClusterBatch, GlobalBatch, MiniBatch, Strategy
from graphtheta.task import TASKS, EdgePrediction, LinkPrediction, NodePrediction
from graphtheta.task.edge_columns import num_relations

__all__ = [
    "check_names",
    "columns_read",
    "is_weighted",
    "model_of",
    "schedule_of",
    "strategy_of",
    "task_of",
]


def check_names(config: RunConfig) -> None:
    """Raise a ConfigError if a name is not in its registry, or options contradict each other."""
    for option, name, registry in (
        ("model", config.model, MODELS),
        ("strategy", config.strategy, STRATEGIES),
        ("optimizer", config.optimizer, OPTIMIZERS),
        ("schedule", None if _is_file(config.schedule) else config.schedule, SCHEDULES),
        ("task", config.task, TASKS),
        ("loss", config.loss, NAMED_LOSSES),
        ("decoder", config.decoder, DECODERS),
        ("method", config.method, PARTITIONERS),
    ):
        if name is not None:
            need_name(name, registry, f"{option} (--{option})")
    if config.task == "link" and config.label is not None:
        raise ConfigError(
            f"--label: expected none with --task link, got '{config.label}'. Leave it out, or use "
            "--task edge."
        )


def strategy_of(config: RunConfig) -> Strategy:
    """Return the strategy of a run."""
    if config.strategy == "mini":
        return MiniBatch(
            config.batch_size,
            fanouts_of(config.fanouts, config.layers),
            replace=config.replace,
            weight=config.edge_weight,
        )
    if config.strategy == "cluster":
        return ClusterBatch(
            config.clusters_per_batch,
            config.communities,
            boundary_hops=config.boundary_hops,
            only=None if config.only is None else _communities(config.only),
            renormalise=config.renormalise,
        )
    # Targets of nodes are the same in each step, so that the view can be pruned once. Negative
    # samples of links are not.
    has_norm = config.batch_norm or config.norm == "batch"
    has_statistics = has_norm or MODELS[config.model].has_statistics
    return GlobalBatch(prune=config.task == "node" and not has_statistics)


def schedule_of(config: RunConfig) -> Schedule | None:
    """Return the schedule of the learning rate of a run, or None for a constant one."""
    if _is_file(config.schedule):
        return read_rates(Path(config.schedule))
    options: dict[str, Any] = {"warmup": config.warmup, "by": config.schedule_by}
    if config.schedule == "constant" and not config.warmup:
        return None
    if config.schedule == "step":
        options |= {"every": config.decay_every or 1 / 3, "gamma": config.decay_factor}
    elif config.schedule != "constant":
        options["final"] = config.final_share
    if config.schedule == "wsd":
        options |= {"decay": config.decay, "shape": config.decay_shape}
    return SCHEDULES[config.schedule](**options)


def _is_file(schedule: str) -> bool:
    return schedule.endswith(".json")


def task_of(config: RunConfig) -> NodePrediction | EdgePrediction | LinkPrediction:
    """Return the task of a run."""
    if config.task == "edge":
        return EdgePrediction(
            config.label,
            config.split,
            target_relation=config.relation,
            relation=config.relation_column,
            exclude_targets=bool(config.exclude_targets),
            positive=config.positive,
            **_loss_options(config),
        )
    if config.task == "link":
        return LinkPrediction(
            config.split,
            target_relation=config.relation,
            relation=config.relation_column,
            negatives=config.negatives,
            corrupt=config.corrupt,
            candidates=config.candidates,
            exclude_targets=config.exclude_targets is not False,
            validation_messages=config.validation_messages,
            split_pairs=config.split_pairs,
            ranking=config.ranking,
            **_loss_options(config),
        )
    return NodePrediction(
        config.label,
        config.split,
        target_type=config.target_type,
        positive=config.positive,
        **_loss_options(config),
    )


def _loss_options(config: RunConfig) -> dict[str, Any]:
    """Return the arguments of a task that concern loss and metrics."""
    loss: Any = config.loss
    if loss == "cross-entropy":
        loss = NAMED_LOSSES[loss](config.label_smoothing)
    elif loss == "focal":
        loss = NAMED_LOSSES[loss](config.focal_gamma)
    weights = {"class_weight": config.class_weight, "loss_weight": config.loss_weight}
    chosen = {n: getattr(config, n) for n in ("metrics", "monitor")}
    return {"loss": loss, **weights, **chosen}


def model_of(config: RunConfig, shard: Shard, spec: LabelSpec | None = None) -> nn.Module:
    """Return the model of a run, with a decoder where its task needs one; collective.

    Args:
        config: Configuration of the run.
        shard: Graph whose features, edge columns and label determine the sizes of the layers.
        spec: Label that the model predicts, for a graph without it. If None, the graph's label.
    """
    task = task_of(config)
    outputs = task.num_outputs(shard) if spec is None else spec.num_outputs
    is_typed = len(shard.node_types) > 1
    of_columns = 0 if is_typed else shard.embedding_channels()
    more_channels = (config.embedding or config.hidden) if is_typed else config.embedding
    model: nn.Module = model_for(
        config.model,
        shard,
        config.label,
        hidden_channels=config.hidden,
        num_layers=config.layers,
        heads=config.heads,
        dropout=config.dropout,
        batch_norm=config.batch_norm,
        norm=config.norm,
        residual=config.residual,
        jumping_knowledge=config.jumping_knowledge,
        alpha=config.alpha,
        theta=config.theta,
        num_bases=config.num_bases,
        weighted=is_weighted(config, shard),
        more_channels=more_channels + of_columns,
        out_channels=outputs if isinstance(task, NodePrediction) else config.hidden,
        seed=config.seed,
    )
    options: Any = {"seed": config.seed, "storage": config.embedding_storage}
    learned = _learned_types(config, shard)
    if is_typed:
        model = TypedInput(shard, more_channels, model, embedding=learned, **options)
    elif config.embedding:
        model = NodeEmbedding(shard, config.embedding, model, **options)
    if of_columns:
        model = ColumnEmbedding(shard, model, seed=config.seed)
    if config.embedding_storage is not None and not any(map(is_sharded, model.parameters())):
        raise ConfigError(
            "--embedding-storage: expected a model with learned vectors, got one without. Add "
            "--embedding, or leave --embedding-storage out."
        )
    if isinstance(task, NodePrediction):
        return model
    column = config.relation_column
    default = "mlp" if config.task == "edge" else "dot" if column is None else "distmult"
    decoder = decoder_for(
        config.decoder or default,
        config.hidden,
        hidden_channels=config.hidden,
        outputs=outputs,
        num_relations=0 if column is None else num_relations(shard, column),
        seed=config.seed,
    )
    return EdgeModel(model, decoder)


def _learned_types(config: RunConfig, shard: Shard) -> Sequence[str]:
    """Return the node types that have learned vectors in addition to their features."""
    if config.embedding_types is None:
        return ()
    if len(shard.node_types) == 1:
        raise ConfigError(
            "--embedding-types: expected a graph of several node types, got one. Use --embedding."
        )
    if config.embedding_types == "all":
        return shard.node_types
    names = [name.strip() for name in config.embedding_types.split(",")]
    for name in names:
        need_name(name, shard.node_types, "node type (--embedding-types)")
    return names


def columns_read(config: RunConfig, shard: Shard) -> dict[str, int]:
    """Return the columns of a graph that the model of a run reads, with their widths.

    That of a column of types is their number; a width of 0 means that there is no column.
    """
    columns, options = shard.manifest.edge_columns, MODELS[config.model].options
    widths = {"node feature": shard.num_features}
    if "edge_dim" in options:
        widths["edge feature"] = shard.edge_dim if "attr" in columns else 0
    if "num_relations" in options:
        widths["edge type"] = shard.manifest.num_edge_types or 0
    if is_weighted(config, shard):
        widths["edge weight"] = int("weight" in columns)
    return widths


def is_weighted(config: RunConfig, shard: Shard) -> bool:
    """Return whether the model of a run multiplies messages by the edge column `weight`.

    Without --weighted, models with symmetric normalisation do if the graph has the column.
    """
    if config.weighted is not None:
        return config.weighted
    return config.model in NORMALISED and "weight" in shard.edge_columns


def _communities(text: str) -> list[int]:
    """Parse the numbers of communities."""
    items = [item.strip() for item in text.split(",")]
    if not all(item.isdecimal() for item in items):
        raise ConfigError(
            f"--only: expected numbers of communities such as 3,7, got '{text}'. Correct it."
        )
    return [int(item) for item in items]
