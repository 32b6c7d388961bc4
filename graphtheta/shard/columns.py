"""Columns of a shard's masters and edges as tensors, and the graph's schema.

Columns of a single part stay memory-mapped on the CPU; a column is read when it is first used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.data.encode.categorical import Embedding
from graphtheta.data.encode.recipe import feature_names
from graphtheta.data.schema import as_numpy, need_name
from graphtheta.data.sparse import SparseMatrix, is_sparse
from graphtheta.data.types import Relation, positions_of_keys, qualified
from graphtheta.errors import ConfigError
from graphtheta.partition.store.manifest import LabelSpec, Manifest
from graphtheta.shard.local_graph import LocalGraph
from graphtheta.shard.sparse_rows import SparseRows
from graphtheta.shard.target_columns import target_column

__all__ = ["ShardColumns", "as_tensor"]


class _Writable:
    """Array interface over the memory of a read-only array, which it keeps alive."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        data = (array.ctypes.data, False)  # False: not read-only
        self.__array_interface__ = {**array.__array_interface__, "data": data}


def as_tensor(array: NDArray[Any]) -> Tensor:
    """Return a tensor over an array's memory, even if the array is read-only.

    Columns of a store are mapped privately: a write to the tensor never reaches the file.
    """
    array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        array = array.copy() if array.size == 0 else np.asarray(_Writable(array))
    return torch.from_numpy(array)


