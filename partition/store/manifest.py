"""Description of a partitioned graph: the manifest and the partition book.

The size of the manifest does not depend on the number of parts. The partition book has one row for
each part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from graphtheta.data.encode.recipe import EncodedColumn, Recipe, TableRecipe
from graphtheta.data.schema import LabelKind
from graphtheta.data.types import Relation, position_of, qualified
from graphtheta.errors import ConfigError
from graphtheta.partition.store.quality import Quality

__all__ = [
    "FORMAT_VERSION",
    "SPARSE_VERSION",
    "Book",
    "ColumnSpec",
    "LabelKind",
    "LabelSpec",
    "Manifest",
    "NodeTypeSpec",
    "RelationSpec",
    "checksum",
]

FORMAT_VERSION = 2
SPARSE_VERSION = 3  # of a store with sparse columns, which older versions cannot read

Spec = TypeVar("Spec")
Item = TypeVar("Item")


class ColumnSpec(BaseModel):
    """Type of a column.

    Attributes:
        dtype: Arrow name of the type of one value: `"float32"`, `"int64"`, `"bool"`, ...
        width: Number of values in each row of a fixed-size list; None for a column of scalars.
        sparse: How the rows of a sparse column are stored: `"values"`, or `"ones"` if all values
            other than 0 are 1. None for other columns.
    """

    model_config = ConfigDict(frozen=True)

    dtype: str
    width: int | None = Field(default=None, ge=0, lt=1 << 31)
    sparse: Literal["values", "ones"] | None = None

    @model_serializer(mode="wrap")
    def _without_none(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = serialize(self)
        if self.sparse is None:  # the checksum of stores without sparse columns stays the same
            found.pop("sparse", None)
        return found


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


class _KeyRange(BaseModel):
    """Columns of a node type or relation, and its range of keys."""

    model_config = ConfigDict(frozen=True)

    first_key: int = Field(ge=0)
    count: int = Field(ge=0)
    columns: dict[str, ColumnSpec]
    labels: dict[str, LabelSpec] = Field(default_factory=dict)
    splits: list[str] = Field(default_factory=list)
    encodings: tuple[EncodedColumn, ...] = ()
    inputs: dict[str, str] = Field(default_factory=dict)

    @property
    def recipe(self) -> TableRecipe:
        """How the columns were read."""
        classes = {f"label:{name}": spec.classes or () for name, spec in self.labels.items()}
        return TableRecipe(encodings=self.encodings, classes=classes, inputs=self.inputs)


class NodeTypeSpec(_KeyRange):
    """Node type of a store.

    Attributes:
        name: Name of the type.
        first_key: First node key.
        count: Number of nodes.
        id_type: Arrow name of the type of the original ids: `"int64"` or `"string"`.
        columns: Columns by name, without keys, ids and degrees.
        labels: Labels by name, without the prefix `label:`.
        splits: Names of the splits, without the prefix `split:`.
        encodings: Input columns of the features, with their fitted encoders; empty if the features
            are those of the input.
        inputs: Names of ids in the table, if they differ.
    """

    name: str
    id_type: str


class RelationSpec(_KeyRange):
    """Relation of a store.

    Attributes:
        source: Node type of the sources.
        name: Name of the relation.
        destination: Node type of the destinations.
        first_key: First edge key.
        count: Number of edge keys: rows of the edge table.
        columns: Columns by name, without endpoints, keys and positions.
        labels: Labels by name, without the prefix `label:`.
        splits: Names of the splits, without the prefix `split:`.
        encodings: Input columns of `attr`, as for node types.
        inputs: Names of endpoints, `type` and `weight` in the table, if they differ.
        num_types: Largest value of the column `type` plus one; None without that column.
        type_names: Names of the values of the column `type`, if it was a column of texts.
    """

    source: str
    name: str
    destination: str
    num_types: int | None = None
    type_names: tuple[str, ...] | None = None

    @property
    def recipe(self) -> TableRecipe:
        found = super().recipe
        return found.model_copy(
            update={"classes": {**found.classes, "type": self.type_names or ()}}
        )

    @property
    def relation(self) -> Relation:
        """The relation."""
        return Relation(self.source, self.name, self.destination)


class Manifest(BaseModel):
    """Manifest of a store, `manifest.json`: what describes the graph as a whole.

    Names of labels, splits and columns of the whole graph are qualified: in a graph of several node
    types, `package.section` is the label `section` of the type `package`, and in a graph of several
    relations, `author-writes-paper.stars` is a label of edges. Otherwise they are plain.

    Attributes:
        format_version: Version of the format of the store: `FORMAT_VERSION`, or `SPARSE_VERSION`.
        num_nodes: Number of nodes of the graph (N).
        num_edges: Number of stored edges (E), including added reverse edges.
        num_parts: Number of parts (P).
        method: Name of the partitioner, a key of `PARTITIONERS`.
        cut: `"edge"` if every edge is in the part of its destination's master; `"vertex"` if edges
            can be in any part.
        placement: `"method"` if edges are where the partitioner put them, `"cover"` if they are
            where the fewest rows are exchanged; see `Plan`.
        merge_weight: How many syncs a merge was worth in a cover placement; None of others.
        seed: Seed of the partitioner.
        undirected: Whether the reverse of every input edge was added.
        self_loops: Whether edges from a node to itself were kept.
        repeats: Whether duplicate edges were kept.
        drop_unknown: Whether edges with an id that the node table lacks were dropped.
        dropped_self_loops: Number of self-loops of the input that were dropped.
        dropped_duplicates: Number of duplicate edges that were dropped, after reversing.
        dropped_unknown: Number of edges that were dropped because of an unknown id.
        reverses_from: Lowest edge key of an added reverse: the number of rows of the edge table. 0
            if no reverses were added.
        node_types: Node types, in the order of their node keys.
        relations: Relations, in the order of their edge keys.
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
    placement: str = "method"
    merge_weight: float | None = None
    seed: int
    undirected: bool
    self_loops: bool
    repeats: bool
    drop_unknown: bool = False
    dropped_self_loops: int
    dropped_duplicates: int
    dropped_unknown: int = 0
    reverses_from: int
    node_types: tuple[NodeTypeSpec, ...] = Field(min_length=1)
    relations: tuple[RelationSpec, ...] = Field(min_length=1)
    quality: Quality
    checksum: str = ""

    @property
    def recipe(self) -> Recipe:
        """How the tables of the graph were read, to read others alike."""
        return Recipe(
            node_types={of_type.name: of_type.recipe for of_type in self.node_types},
            relations={spec.relation.text: spec.recipe for spec in self.relations},
        )

    @property
    def labels(self) -> dict[str, LabelSpec]:
        """Node labels of all types, by qualified name."""
        return _by_qualified_name(self._nodes(), lambda of_type: of_type.labels)

    @property
    def splits(self) -> list[str]:
        """Qualified names of the node splits."""
        return list(_by_qualified_name(self._nodes(), lambda t: dict.fromkeys(t.splits)))

    @property
    def edge_labels(self) -> dict[str, LabelSpec]:
        """Edge labels of all relations, by qualified name."""
        return _by_qualified_name(self._edges(), lambda of_relation: of_relation.labels)

    @property
    def edge_splits(self) -> list[str]:
        """Qualified names of the edge splits."""
        return list(_by_qualified_name(self._edges(), lambda r: dict.fromkeys(r.splits)))

    @property
    def node_columns(self) -> dict[str, ColumnSpec]:
        """Node columns of all types, by qualified name, without keys, ids and degrees."""
        return _by_qualified_name(self._nodes(), lambda of_type: of_type.columns)

    @property
    def edge_columns(self) -> dict[str, ColumnSpec]:
        """Edge columns that cover all edges, without endpoints, keys and positions.

        In a graph of several relations, these are `type` (the position of the relation), and `attr`
        and `weight` if every relation has them, of the same type and width.
        """
        if len(self.relations) == 1:
            return self.relations[0].columns
        found = {"type": ColumnSpec(dtype="int64")}
        for name in ("attr", "weight"):
            first, *others = (relation.columns.get(name) for relation in self.relations)
            if first is not None and all(other == first for other in others):
                found[name] = first
        return found

    @property
    def num_edge_types(self) -> int | None:
        """Number of values of the edge column `type`: with several relations, their number.

        None if edges have no such column.
        """
        return self.relations[0].num_types if len(self.relations) == 1 else len(self.relations)

    @property
    def edge_types(self) -> tuple[str, ...] | None:
        """Names of the values of the edge column `type`, or None without names."""
        if len(self.relations) == 1:
            return self.relations[0].type_names
        return tuple(spec.relation.text for spec in self.relations)

    @property
    def id_type(self) -> str:
        """Arrow name of the type of the original ids.

        Raises:
            ConfigError: If the graph has several node types, whose ids may have different types.
        """
        return self.node_type(None).id_type

    @property
    def first_node_keys(self) -> NDArray[np.int64]:
        """First node key of each node type: (T,) int64."""
        return np.array([of_type.first_key for of_type in self.node_types], np.int64)

    @property
    def first_edge_keys(self) -> NDArray[np.int64]:
        """First edge key of each relation: (R,) int64."""
        return np.array([relation.first_key for relation in self.relations], np.int64)

    @property
    def is_typed(self) -> bool:
        """Whether the graph has several node types or several relations."""
        return len(self.node_types) > 1 or len(self.relations) > 1

    def node_type(self, name: str | None) -> NodeTypeSpec:
        """Return a node type; if `name` is None, the only one.

        Raises:
            ConfigError: If there is no such type, or several and `name` is None.
        """
        return self.node_types[self.position_of_type(name)]

    def position_of_type(self, name: str | None) -> int:
        """Return the position of a node type; if `name` is None, that of the only one.

        Raises:
            ConfigError: If there is no such type, or several and `name` is None.
        """
        names = [of_type.name for of_type in self.node_types]
        return position_of("node type", name, names)

    def type_of_label(self, name: str | None, of_type: str | None = None) -> str | None:
        """Return the node type of a label, or None if the graph has only one node type.

        Args:
            name: Qualified name, such as `package.section`. The graph need not have the label.
            of_type: The node type, if it is known. Then the name may be plain.

        Raises:
            ConfigError: If it is the name of no type.
        """
        if len(self.node_types) == 1:
            return None
        if of_type is not None:
            return self.node_type(of_type).name
        owners = [t for t in self.node_types if name is not None and name.startswith(f"{t.name}.")]
        if not owners:
            raise ConfigError(
                f"label: expected the name of a label of one of "
                f"{', '.join(of_type.name for of_type in self.node_types)}, such as "
                f"{self.node_types[0].name}.y, got {name!r}. Choose a graph of these types."
            )

        def has_label(of_type: NodeTypeSpec) -> tuple[bool, int]:
            return str(name).removeprefix(f"{of_type.name}.") in of_type.labels, len(of_type.name)

        return max(owners, key=has_label).name

    def position_of_relation(self, relation: Relation | str | None) -> int:
        """Return the position of a relation; if it is None, that of the only one.

        Args:
            relation: Three names, or a text such as `author-writes-paper`.

        Raises:
            ConfigError: If there is no such relation, or several and `relation` is None.
        """
        text = relation if relation is None else Relation.of(relation).text
        return position_of("relation", text, [spec.relation.text for spec in self.relations])

    def _nodes(self) -> list[tuple[str, NodeTypeSpec]]:
        return [(of_type.name, of_type) for of_type in self.node_types]

    def _edges(self) -> list[tuple[str, RelationSpec]]:
        return [(spec.relation.text, spec) for spec in self.relations]

    def dropped_rows(self) -> list[tuple[str, str]]:
        """Return the kinds of edges that were to be dropped and how many were, for a table."""
        rows = (
            ("dropped edges of unknown ids", self.drop_unknown, self.dropped_unknown),
            ("dropped self-loops", not self.self_loops, self.dropped_self_loops),
            ("dropped duplicates", not self.repeats, self.dropped_duplicates),
        )
        return [(name, f"{number:,}") for name, is_dropped, number in rows if is_dropped]


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
    if not manifest.drop_unknown:  # stores of earlier versions have neither
        del described["drop_unknown"], described["dropped_unknown"]
    if manifest.merge_weight is None:  # nor these
        del described["placement"], described["merge_weight"]
    for spec in (*described["node_types"], *described["relations"]):
        for name in ("encodings", "inputs"):
            if not spec[name]:  # stores of earlier versions have none
                del spec[name]
    text = json.dumps([described, book.digests], sort_keys=True)
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def _by_qualified_name(
    owners: Sequence[tuple[str, Spec]], items: Callable[[Spec], Mapping[str, Item]]
) -> dict[str, Item]:
    return {
        qualified(owner, name, len(owners)): item
        for owner, spec in owners
        for name, item in items(spec).items()
    }
