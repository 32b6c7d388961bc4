"""Summary of a run: metrics, times, sizes and versions."""

from __future__ import annotations

import resource
from typing import Any

import numpy as np
import torch

from graphtheta.comm.communicator import Communicator
from graphtheta.comm.groups import Groups
from graphtheta.comm.timers import StageTimers
from graphtheta.runtime.versions import installed_versions
from graphtheta.shard.shard import Shard
from graphtheta.task.metrics import MainMetric
from graphtheta.train.history import History

__all__ = ["summarise"]

_OF_STORE = {"num_nodes", "num_edges", "num_parts", "method", "cut", "quality"}
_PACKAGES = ("graphtheta", "torch", "numpy", "numba", "pyarrow", "mpi4py")


def summarise(
    *,
    history: History,
    metric: MainMetric,
    stages: StageTimers,
    shard: Shard,
    groups: Groups,
    micro_batches: list[int],
    seed: int,
) -> dict[str, Any]:
    """Return the contents of `summary.json`; collective.

    Args:
        history: History of the run.
        metric: Metric of the best epoch.
        stages: Stage timers of this worker.
        shard: Graph that the model was trained on.
        groups: All workers.
        micro_batches: Number of micro-batches that each group has computed.
        seed: Random seed of the run.

    Units:
        Times are in seconds, sizes in bytes. `best_epoch` counts epochs from 0, as the lines of
        `metrics.jsonl` do. `epoch_seconds` is training without evaluation.
        `phase_seconds` and `prepared_ahead_seconds` are summed over the epochs that this process
        trained, and the largest of all workers. The latter is the time of preparation in the
        background, of which steps waited for the phase `forward prepare`. `bytes_sent` is the sum
        over workers.
    """
    comm = groups.world
    names = _names(stages, comm)
    seconds = np.array([stages.seconds.get(name, 0.0) for name in names])
    comm.all_reduce(seconds, "max", stage="summary times")
    ahead = np.array([stages.ahead])
    comm.all_reduce(ahead, "max", stage="summary times")
    peak = np.array([resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024], np.int64)
    comm.all_reduce(peak, "max", stage="summary memory")
    mine = sum(comm.bytes_sent for comm in {groups.world, groups.comm, groups.across})
    sent = comm.all_gather_int(mine, stage="summary bytes").sum()
    times = np.array(history.epoch_seconds) if history.epoch_seconds else np.zeros(1)
    return {
        **history.best,
        "best_epoch": history.best_epoch if history.best_epoch >= 0 else len(history.loss) - 1,
        "epochs": len(history.loss),
        "stop_reason": history.stop_reason,
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "loss_history": list(history.loss),
        "epoch_seconds": {
            "median": float(np.median(times)),
            "p10": float(np.percentile(times, 10)),
            "p90": float(np.percentile(times, 90)),
        },
        "phase_seconds": dict(zip(names, seconds.tolist(), strict=True)),
        "prepared_ahead_seconds": float(ahead[0]),
        "bytes_sent": int(sent),
        "bytes_sent_by_stage": dict(stages.bytes_sent),
        "peak_rss_bytes": int(peak[0]),
        "workers": comm.size,
        "groups": groups.number,
        "micro_batches_by_group": micro_batches,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "store_checksum": shard.manifest.checksum,
        "store": shard.manifest.model_dump(mode="json", include=_OF_STORE),
        "versions": installed_versions(_PACKAGES),
    }


def _names(stages: StageTimers, comm: Communicator) -> list[str]:
    """Return the names of all workers' stages: those of a group without a batch are fewer."""
    text = np.frombuffer("\n".join(stages.seconds).encode(), np.uint8)
    found = comm.all_gather(text, stage="summary stages")
    return sorted({name for text in found for name in text.tobytes().decode().split("\n")} - {""})