class ShardColumns:
    """Node and edge columns of one worker, and the schema of the whole graph.

    Args:
        local: Arrays and tables of this worker.
        manifest: Description of the whole graph.
        device: Where every tensor of the shard is.
    """

    def __init__(self, local: LocalGraph, manifest: Manifest, device: torch.device) -> None:
        self.local, self.manifest, self.device = local, manifest, device
        self._cache: dict[str, Tensor] = {}
        self._sparse: dict[str | None, SparseRows] = {}

    def to_device(self, array: NDArray[Any]) -> Tensor:
        """Return an array as a tensor on the shard's device, over the same memory if possible."""
        return as_tensor(array).to(self.device)

    def _cached(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        # Not a cached_property: before Python 3.12 its lock is shared by all instances, so that
        # workers that are threads would wait in it for each other's half of an exchange.
        if name not in self._cache:
            self._cache[name] = compute()
        return self._cache[name]

    # -- schema -----------------------------------------------------------------------------------

    @property
    def node_types(self) -> tuple[str, ...]:
        """Names of the node types, in the order of their node keys."""
        return tuple(of_type.name for of_type in self.manifest.node_types)

    @property
    def relations(self) -> tuple[Relation, ...]:
        """Relations, in the order of their edge keys."""
        return tuple(spec.relation for spec in self.manifest.relations)

    @property
    def metadata(self) -> tuple[tuple[str, ...], tuple[Relation, ...]]:
        """Node types and relations, as layers of typed graphs take them."""
        return self.node_types, self.relations

    @property
    def num_features(self) -> int:
        """Width of the node features; 0 if the graph has none, or several node types."""
        spec = self.manifest.node_columns.get("features")
        return 0 if spec is None else spec.width or 0

    @property
    def num_classes(self) -> int:
        """Number of outputs that a model needs for the label "y", or for the only label."""
        return self.num_outputs(self.default_label)

    @property
    def num_edge_types(self) -> int:
        """Number of edge types of the whole graph: of relations, if there are several.

        Raises:
            ConfigError: If edges have no `type` column.
        """
        if self.manifest.num_edge_types is None:
            raise ConfigError(
                "shard: the graph's edges have no 'type' column. Partition it with --edge-type."
            )
        return self.manifest.num_edge_types

    @property
    def edge_dim(self) -> int:
        """Width of the edge column `attr`.

        Raises:
            ConfigError: If edges have no such column.
        """
        if "attr" not in self.manifest.edge_columns:
            raise ConfigError(
                "shard: the graph's edges have no 'attr' column. Partition it with --edge-features."
            )
        width = self.manifest.edge_columns["attr"].width
        return 1 if width is None else width

    @property
    def default_label(self) -> str:
        """Name of the label to learn: "y", or the only label.

        Raises:
            ConfigError: If the graph has no label, or several of which none is "y".
        """
        return target_column(self.manifest, "nodes", "label").name

    def label_spec(self, name: str) -> LabelSpec:
        """Return the task and number of classes of a label.

        Raises:
            ConfigError: If there is no such label.
        """
        remedy = "Name a column of the node table when you partition it: --label COLUMN."
        need_name(name, self.manifest.labels, "label of nodes (--label)", remedy)
        return self.manifest.labels[name]

    def num_outputs(self, label: str) -> int:
        """Return the number of outputs that a model needs for a label."""
        return self.label_spec(label).num_outputs

    # -- columns of masters -----------------------------------------------------------------------

    @property
    def type_of_masters(self) -> NDArray[np.int64]:
        """Position of the node type of each master: (M,) int64."""
        return self._cached("node node_type", self._type_of_masters).cpu().numpy()

    def _type_of_masters(self) -> Tensor:
        keys = as_numpy(self.local.masters["node_key"])
        return self.to_device(positions_of_keys(keys, self.manifest.first_node_keys))

    def masters_of(self, node_type: str | None = None) -> NDArray[np.int64]:
        """Return the local ids of the masters of a node type, ascending.

        Args:
            node_type: Name of the type. If None, the only type of the graph.

        Shape:
            Returns (M_t,) int64.

        Raises:
            ConfigError: If there is no such type, or several and `node_type` is None.
        """
        position = self.manifest.position_of_type(node_type)
        if len(self.manifest.node_types) == 1:
            return np.arange(self.local.plan.num_masters)
        return np.flatnonzero(self.type_of_masters == position)

    @property
    def position_in_type(self) -> Tensor:
        """Position of each master among those of its node type: (M,) int64."""
        return self._cached("position in type", self._position_in_type)

    def _position_in_type(self) -> Tensor:
        position = np.empty(self.local.plan.num_masters, np.int64)
        for name in self.node_types:
            masters = self.masters_of(name)
            position[masters] = np.arange(len(masters))
        return self.to_device(position)

    @cached_property
    def features(self) -> Tensor | SparseRows:
        """Node features of the masters: (M, F).

        They are `SparseRows` if they are stored sparse. (M, 0) if the graph has none, or several
        node types; see `features_of`.
        """
        if len(self.manifest.node_types) == 1:
            return self.features_of()
        return torch.empty((self.local.plan.num_masters, 0), device=self.device)

    def features_of(self, node_type: str | None = None) -> Tensor | SparseRows:
        """Return the features of the masters of a node type, in the order of `masters_of`.

        Args:
            node_type: Name of the type. If None, the only type of the graph.

        Shape:
            Returns (M_t, F), or (M_t, 0) if the type has none.

        Raises:
            ConfigError: If there is no such type, or several and `node_type` is None.
        """
        table = self.local.node_columns[self.manifest.position_of_type(node_type)]
        if "features" not in table.column_names:
            return torch.empty((table.num_rows, 0), device=self.device)
        column = table["features"]
        if is_sparse(column.type):
            if node_type not in self._sparse:
                matrix = SparseMatrix.of(column)
                dtype = torch.from_numpy(np.empty(0, matrix.dtype)).dtype
                self._sparse[node_type] = SparseRows(matrix, dtype, self.device)
            return self._sparse[node_type]
        return self._cached(f"features of {node_type}", lambda: self.to_device(as_numpy(column)))

    def embedded_columns(self, node_type: str | None = None) -> dict[str, Embedding]:
        """Return the columns of a node type whose categories get learned vectors, by name.

        Args:
            node_type: Name of the type. If None, the only type of the graph.

        Raises:
            ConfigError: If there is no such type, or several and `node_type` is None.
        """
        encodings = self.manifest.node_type(node_type).encodings
        return {e.column: e.encoder for e in encodings if isinstance(e.encoder, Embedding)}

    def embedding_channels(self, node_type: str | None = None) -> int:
        """Return the number of columns of the learned vectors of a node type's categories."""
        return sum(encoder.channels for encoder in self.embedded_columns(node_type).values())

    def codes_of(self, name: str, node_type: str | None = None) -> Tensor:
        """Return the numbers of the categories of an embedded column; 0 for unseen and missing.

        Args:
            name: Name of the column.
            node_type: Name of the type. If None, the only type of the graph.

        Shape:
            Returns (M_t,) int32, in the order of `masters_of`.

        Raises:
            ConfigError: If there is no such column or type.
        """
        remedy = "Partition the graph with --features NAME:embedding(16)."
        need_name(name, self.embedded_columns(node_type), "embedded column", remedy)
        table = self.local.node_columns[self.manifest.position_of_type(node_type)]
        return self._cached(
            f"codes {node_type} {name}", lambda: self.to_device(as_numpy(table[f"code:{name}"]))
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the columns of `features`; empty if the recipe does not have them."""
        return self.feature_names_of()

    def feature_names_of(self, node_type: str | None = None) -> tuple[str, ...]:
        """Return the names of the columns of the features of a node type.

        Args:
            node_type: Name of the type. If None, the only type of the graph.
        """
        return feature_names(self.manifest.node_type(node_type).encodings)

    def label(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the values of a label, and a mask of the masters for which it is known.

        In a graph of several node types, the name is qualified, such as `package.section`. Values
        of masters of other types are 0 and not known.

        Shape:
            values: (M,) or (M, K). known: (M,) bool.

        Raises:
            ConfigError: If there is no such label.
        """
        self.label_spec(name)
        owner, column = self._owned(f"label:{name}")
        known = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), np.bool_)
        values = self._over_masters(as_numpy(column), owner)
        return self.to_device(values), self.to_device(self._over_masters(known.copy(), owner))

    def split(self, name: str) -> Tensor:
        """Return the split of each master: 0 none, 1 train, 2 validation, 3 test.

        In a graph of several node types, the name is qualified, and masters of other types have 0.

        Shape:
            Returns (M,) int8.

        Raises:
            ConfigError: If there is no such split.
        """
        remedy = "Name a column of the node table when you partition it: --split COLUMN."
        need_name(name, self.manifest.splits, "split of nodes (--split)", remedy)
        owner, column = self._owned(f"split:{name}")
        return self.to_device(self._over_masters(as_numpy(column), owner))

    def _owned(self, name: str) -> tuple[str, pa.ChunkedArray]:
        """Return the node type of a label or split with a qualified name, and its column."""
        kind, _, name = name.partition(":")
        types = self.manifest.node_types
        for of_type, table in zip(types, self.local.node_columns, strict=True):
            for plain in of_type.labels if kind == "label" else of_type.splits:
                if qualified(of_type.name, plain, len(types)) == name:
                    return of_type.name, table[f"{kind}:{plain}"]
        raise AssertionError("the manifest has the name")

    def _over_masters(self, values: NDArray[Any], node_type: str) -> NDArray[Any]:
        """Return values of the masters of a type as those of all masters, 0 for other types."""
        if len(self.manifest.node_types) == 1:
            return values
        all_values = np.zeros((self.local.plan.num_masters, *values.shape[1:]), values.dtype)
        all_values[self.masters_of(node_type)] = values
        return all_values

    def node_column(self, name: str, of_type: str | None = None) -> Tensor:
        """Return a numeric column of the masters, for instance `in_degree` in the whole graph.

        `node_type` is the position of the node type. Columns of the user need `of_type` in a graph
        of several node types, and are 0 for masters of others.

        Shape:
            (M,) or (M, K).

        Raises:
            ConfigError: If there is no such column.
        """
        if name == "node_type":
            return self._cached("node node_type", self._type_of_masters)
        table, types = self.local.masters, self.manifest.node_types
        owner = types[0].name if len(types) == 1 else of_type
        if owner is None or name in table.column_names:
            need_name(name, table.column_names, "node column")
            return self._cached(f"node {name}", lambda: self.to_device(as_numpy(table[name])))
        own = self.local.node_columns[self.manifest.position_of_type(owner)]
        need_name(name, {*table.column_names, *own.column_names}, "node column")
        return self._cached(
            f"node {owner} {name}",
            lambda: self.to_device(self._over_masters(as_numpy(own[name]), owner)),
        )

    @property
    def original_ids(self) -> pa.ChunkedArray:
        """Ids of the masters in the user's table: M int64 or strings.

        Raises:
            ConfigError: If the graph has several node types; see `original_ids_of`.
        """
        return self.original_ids_of()

    def original_ids_of(self, node_type: str | None = None) -> pa.ChunkedArray:
        """Return the ids of the masters of a node type in the user's table.

        They are M_t int64 or strings, in the order of `masters_of`.

        Args:
            node_type: Name of the type. If None, the only type of the graph.

        Raises:
            ConfigError: If there is no such type, or several and `node_type` is None.
        """
        table = self.local.node_columns[self.manifest.position_of_type(node_type)]
        return table["original_id"]

    # -- columns of edges -------------------------------------------------------------------------

    @cached_property
    def edge_columns(self) -> dict[str, Tensor]:
        """Edge columns of the graph in CSC order, by name: (E,) or (E, A).

        `known:<name>` is the mask of edges for which the label of that name is known; it is absent
        if the label is known for all edges. In a graph of several relations, `type` is the position
        of the relation, and names of labels and splits are qualified; see `edge_columns_of`.
        """
        fixed = {"src", "edge_key", "in_position"}
        edges = self.local.edges
        return {name: self.to_device(edges[name]) for name in edges if name not in fixed}

    def edges_of(self, relation: Relation | str | None = None) -> NDArray[np.int64]:
        """Return the positions of the edges of a relation among all edges, ascending.

        Args:
            relation: Three names, or a text such as `author-writes-paper`. If None, the only
                relation of the graph.

        Shape:
            Returns (E_r,) int64.

        Raises:
            ConfigError: If there is no such relation, or several and `relation` is None.
        """
        return self.local.edges.rows(self.manifest.position_of_relation(relation))

    def edge_columns_of(self, relation: Relation | str | None = None) -> dict[str, Tensor]:
        """Return the columns of the edges of a relation, in the order of `edges_of`, by plain name.

        Args:
            relation: As for `edges_of`.

        Shape:
            Each (E_r,) or (E_r, A).

        Raises:
            ConfigError: If there is no such relation, or several and `relation` is None.
        """
        columns = self.local.edge_columns[self.manifest.position_of_relation(relation)]
        return {name: self.to_device(columns[name]) for name in columns}

    @property
    def edge_weight(self) -> Tensor:
        """The edge column `weight` in CSC order: (E,) floating point.

        Raises:
            ConfigError: If edges have no such column.
        """
        if "weight" not in self.edge_columns:
            raise ConfigError(
                "shard: the graph's edges have no 'weight' column. Partition it with "
                "--edge-weight, or use layers with weighted=False."
            )
        return self.edge_columns["weight"]

    def cast_edge_column(self, name: str, dtype: torch.dtype) -> Tensor:
        """Return an edge column in another dtype, which is kept for the next call."""
        return self._cached(f"edge {name} {dtype}", lambda: self.edge_columns[name].to(dtype))

    @property
    def edge_key(self) -> NDArray[np.int64]:
        """Keys of the edges: (E,) int64."""
        return self.local.edges["edge_key"]

    @property
    def in_position(self) -> NDArray[np.int64]:
        """Position of each edge among all in-edges of its destination: (E,) int64."""
        return self.local.edges["in_position"]
