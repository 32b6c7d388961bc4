"""What the folder of a run holds, read with leniency: whatever is missing is listed, not refused.

Never imports torch.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from graphtheta.errors import ConfigError, GraphThetaError
from graphtheta.partition import open_store
from graphtheta.partition.store.quality import Quality
from graphtheta.train.run_dir import RunDirectory
from graphtheta.wording import counted

__all__ = [
    "Calibration",
    "Predictions",
    "RecordedRun",
    "SplitPredictions",
    "StoreFacts",
    "Summary",
    "read_runs",
]

_LOWER_IS_BETTER = {"loss", "rmse", "mse", "mae", "brier", "ece"}
_STOPS = {
    "epochs": "all epochs trained",
    "patience": "no better epoch (patience)",
    "callback": "stopped by a callback",
    "signal": "stopped by a signal",
}


class StoreFacts(BaseModel):
    """Store that a run was trained on, as far as its summary describes it."""

    num_nodes: int
    num_edges: int
    num_parts: int
    method: str
    cut: str
    quality: Quality


class Summary(BaseModel):
    """Fields of `summary.json` that are shown; its metrics of the best epoch are extra fields."""

    model_config = ConfigDict(extra="allow")

    metric: str
    higher_is_better: bool | None = None
    best_epoch: int
    epochs: int
    stop_reason: str = ""
    phase_seconds: dict[str, float] = {}
    bytes_sent: int = 0
    bytes_sent_by_stage: dict[str, int] = {}
    peak_rss_bytes: int | None = None
    workers: int = 1
    threads: int | None = None
    store_checksum: str = ""
    store: StoreFacts | None = None
    versions: dict[str, str] = {}


class Calibration(BaseModel):
    """Targets of one bin of predicted probabilities."""

    count: int
    mean_probability: float | None
    positive_share: float | None


class SplitPredictions(BaseModel):
    """Predictions of one split: a confusion matrix, or one of 2 x 2 for each label of several."""

    rows: int
    confusion: list[list[int]] | list[list[list[int]]] | None = None
    confusion_at_threshold: list[list[int]] | None = None
    calibration: list[Calibration] = []


class Predictions(BaseModel):
    """Content of `report.json`."""

    kind: str
    classes: list[str] | None = None
    positive: str | int | None = None
    threshold: float | None = None
    splits: dict[str, SplitPredictions]

    @property
    def split(self) -> str:
        """Split to show: the test split, or else validation; empty if there is none."""
        return next((name for name in ("test", "val") if name in self.splits), "")


@dataclass(frozen=True)
class RecordedRun:
    """What the folder of a run holds.

    Attributes:
        path: The folder, as the user gave it.
        name: Short name that is unique among the runs that were read together.
        config: Options of the run by name; empty if there is no `config.toml`.
        records: Lines of `metrics.jsonl`, one for each epoch.
        summary: Summary of a finished run.
        predictions: Confusion matrices and calibration of a finished run.
        store: Store that the run was trained on, from the summary or, before that, from the store.
        missing: Sentences about what the folder lacks.
    """

    path: Path
    name: str
    config: dict[str, Any]
    records: list[dict[str, float]]
    summary: Summary | None
    predictions: Predictions | None
    store: StoreFacts | None
    missing: list[str] = field(default_factory=list)

    @cached_property
    def metric(self) -> str:
        """Metric that chooses the best epoch; empty if no epoch was evaluated on validation.

        Before a run has finished, it is the option `monitor` or the first validation metric.
        """
        if self.summary is not None:
            return self.summary.metric
        found = [name for r in self.records for name in r if name.startswith("val_")]
        chosen = str(self.config.get("monitor", "")).removeprefix("val_")
        others = [name for name in found if name != "val_loss"]
        return chosen or next(iter(others or found), "").removeprefix("val_")

    @property
    def higher_is_better(self) -> bool:
        """Whether a higher value of `metric` is better."""
        known = None if self.summary is None else self.summary.higher_is_better
        return self.metric not in _LOWER_IS_BETTER if known is None else known

    @cached_property
    def best_epoch(self) -> int | None:
        """Best epoch so far, counted from 0; None if no epoch was evaluated on validation."""
        key = f"val_{self.metric}"
        if self.summary is not None:
            return self.summary.best_epoch if key in (self.summary.model_extra or {}) else None
        epochs, values = self.curve(key)
        sign = 1 if self.higher_is_better else -1
        finite = [(sign * v, -e) for e, v in zip(epochs, values, strict=True) if math.isfinite(v)]
        return -max(finite)[1] if finite else None

    @cached_property
    def best(self) -> dict[str, float]:
        """Metrics of the best epoch, or of the last evaluation if there is no best one."""
        if self.summary is not None:
            extra = self.summary.model_extra or {}
            return {name: value for name, value in extra.items() if _is_of_split(name, value)}
        epoch = self.best_epoch
        found = [r for r in self.records if epoch is None or r["epoch"] == epoch]
        last = found[-1] if found else {}
        return {name: value for name, value in last.items() if _is_of_split(name, value)}

    @property
    def epochs(self) -> int:
        """Number of trained epochs."""
        return len(self.records) if self.summary is None else self.summary.epochs

    @property
    def seconds(self) -> float:
        """Time of training in seconds, without evaluation."""
        return sum(record.get("seconds", 0.0) for record in self.records)

    @property
    def stop(self) -> str:
        """Why the run ended, or how far it is."""
        if self.summary is None:
            planned = self.config.get("epochs")
            return f"not finished: {self.epochs}{f' of {planned}' if planned else ''} epochs"
        return _STOPS.get(self.summary.stop_reason, self.summary.stop_reason or "finished")

    def curve(self, name: str) -> tuple[list[int], list[float]]:
        """Return the epochs that have a number of this name, and the numbers."""
        found = [(int(record["epoch"]), record[name]) for record in self.records if name in record]
        return [epoch for epoch, _ in found], [value for _, value in found]


def read_runs(folders: Sequence[Path]) -> list[RecordedRun]:
    """Read the folders of runs; a folder that is given twice is read once.

    A folder that is not that of a run, such as one of a sweep, means all runs in it.

    Raises:
        ConfigError: If a folder does not exist or holds no run.
    """
    found = [run for folder in folders for run in _folders_of_runs(folder)]
    unique = list({folder.resolve(): folder for folder in found}.values())
    return [_read(folder, name) for folder, name in zip(unique, _names(unique), strict=True)]


def _names(folders: Sequence[Path]) -> list[str]:
    """Return short names: relative to the folder that all of them are in."""
    whole = [folder.resolve() for folder in folders]
    above = os.path.commonpath([path.parent for path in whole])
    return [str(path.relative_to(above)) for path in whole]


def _folders_of_runs(folder: Path) -> list[Path]:
    if _holds_run(folder):
        return [folder]
    inner = [path for path in sorted(folder.glob("*/")) if _holds_run(path)]
    if not inner:
        found = "a folder without one" if folder.is_dir() else "no such folder"
        raise ConfigError(
            f"{folder}: expected the folder of a run, with metrics.jsonl, or of several, got "
            f"{found}. Give the --run-dir of graphtheta train."
        )
    return inner


def _holds_run(folder: Path) -> bool:
    files = RunDirectory(folder, resume=True)
    return any(file.exists() for file in (files.config, files.metrics, files.summary))


def _read(folder: Path, name: str) -> RecordedRun:
    files = RunDirectory(folder, resume=True)
    missing: list[str] = []
    config = _read_config(files.config, missing)
    records = _read_records(files.metrics, missing)
    summary = _read_json(files.summary, Summary, missing, "the run has not finished")
    why = "the run has not finished" if summary is None else "its task has no classes to count"
    predictions = _read_json(files.report, Predictions, missing, why)
    store = _store_of(config, summary, missing)
    if records and not any(name.startswith("val_") for record in records for name in record):
        missing.append("no evaluation of a validation split, so that there is no best epoch")
    return RecordedRun(folder, name, config, records, summary, predictions, store, missing)


def _store_of(
    config: dict[str, Any], summary: Summary | None, missing: list[str]
) -> StoreFacts | None:
    if summary is not None and summary.store is not None:
        return summary.store
    source = config.get("input")
    if not isinstance(source, str) or not (Path(source) / "manifest.json").exists():
        missing.append("no description of the store: it is in the summary, or is found as INPUT")
        return None
    try:
        manifest = open_store(source, parts=()).manifest
    except GraphThetaError as error:
        missing.append(f"no description of the store: {error}")
        return None
    if summary is not None and summary.store_checksum not in ("", manifest.checksum):
        missing.append(f"no description of the store: {source} has been made again since the run")
        return None
    return StoreFacts.model_validate(manifest.model_dump())


def _read_config(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        missing.append(f"no {path.name}: a Trainer in Python has started the run")
    except (OSError, ValueError, RecursionError) as error:
        missing.append(f"{path.name} cannot be read: {error}")
    return {}


def _read_records(path: Path, missing: list[str]) -> list[dict[str, float]]:
    try:
        lines = path.read_bytes().decode(errors="replace").splitlines()
    except OSError:
        missing.append(f"no {path.name}: no epoch has finished")
        return []
    found: dict[int, dict[str, float]] = {}
    damaged = 0
    for number, line in enumerate(lines):
        try:
            record = json.loads(line)
            epoch = int(record["epoch"])
            numbers = {name: float(v) for name, v in record.items() if _is_number(v)}
            found[epoch] = numbers | {"epoch": epoch}
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            damaged += number < len(lines) - 1  # the last line may be in the middle of a write
    if damaged:
        missing.append(f"{counted(damaged, 'damaged line')} of {path.name} left out")
    return [found[epoch] for epoch in sorted(found)]


_Model = TypeVar("_Model", bound=BaseModel)


def _read_json(path: Path, model: type[_Model], missing: list[str], why: str) -> _Model | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        missing.append(f"no {path.name}: {why}")
    except OSError as error:
        missing.append(f"{path.name} cannot be read: {error.strerror}")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        missing.append(f"{path.name} is damaged: {where or 'content'}: {first['msg']}")
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_of_split(name: str, value: object) -> bool:
    return name.startswith(("train_", "val_", "test_")) and _is_number(value)
