"""Directory of a run: configuration, label, metrics, events, checkpoints, weights and summary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w
import xxhash

from graphtheta.errors import ConfigError
from graphtheta.runtime.atomic import atomic_file

__all__ = ["CHECKSUM", "RunDirectory", "text_hash"]

CHECKSUM = "# checksum: "  # starts the last line of config.toml


def text_hash(text: str) -> str:
    """Return the hash of a text."""
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


class RunDirectory:
    """Files of one run, which rank 0 writes.

    The directory is created when its first file is written.

    Args:
        path: The directory.
        resume: Whether the directory may hold a run already.

    Attributes:
        path: The directory.
        config: File of the configuration that the run was started with.
        label: File of the label's kind and size, for predictions on graphs without the label.
        metrics: File with a line of JSON for each epoch.
        checkpoints: Directory of the checkpoints.
        weights: File of the weights of the best epoch.

    Raises:
        ConfigError: If the directory holds a run already and `resume` is False, or it is a file.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path, self.checkpoints = path, path / "checkpoints"
        self.config, self.label = path / "config.toml", path / "label.json"
        self.metrics, self.weights = path / "metrics.jsonl", path / "weights.safetensors"
        # A trainer without a command line writes no configuration, but a line for each epoch.
        if (self.holds_run or self.metrics.exists()) and not resume:
            raise ConfigError(
                f"{path}: expected a new directory, got one that holds a run already. Add --resume "
                "to continue the run, or choose another --run-dir."
            )
        if path.exists() and not path.is_dir():
            raise ConfigError(
                f"{path}: expected a directory, got a file. Choose another --run-dir."
            )

    @property
    def holds_run(self) -> bool:
        """Whether a run was started in this directory."""
        return self.config.exists()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.toml`, from which the run can be repeated.

        Raises:
            ConfigError: If the directory cannot be written.
        """
        given = {name: value for name, value in config.items() if value is not None}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.config) as file:
                text = tomli_w.dumps(given)
                file.write_text(f"{text}{CHECKSUM}{text_hash(text)}\n")
        except OSError as error:
            raise ConfigError(
                f"{self.path}: expected a directory to write the run to, got {error.strerror}. "
                "Choose another --run-dir."
            ) from None

    def write_label(self, spec: Mapping[str, Any]) -> None:
        """Write `label.json`."""
        _write_json(self.label, spec)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        _write_json(self.path / "summary.json", summary)

    def truncate_metrics(self, epochs: int) -> None:
        """Remove the lines of epochs that a resumed run will train again."""
        if self.metrics.exists():
            kept = [line for line, epoch in self._lines_of_metrics() if epoch < epochs]
            with atomic_file(self.metrics) as file:
                file.write_text("".join(kept))

    def _lines_of_metrics(self) -> Iterator[tuple[str, int]]:
        """Yield the lines of `metrics.jsonl` with their epochs, without one that was cut off."""
        lines = self.metrics.read_text(errors="replace").splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            if line.endswith("\n"):
                try:
                    yield line, int(json.loads(line)["epoch"])
                except (ValueError, TypeError, KeyError, RecursionError):
                    raise ConfigError(
                        f"{self.metrics}: expected an object with an epoch in line {number}, got "
                        "other content. Remove the line."
                    ) from None

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_file(path) as file:
        file.write_text(json.dumps(value, indent=2) + "\n")
