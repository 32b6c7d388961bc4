"""Sizes of the splits and classes of a store, counted from the columns of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.types import qualified
from graphtheta.partition.store.files import open_table
from graphtheta.partition.store.manifest import LabelSpec, NodeTypeSpec, RelationSpec
from graphtheta.partition.store.store import Store, part_folder
from graphtheta.partition.store.tables import column_numpy, column_valid

__all__ = ["LabelCounts", "count_labels"]

_SPLITS = ("none", "train", "val", "test")
_MAX_SHOWN = 12  # classes


@dataclass(slots=True)
class LabelCounts:
    """Counts of the labels and splits of all nodes, or of all edges.

    Attributes:
        labels: Labels by name.
        classes: For each label, the number of rows of each class; empty for other labels than
            classes.
        missing: For each label, the number of rows without it.
        splits: For each split, the number of rows by value: none, train, validation, test.
        labelled: For each split and label, the same for the rows with the label.

    Shape:
        classes: (C,) int64 each. splits, labelled: (4,) int64 each.
    """

    labels: dict[str, LabelSpec]
    classes: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    splits: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    labelled: dict[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)

    def add(self, table: pa.Table, owner: str, num_owners: int) -> None:
        """Count the rows of one part and of one node type or relation, the `owner`."""

        def of_kind(prefix: str) -> dict[str, str]:
            columns = [name for name in table.column_names if name.startswith(prefix)]
            return {
                qualified(owner, column.removeprefix(prefix), num_owners): column
                for column in columns
            }

        labels = of_kind("label:")
        valid = {name: column_valid(table, column) for name, column in labels.items()}
        for name, column in labels.items():
            spec, known = self.labels[name], valid[name]
            self.missing[name] += 0 if known is None else int((~known).sum())
            if spec.task in ("multiclass", "binary"):
                values = column_numpy(table, column).astype(np.int64)
                values = values if known is None else values[known]
                found = np.bincount(values.clip(0, spec.num_classes), minlength=spec.num_classes)
                self.classes[name] += found[: spec.num_classes]
        for split, column in of_kind("split:").items():
            values = column_numpy(table, column) & 3
            self.splits[split] += np.bincount(values, minlength=len(_SPLITS))
            for name, known in valid.items():
                found = np.bincount(values if known is None else values[known], minlength=4)
                self.labelled[split, name] += found

    def rows(self, prefix: str = "") -> list[tuple[str, str]]:
        """Return (name, value) rows of text."""
        rows = []
        for name in self.labels:
            missing = f"; {self.missing[name]:,} missing" if self.missing[name] else ""
            if name in self.classes:
                rows.append(
                    (
                        f"{prefix}classes of {name}",
                        _sizes(self.classes[name], self.labels[name].classes) + missing,
                    )
                )
            elif missing:
                rows.append((f"{prefix}label {name}", missing.removeprefix("; ")))
        for split, counts in self.splits.items():
            text = _by_split(counts)
            for name in self._labels_of(split):
                if (self.labelled[split, name][1:] != counts[1:]).any():
                    text += f"; with label {name}: {_by_split(self.labelled[split, name])}"
            rows.append((f"{prefix}split {split}", text))
        return rows

    def _labels_of(self, split: str) -> list[str]:
        """Return the labels of the same node type or relation as a split."""
        return [name for name in self.labels if (split, name) in self.labelled]

    def as_json(self) -> dict[str, Any]:
        """Return all counts as a dict of numbers and lists."""
        return {
            "classes": {name: counts.tolist() for name, counts in self.classes.items()},
            "missing": self.missing,
            "splits": {
                split: {
                    **dict(zip(_SPLITS, counts.tolist(), strict=True)),
                    "labelled": {
                        name: dict(zip(_SPLITS, self.labelled[split, name].tolist(), strict=True))
                        for name in self._labels_of(split)
                    },
                }
                for split, counts in self.splits.items()
            },
        }


def count_labels(store: Store) -> tuple[LabelCounts, LabelCounts]:
    """Count the labels and splits of nodes, and those of edges; reads only these columns.

    Raises:
        StoreError: If a part is missing or damaged.
    """
    manifest = store.manifest
    types = [(of_type.name, of_type) for of_type in manifest.node_types]
    relations = [(spec.relation.text, spec) for spec in manifest.relations]
    return (
        _count(store, manifest.labels, manifest.splits, types, "masters"),
        _count(store, manifest.edge_labels, manifest.edge_splits, relations, "in_edges"),
    )


def _count(
    store: Store,
    labels: dict[str, LabelSpec],
    splits: list[str],
    owners: Sequence[tuple[str, NodeTypeSpec | RelationSpec]],
    file: str,
) -> LabelCounts:
    """Return the counts of all node types or relations, from the files of their columns."""
    counts = _zeros(labels, splits)
    for i, (owner, spec) in enumerate(owners):
        for split in spec.splits:
            for label in spec.labels:
                pair = [qualified(owner, name, len(owners)) for name in (split, label)]
                counts.labelled[pair[0], pair[1]] = np.zeros(4, np.int64)
        for part in range(store.num_parts) if spec.labels or spec.splits else ():
            table = open_table(part_folder(store.path, part) / f"{file}-{i}.arrow")
            counts.add(table, owner, len(owners))
    return counts


def _zeros(labels: dict[str, LabelSpec], splits: list[str]) -> LabelCounts:
    classes = {
        name: np.zeros(spec.num_classes, np.int64)
        for name, spec in labels.items()
        if spec.task in ("multiclass", "binary")
    }
    return LabelCounts(
        labels,
        classes,
        dict.fromkeys(labels, 0),
        {split: np.zeros(4, np.int64) for split in splits},
    )


def _sizes(counts: NDArray[np.int64], names: Sequence[str] | None) -> str:
    if len(counts) <= _MAX_SHOWN and names and len(names) == len(counts):
        return ", ".join(f"{n:,} {name}" for n, name in zip(counts, names, strict=True))
    if len(counts) <= _MAX_SHOWN:
        return ", ".join(f"{count:,}" for count in counts)
    return f"{counts.min():,} to {counts.max():,} in each of {len(counts):,}"


def _by_split(counts: NDArray[np.int64]) -> str:
    return ", ".join(f"{counts[value]:,} {_SPLITS[value]}" for value in (1, 2, 3, 0))
