"""Directory of a run: configuration, label, metrics, events, checkpoints, weights and summary."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import tomli_w
import xxhash

from graphtheta.errors import ConfigError
from graphtheta.runtime.atomic import atomic_file, disk_errors, lock_folder, sync

__all__ = ["CHECKSUM", "RunDirectory", "text_hash"]

_log = logging.getLogger(__name__)

CHECKSUM = "# checksum: "  # starts the last line of config.toml


def text_hash(text: str) -> str:
    """Return the hash of a text."""
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


class RunDirectory:
    """Files of one run, which rank 0 writes.

    The directory is created when it is locked, or when its first file is written.

    Args:
        path: The directory.
        resume: Whether the directory may hold a run already.

    Attributes:
        path: The directory.
        config: File of the configuration that the run was started with.
        label: File of the label's kind and size, for predictions on graphs without the label.
        recipe: File of the encodings of the graph's columns, to partition other graphs alike.
        metrics: File with a line of JSON for each epoch.
        checkpoints: Directory of the checkpoints.
        weights: File of the weights of the best epoch.
        summary: File of the summary, with the hash of `weights`.
        service: File with the address of the parameter service that trains the run now.
        report: File of the confusion matrices and the calibration of the best epoch.

    Raises:
        ConfigError: If the directory holds a run already and `resume` is False, or it is a file.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path, self.checkpoints = path, path / "checkpoints"
        self.config, self.label = path / "config.toml", path / "label.json"
        self.metrics, self.weights = path / "metrics.jsonl", path / "weights.safetensors"
        self.summary, self.recipe = path / "summary.json", path / "recipe.json"
        self.report = path / "report.json"
        self.service = path / "service.json"
        self._resume = resume
        self._lock: ExitStack | None = None
        self._refuse_other_run()
        if path.exists() and not path.is_dir():
            raise ConfigError(
                f"{path}: expected a directory, got a file. Choose another --run-dir."
            )

    def _refuse_other_run(self) -> None:
        # A run that was refused or killed before its first epoch has nothing to lose.
        if self.holds_progress and not self._resume:
            raise ConfigError(
                f"{self.path}: expected a new directory, got one that holds a run already. Add "
                "--resume to continue the run, or choose another --run-dir."
            )

    def lock(self) -> None:
        """Lock the directory until `unlock`; nothing if this object has locked it already.

        Raises:
            ConfigError: If another run is in progress in the directory, or has been there since
                this object was made, or the directory cannot be written.
        """
        if self._lock is not None:
            return
        with self.writing(), ExitStack() as lock:
            lock.enter_context(lock_folder(self.path, self.path, ConfigError))
            self._refuse_other_run()
            self._resume = True  # what it holds from now on is this run
            self._lock = lock.pop_all()

    def unlock(self) -> None:
        """Unlock the directory, if this object has locked it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context that locks the directory, unless this object has locked it already."""
        is_mine = self._lock is not None
        self.lock()
        try:
            yield
        finally:
            if not is_mine:
                self.unlock()

    @contextmanager
    def writing(self, what: str = "the run") -> Iterator[None]:
        """Convert an OSError of the block, which writes to the directory, into a ConfigError."""
        with disk_errors(self.path, what, ConfigError):
            yield

    @property
    def holds_run(self) -> bool:
        """Whether a run was started in this directory."""
        return self.config.exists()

    @property
    def holds_progress(self) -> bool:
        """Whether the directory holds epochs, a checkpoint or weights of a run."""
        has_epochs = self.metrics.exists() and self.metrics.stat().st_size > 0
        has_checkpoint = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return has_epochs or has_checkpoint or self.weights.exists()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.toml`, from which the run can be repeated.

        Raises:
            ConfigError: If the directory cannot be written.
        """
        given = {name: value for name, value in config.items() if value is not None}
        text = tomli_w.dumps(given)
        self._write(self.config, f"{text}{CHECKSUM}{text_hash(text)}\n")

    def write_label(self, spec: Mapping[str, Any]) -> None:
        """Write `label.json`: what the model predicts, and the columns that it reads."""
        self._write(self.label, json.dumps(spec, indent=2) + "\n")

    def write_recipe(self, text: str) -> None:
        """Write `recipe.json`."""
        self._write(self.recipe, text)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        self._write(self.summary, json.dumps(summary, indent=2) + "\n")

    def write_report(self, report: Mapping[str, Any]) -> None:
        """Write `report.json`."""
        self._write(self.report, json.dumps(report) + "\n")

    def remove_summary(self) -> None:
        """Delete `summary.json`, which has the hash of the weights, before others are written."""
        with self.writing(self.summary.name):
            self.summary.unlink(missing_ok=True)

    def truncate_metrics(self, epochs: int) -> None:
        """Remove the lines of epochs that a resumed run will train again, and damaged lines.

        A warning names each damaged line, except for a last one that was cut off by a kill.
        """
        if self.metrics.exists():
            kept = [line for line, epoch in self._lines_of_metrics() if epoch < epochs]
            self._write(self.metrics, "".join(kept))

    def _lines_of_metrics(self) -> Iterator[tuple[str, int]]:
        """Yield the whole lines of `metrics.jsonl` with their epochs, which are counted from 0."""
        with self.writing("metrics"):
            text = self.metrics.read_bytes().decode(errors="replace")
        *lines, _cut_off = text.split("\n")
        for number, line in enumerate(lines, start=1):
            try:
                epoch = int(json.loads(line)["epoch"])
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                _log.warning(
                    "%s: expected an object with an epoch in line %d, got other content. The line "
                    "is left out.",
                    *(self.metrics, number),
                )
            else:
                yield f"{line}\n", epoch

    def last_metrics(self) -> dict[str, Any]:
        """Return the last line of `metrics.jsonl`; empty if there is none."""
        lines = [line for line, _ in self._lines_of_metrics()] if self.metrics.exists() else []
        return dict(json.loads(lines[-1])) if lines else {}

    def write_service(self, address: str | None) -> None:
        """Write the address of the service that trains the run; None when it stops."""
        if address is not None:
            self._write(self.service, json.dumps({"address": address}) + "\n")
        else:
            self.service.unlink(missing_ok=True)

    def service_address(self) -> str:
        """Return the address of the service that trains the run; empty if there is none."""
        try:
            return str(json.loads(self.service.read_text())["address"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        with self.writing("metrics"):
            self.path.mkdir(parents=True, exist_ok=True)
            with self.metrics.open("a") as file:
                file.write(json.dumps(record) + "\n")

    def sync_metrics(self) -> None:
        """Write the lines so far through to the disk, so that no checkpoint is ahead of them."""
        if self.metrics.exists():
            with self.writing("metrics"):
                sync(self.metrics)

    def _write(self, path: Path, text: str) -> None:
        with self.writing(path.name):
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write_text(text)
