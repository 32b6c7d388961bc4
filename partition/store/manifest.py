"""What describes a partitioned graph as a whole: the manifest (of fixed size) and the book.

The manifest never grows with the number of parts; the book has one row a part.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from graphtheta.partition.store.quality import Quality

__all__ = ["FORMAT_VERSION", "Book", "ColumnSpec", "LabelKind", "LabelSpec", "Manifest", "checksum"]

FORMAT_VERSION = 1

LabelKind = Literal["multiclass", "binary", "multilabel", "regression"]


class ColumnSpec(BaseModel):
    """Type of a column.

    Attributes:
        dtype: Arrow's name of the type of one value: `"float32"`, `"int64"`, `"bool"`, ...
        width: Values a row, for a fixed-size list; None means one plain value a row.
    """

    model_config = ConfigDict(frozen=True)

    dtype: str
    width: int | None = None


class LabelSpec(BaseModel):
    """What a label column holds.

    Attributes:
        task: What is predicted.
        num_classes: Classes of a multi-class label, labels of a multi-label one, 2 for binary,
            outputs of a regression.
    """

    model_config = ConfigDict(frozen=True)

    task: LabelKind
    num_classes: int

    @property
    def num_outputs(self) -> int:
        """Outputs that a model needs: one logit suffices for a binary label."""
        return 1 if self.task == "binary" else self.num_classes


class Manifest(BaseModel):
    """A partitioned graph in a few lines: `manifest.json`.

    Attributes:
        format_version: Version of the store's format.
        num_nodes: Nodes of the graph (N).
        num_edges: Edges stored, reverse edges of an undirected input included (E).
        num_parts: Parts (P).
        method: Name of the partitioner, a key of `PARTITIONERS`.
        cut: `"edge"`: every edge lives with its destination's master; `"vertex"`: edges are placed
            freely.
        seed: Seed of the partitioner.
        undirected: Whether the builder added the reverse of every input edge.
        self_loops: Whether edges from a node to itself were kept.
        repeats: Whether edges with the ends of an earlier one were kept.
        id_type: Arrow's name of the type of the original ids: `"int64"` or `"string"`.
        node_columns: Node columns by name, without keys, ids and degrees.
        edge_columns: Edge columns by name, without endpoints, keys and positions.
        labels: Node labels by name, without the prefix `label:`.
        splits: Names of the node splits, without the prefix `split:`.
        edge_labels: Edge labels by name.
        edge_splits: Names of the edge splits.
        num_edge_types: Largest value of the edge column `type` plus one; None without that column.
        quality: What the partitioning achieved.
        checksum: Hash of the content of every part and of all the above but `quality`. It depends
            neither on the path nor on the number of ranks that built the store.
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
    id_type: str
    node_columns: dict[str, ColumnSpec]
    edge_columns: dict[str, ColumnSpec]
    labels: dict[str, LabelSpec] = Field(default_factory=dict)
    splits: list[str] = Field(default_factory=list)
    edge_labels: dict[str, LabelSpec] = Field(default_factory=dict)
    edge_splits: list[str] = Field(default_factory=list)
    num_edge_types: int | None = None
    quality: Quality
    checksum: str = ""


@dataclass(frozen=True, slots=True)
class Book:
    """One row a part: `book.arrow`. A node's new id is first_new_id[part] + local master id.

    Attributes:
        digests: Hash of each part's files, hexadecimal.

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
        """Parts (P)."""
        return len(self.digests)


def checksum(manifest: Manifest, book: Book) -> str:
    """Return the hash that names a partitioned graph: its schema and the content of its parts."""
    described = manifest.model_dump(mode="json", exclude={"quality", "checksum"})
    for name in ("self_loops", "repeats"):
        if described[name]:  # stores from before there was a choice have the same hash
            del described[name]
    text = json.dumps([described, book.digests], sort_keys=True)
    return str(xxhash.xxh3_128_hexdigest(text.encode()))
