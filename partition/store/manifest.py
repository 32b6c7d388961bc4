"""Description of a partitioned graph: the manifest and the partition book.

The size of the manifest does not depend on the number of parts. The partition book has one row for
each part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from graphtheta.data.schema import LabelKind
from graphtheta.partition.store.quality import Quality

__all__ = ["FORMAT_VERSION", "Book", "ColumnSpec", "LabelKind", "LabelSpec", "Manifest", "checksum"]

FORMAT_VERSION = 1

# Fields of the manifest that early stores do not have, with what they mean there.
_ADDED = {
    "self_loops": True,
    "repeats": True,
    "dropped_self_loops": 0,
    "dropped_duplicates": 0,
    "reverses_from": 0,
    "edge_types": None,
}


class ColumnSpec(BaseModel):
    """Type of a column.

    Attributes:
        dtype: Arrow name of the type of one value: `"float32"`, `"int64"`, `"bool"`, ...
        width: Number of values in each row of a fixed-size list; None for a column of scalars.
    """

    model_config = ConfigDict(frozen=True)

    dtype: str
    width: int | None = Field(default=None, ge=0, lt=1 << 31)


class LabelSpec(BaseModel):
    """Task of a label column.

    Attributes:
        task: Kind of prediction.
        num_classes: Number of classes (multi-class), of labels (multi-label), of outputs
            (regression), or 2 (binary).
        classes: Names of the classes, if the label was a column of texts.
    """

    model_config = ConfigDict(frozen=True)

    task: LabelKind
    num_classes: int = Field(ge=0, lt=1 << 31)
    classes: tuple[str, ...] | None = None

    @property
    def num_outputs(self) -> int:
        """Number of outputs of a model: one logit for a binary label, else `num_classes`."""
        return 1 if self.task == "binary" else self.num_classes


class Manifest(BaseModel):
    """Manifest of a store, `manifest.json`: what describes the graph as a whole.

    Attributes:
        format_version: Version of the format of the store.
        num_nodes: Number of nodes of the graph (N).
        num_edges: Number of stored edges (E), including added reverse edges.
        num_parts: Number of parts (P).
        method: Name of the partitioner, a key of `PARTITIONERS`.
        cut: `"edge"` if every edge is in the part of its destination's master; `"vertex"` if edges
            can be in any part.
        seed: Seed of the partitioner.
        undirected: Whether the reverse of every input edge was added.
        self_loops: Whether edges from a node to itself were kept.
        repeats: Whether duplicate edges were kept.
        dropped_self_loops: Number of self-loops of the input that were dropped.
        dropped_duplicates: Number of duplicate edges that were dropped, after reversing.
        reverses_from: Lowest edge key of an added reverse: the number of rows of the edge table. 0
            if no reverses were added, or in a store of an earlier version.
        id_type: Arrow name of the type of the original ids: `"int64"` or `"string"`.
        node_columns: Node columns by name, without keys, ids and degrees.
        edge_columns: Edge columns by name, without endpoints, keys and positions.
        labels: Node labels by name, without the prefix `label:`.
        splits: Names of the node splits, without the prefix `split:`.
        edge_labels: Edge labels by name.
        edge_splits: Names of the edge splits.
        num_edge_types: Largest value of the edge column `type` plus one; None without that column.
        quality: Measured quality of the partitioning.
        checksum: Hash of the content of every part and of the fields above, except `quality`. It
            depends neither on the path nor on the number of ranks that built the store.
    """

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT_VERSION
    num_nodes: int
    num_edges: int
    num_parts: int
    method: str
    cut: Literal["edge", "vertex"]
    seed: int
    undirected: bool
    self_loops: bool = True
    repeats: bool = True
    dropped_self_loops: int = 0
    dropped_duplicates: int = 0
    reverses_from: int = 0
    id_type: str
    node_columns: dict[str, ColumnSpec]
    edge_columns: dict[str, ColumnSpec]
    labels: dict[str, LabelSpec] = Field(default_factory=dict)
    splits: list[str] = Field(default_factory=list)
    edge_labels: dict[str, LabelSpec] = Field(default_factory=dict)
    edge_splits: list[str] = Field(default_factory=list)
    num_edge_types: int | None = None
    edge_types: tuple[str, ...] | None = None
    quality: Quality
    checksum: str = ""

    def dropped_rows(self) -> list[tuple[str, str]]:
        """Return the kinds of edges that were to be dropped and how many were, for a table."""
        rows = (
            ("dropped self-loops", self.self_loops, self.dropped_self_loops),
            ("dropped duplicates", self.repeats, self.dropped_duplicates),
        )
        return [(name, f"{number:,}") for name, kept, number in rows if not kept]


@dataclass(frozen=True, slots=True)
class Book:
    """Partition book, `book.arrow`: the sizes of all parts, and which new ids each part owns.

    The new id of a master is first_new_id[part] + local id. "Partition book" is the usual term for
    this table in distributed graph systems.

    Attributes:
        first_new_id: New id of the first master of each part.
        masters: Number of masters of each part.
        mirrors: Number of mirrors of each part.
        edges: Number of edges of each part.
        digests: Hash of the files of each part, hexadecimal.

    Shape:
        first_new_id, masters, mirrors, edges: (P,) int64.
    """

    first_new_id: NDArray[np.int64]
    masters: NDArray[np.int64]
    mirrors: NDArray[np.int64]
    edges: NDArray[np.int64]
    digests: tuple[str, ...]

    @property
    def num_parts(self) -> int:
        """Number of parts (P)."""
        return len(self.digests)


def checksum(manifest: Manifest, book: Book) -> str:
    """Return the hash that identifies a partitioned graph by its schema and its parts' content."""
    described = manifest.model_dump(mode="json", exclude={"quality", "checksum"})
    for name, default in _ADDED.items():
        if described[name] == default:  # keeps the hash of stores written before these fields
            del described[name]
    for label in (*described["labels"].values(), *described["edge_labels"].values()):
        if label["classes"] is None:
            del label["classes"]
    text = json.dumps([described, book.digests], sort_keys=True)
    return str(xxhash.xxh3_128_hexdigest(text.encode()))
