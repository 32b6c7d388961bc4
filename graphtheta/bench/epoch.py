"""How long a training epoch takes, what its stages take, and how much memory it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graphtheta.bench.executors import chunked_layers, executors, refuse_chunked
from graphtheta.bench.memory import forget_peak, peak_bytes, release_memory, resident_bytes
from graphtheta.bench.record import Record, new_record
from graphtheta.comm.timers import StageTimers
from graphtheta.nn import Stack, model_for
from graphtheta.shard.shard import Shard
from graphtheta.train.trainer import Trainer

__all__ = ["ModelOptions", "epoch_record"]


@dataclass(frozen=True)
class ModelOptions:
    """A model by name and size; as for `graphtheta train`."""

    model: str = "gcn"
    hidden: int = 16
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0

    def build(self, shard: Shard, label: str) -> Stack:
        """Return the model for a graph."""
        return model_for(
            self.model,
            shard,
            label,
            hidden_channels=self.hidden,
            num_layers=self.layers,
            heads=self.heads,
            dropout=self.dropout,
        )


def epoch_record(
    shard: Shard,
    graph: Mapping[str, Any],
    options: ModelOptions,
    *,
    threads: int,
    label: str | None = None,
    split: str | None = None,
    runs: int = 7,
    warmup: int = 2,
    allow_chunked: bool = True,
) -> Record:
    """Train some epochs of global batches, without evaluation, and return what they took.

    Args:
        shard: This worker's.
        graph: What the case says of it.
        options: The model.
        threads: Of each worker.
        label: What is learned; the only one, or "y", if None.
        split: Which split; the only one, or "split", if None.
        runs: Epochs that count.
        warmup: Epochs before them, at least 1.
        allow_chunked: Whether layers may run by the chunked executor.

    Returns:
        A record; `stages` are seconds an epoch, the largest over workers; `peak_bytes` is the most
        that any worker held while training, `epoch_bytes` what of it came after features and edge
        columns were in memory, the topology among it; `bytes_sent` is what all workers sent in an
        epoch.

    Raises:
        ConfigError: If the model does not fit the graph, or a layer ran chunked and may not.

    Communication:
        That of training.
    """
    comm = shard.comm
    model = options.build(shard, label or shard.default_label)
    never = warmup + runs + 1
    trainer = Trainer(model, shard, label=label, split=split, evaluate_every=never)
    _touch(shard)
    release_memory()
    at_start = resident_bytes()
    sent_before = trainer.fit(warmup)["bytes_sent"]
    if not allow_chunked:
        refuse_chunked(model)
    forget_peak()
    trainer.stages = StageTimers()
    summary = trainer.fit(warmup + runs)
    peak = peak_bytes()
    return new_record(
        "epoch",
        {**asdict(options), **graph, "threads": threads, "workers": comm.size},
        trainer.history.epoch_seconds[-runs:],
        stages={name: spent / runs for name, spent in summary["phase_seconds"].items()},
        peak_bytes=int(comm.all_gather_int(peak, stage="bench: peak").max()),
        epoch_bytes=int(comm.all_gather_int(peak - at_start, stage="bench: epoch").max()),
        bytes_sent=(summary["bytes_sent"] - sent_before) // runs,
        executors=executors(model),
        chunked=chunked_layers(model),
        final_loss=trainer.history.loss[-1],
    )


def _touch(shard: Shard) -> None:
    """Bring features and edge columns, which may be mapped from a store, into memory."""
    for column in (shard.features, *shard.edge_columns.values()):
        column.sum()
