"""Record of a trial, in its folder: the search is continued from these files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from graphtheta.errors import ConfigError
from graphtheta.runtime.atomic import atomic_file, disk_errors

__all__ = ["State", "Trial", "best_trial", "read_trials", "trial_folder", "write_trial"]

State = Literal["running", "complete", "pruned", "failed"]
_FILE = "trial.json"


class Trial(BaseModel):
    """Record of a trial.

    Attributes:
        number: Number of the trial, counted from 0.
        state: running until its training has ended; complete, pruned (stopped early) or failed.
        params: Values of the options that are searched.
        monitor: What is optimised, such as `val_accuracy`; empty before it is known.
        higher_is_better: Whether it is maximised.
        value: Its value in the best epoch; of a pruned trial that of its last evaluation.
        reports: Its value in each evaluated epoch.
        attributes: What the pruner keeps of the trial.
        error: Why the trial failed.
    """

    number: int
    state: State = "running"
    params: dict[str, Any]
    monitor: str = ""
    higher_is_better: bool = True
    value: float | None = None
    reports: dict[int, float] = {}
    attributes: dict[str, Any] = {}
    error: str = ""


def trial_folder(sweep: Path, number: int) -> Path:
    """Return the folder of a trial's run."""
    return sweep / f"trial-{number:03d}"


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the best of the complete trials, or else of the pruned ones, of which there is one."""
    complete = [trial for trial in trials if trial.state == "complete"]
    others = [trial for trial in trials if trial.state == "pruned"]
    sign = {True: 1, False: -1}
    return max(complete or others, key=lambda t: sign[t.higher_is_better] * (t.value or 0.0))


def write_trial(sweep: Path, trial: Trial) -> None:
    """Write the record of a trial to its folder."""
    path = trial_folder(sweep, trial.number) / _FILE
    with disk_errors(path, "the trial", ConfigError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            file.write_text(json.dumps(trial.model_dump()) + "\n")


def read_trials(sweep: Path) -> list[Trial]:
    """Return the records of all trials of a sweep, by their numbers.

    Raises:
        ConfigError: If a record is damaged, or is in the folder of another trial.
    """
    return sorted(_trials(sweep), key=lambda trial: trial.number)


def _trials(sweep: Path) -> Iterator[Trial]:
    for path in sweep.glob(f"trial-*/{_FILE}"):
        try:
            trial = Trial.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            trial = None
        if trial is None or trial_folder(sweep, trial.number) != path.parent:
            raise ConfigError(
                f"{path}: expected the record of this trial, got other content. Remove the folder "
                "of the trial to try its number again."
            )
        yield trial
