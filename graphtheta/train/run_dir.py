"""The folder of a run: config.toml, metrics.jsonl, events, checkpoints, weights, summary.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from graphtheta.errors import ConfigError

__all__ = ["RunDirectory"]


class RunDirectory:
    """Files of one run; only rank 0 writes them.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        """Create the folder, or open it to resume.

        Raises:
            ConfigError: If it holds a run already and `resume` is not set, or the other way round.
        """
        self.path = path
        holds_run = (path / "config.toml").exists()
        if holds_run and not resume:
            raise ConfigError(
                f"{path}: it holds a run already. Add --resume to continue it, or choose another "
                "--run-dir."
            )
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{path}: expected a folder, got a file. Choose another --run-dir.")
        path.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        """Weights of the best epoch."""
        return self.path / "weights.safetensors"

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write `config.toml`, by which the run can be repeated."""
        given = {name: value for name, value in config.items() if value is not None}
        _write_whole(self.path / "config.toml", tomli_w.dumps(given))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`."""
        _write_whole(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def truncate_metrics(self, epochs: int) -> None:
        """Drop lines of epochs that a resumed run will train again."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [
                line
                for line in path.read_text().splitlines(keepends=True)
                if line.endswith("\n") and json.loads(line)["epoch"] < epochs
            ]
            _write_whole(path, "".join(kept))

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(record) + "\n")


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
