"""Trainer of a group of workers that joins the run of a parameter service."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from graphtheta.comm.communicator import Communicator
from graphtheta.run.build import check_names, model_of, strategy_of, task_of
from graphtheta.run.open_graph import open_graph
from graphtheta.run.resolve import resolve_group
from graphtheta.train.elastic.source import ParameterSource
from graphtheta.train.trainer import Trainer

__all__ = ["join_run"]


def join_run(
    source: ParameterSource,
    options: Mapping[str, Any],
    comm: Communicator,
    *,
    progress: bool | Literal["lines"] = False,
) -> Trainer:
    """Return the trainer of a group, ready to `fit`; collective.

    Args:
        source: The parameter service, which the first worker asks for the configuration.
        options: Options of the run that were given, by field name: where and what the group
            computes on.
        comm: The workers of the group.
        progress: How rank 0 shows progress, as for `ProgressBar`.

    Raises:
        ConfigError: If an option is that of the service, or invalid.
        EngineError: If the service does not answer, or wrongly.
        StoreError: If the store is damaged.
    """
    text = json.dumps(dict(source.terms().config)) if comm.rank == 0 else ""
    received = json.loads(comm.broadcast_text(text, stage="configuration of the service"))
    config = resolve_group(received, options)
    check_names(config)
    shard = open_graph(config, config.input, comm, config.device)
    return Trainer(
        model_of(config, shard),
        shard,
        task=task_of(config),
        strategy=strategy_of(config),
        precision=config.precision,
        seed=config.seed,
        parameters=source,
        progress=progress,
    )
