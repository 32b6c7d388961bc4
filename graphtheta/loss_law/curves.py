"""Loss curves of training runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graphtheta.errors import ConfigError

__all__ = ["LossCurve", "read_curve"]


@dataclass(frozen=True)
class LossCurve:
    """Learning rate and loss of each epoch of a run.

    Attributes:
        name: Name in messages, such as the directory of the run.
        lr: (T,) float64, learning rates.
        loss: (T,) float64, losses; NaN where an epoch has none.
    """

    name: str
    lr: NDArray[np.float64]
    loss: NDArray[np.float64]


def read_curve(run: Path, column: str = "loss") -> LossCurve:
    """Read the loss curve of a run from its `metrics.jsonl`.

    Args:
        run: Directory of the run.
        column: Loss to read: `loss`, which is the training loss with dropout on, or one that the
            run evaluated, such as `val_loss`.

    Raises:
        ConfigError: If the run has no metrics, a line is damaged, or the learning rate or the
            column is missing, or if the column is not a loss.
    """
    if not column.endswith("loss"):
        raise ConfigError(
            f"--loss: expected loss or one such as val_loss, got '{column}'. Choose a loss."
        )
    path = run / "metrics.jsonl"
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are no text"
        raise ConfigError(
            f"{path}: expected the metrics of a run, got {reason}. Give the --run-dir of a run."
        ) from None
    lr, loss = [], []
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            epoch, rate = record["epoch"], float(record["lr"])
            value = float(record.get(column, "nan"))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            found = f"no {error}" if isinstance(error, KeyError) else "other content"
            raise ConfigError(
                f"{path}: expected an epoch and its lr in line {number + 1}, got {found}. Train "
                "the run again."
            ) from None
        if epoch != number or not 0 <= rate < float("inf"):
            raise ConfigError(
                f"{path}: expected epoch {number} and its lr in line {number + 1}, got epoch "
                f"{epoch} and lr {rate}. Train the run again."
            )
        lr.append(rate)
        loss.append(value)
    if not np.isfinite(loss).any():
        names = {key for line in lines for key in json.loads(line) if key.endswith("loss")}
        raise ConfigError(
            f"{path}: expected values of '{column}', got none. "
            + (f"Choose one of: {', '.join(sorted(names))}." if names else "Train the run first.")
        )
    return LossCurve(str(run), np.array(lr), np.array(loss))
