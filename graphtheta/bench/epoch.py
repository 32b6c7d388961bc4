"""Time and memory of a training epoch and its stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graphtheta.bench.executors import chunked_layers, executors, require_fused
from graphtheta.bench.memory import peak_bytes, release_memory, reset_peak, resident_bytes
from graphtheta.bench.record import Record, new_record
from graphtheta.nn import model_for
from graphtheta.nn.stack import Model
from graphtheta.shard.shard import Shard
from graphtheta.shard.sparse_rows import is_sparse_rows
from graphtheta.train.trainer import Trainer

__all__ = ["ModelOptions", "epoch_record"]


@dataclass(frozen=True)
class ModelOptions:
    """Name and sizes of a model, as for `graphtheta train`."""

    model: str = "gcn"
    hidden: int = 16
    layers: int = 2
    heads: int = 4
    dropout: float = 0.0

    def build(self, shard: Shard, label: str) -> Model:
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
    """Train for some epochs of global batches, without evaluation, and return their record.

    Args:
        shard: Shard of this worker.
        graph: Fields of the case that describe the graph.
        options: The model.
        threads: Threads per worker.
        label: Label to predict. If None, the only one, or "y".
        split: Split to train on. If None, the only one, or "split".
        runs: Number of timed epochs.
        warmup: Number of epochs before them, at least 1.
        allow_chunked: Whether layers may run on the chunked executor.

    Returns:
        A record. `stages` holds seconds per epoch, the largest over workers. `peak_bytes` is the
        largest resident memory of a worker while it trains, and `epoch_bytes` the part of it that
        was allocated after features and edge columns were read, which includes the topology.
        `bytes_sent` is the total over workers per epoch.

    Raises:
        ConfigError: If the model does not fit the graph, or a layer ran on the chunked executor
            and `allow_chunked` is false.

    Communication:
        As for training.
    """
    comm = shard.comm
    model = options.build(shard, label or shard.default_label)
    never = warmup + runs + 1  # epochs without evaluation
    trainer = Trainer(model, shard, label=label, split=split, evaluate_every=never)
    dense = [] if is_sparse_rows(shard.features) else [shard.features]
    for column in (*dense, *shard.edge_columns.values()):
        column.sum()  # reads it into memory, if it is memory-mapped
    release_memory()
    at_start = resident_bytes()
    sent_before = trainer.fit(warmup)["bytes_sent"]
    if not allow_chunked:
        require_fused(model)
    reset_peak()
    trainer.stages.reset()
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
