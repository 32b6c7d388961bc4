"""Table of metrics as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from graphtheta.errors import ConfigError
from graphtheta.runtime.atomic import atomic_file, disk_errors

__all__ = ["CSVLogger"]


class CSVLogger:
    """Logger that writes a CSV file with a row for each epoch.

    Rows of a file that exists already are kept if they are of earlier epochs.

    Args:
        path: The file.

    Raises:
        ConfigError: If the file cannot be read or written.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._columns: list[str] | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        with disk_errors(self._path, "metrics", ConfigError):
            if self._columns is None or not self._columns_of(metrics) <= {*self._columns}:
                self._write_again(metrics, step)
            assert self._columns is not None
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerow({"step": step, **metrics})

    @staticmethod
    def _columns_of(metrics: Mapping[str, float]) -> set[str]:
        return {"step", *metrics}

    def _write_again(self, metrics: Mapping[str, float], step: int) -> None:
        """Write the rows before a step, with the columns of its metrics in addition to theirs."""
        rows = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if self._is_before(row, step)]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        columns = dict.fromkeys([*(rows[0] if rows else ("step",)), *metrics])
        self._columns = list(columns)
        with atomic_file(self._path) as partial, partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)

    def _is_before(self, row: Mapping[str, str], step: int) -> bool:
        text = row.get("step") or ""
        if not text.isdecimal() or None in row:
            raise ConfigError(
                f"{self._path}: expected a table of metrics with a column 'step', got another "
                "file. Choose another path."
            )
        return int(text) < step
