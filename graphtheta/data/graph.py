"""Whole graph in memory, as Arrow tables that are validated when it is made.

Row i of `nodes` has node_key i, and row j of `edges` has edge_key j. In a graph of several node
types or relations, keys count the rows of all tables. `graphtheta.data.schema` describes the
columns. A Graph is read-only. It is a `GraphSource`, so that it can be partitioned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from graphtheta.data import interop
from graphtheta.data.given import given_tables, keyed_tables
from graphtheta.data.graph_tables import GraphTables
from graphtheta.data.mapping import ColumnOptions
from graphtheta.data.reverse import WithReverse
from graphtheta.data.schema import (
    LabelKind,
    as_numpy,
    named_column,
    names_of,
    need_attribute,
    need_column,
)
from graphtheta.data.sparse import SparseMatrix, is_sparse
from graphtheta.data.tables import (
    converted,
    rows_of,
    with_keys,
)
from graphtheta.data.types import (
    qualified,
)
from graphtheta.wording import counted

if TYPE_CHECKING:
    from graphtheta.data.source import GraphSource

__all__ = ["Graph"]


class Graph(GraphTables):
    """Graph in memory: one node table and one edge table, or one for each type.

    Args:
        nodes: Node table, with `id` and columns as described in `graphtheta.data.schema`; or a
            mapping from the names of node types to their tables.
        edges: Edge table, whose `src` and `dst` are int64 node keys; or a mapping from relations
            `(source type, name, destination type)` to their tables. Node keys count the rows of all
            node tables, in their order.
        names: Names of the tables in messages, nodes first.

    Attributes:
        node_tables: Node tables, each with its range of node keys.
        edge_tables: Edge tables, each with its range of edge keys.

    Every column of a table is one Arrow chunk.

    Raises:
        ConfigError: If a type's name is empty or contains `-`, or a relation has an unknown type.
        GraphFormatError: If there is no node, an id occurs twice in a table, an end of an edge is
            not a node of its type, or a column has a wrong type or value.
    """

    __slots__ = ()

    # Views

    @property
    def num_features(self) -> int:
        """Number of input features per node; 0 if there are none."""
        if "features" not in self.nodes.column_names:
            return 0
        kind = self.nodes.schema.field("features").type
        return int(kind.width if is_sparse(kind) else kind.list_size)

    @property
    def ids(self) -> NDArray[Any]:
        """Original ids: (N,) int64, or object (str)."""
        return as_numpy(self.nodes["id"])

    @property
    def features(self) -> Any:
        """Input features: a read-only NumPy view, or a `scipy.sparse.csr_array` if they are sparse.

        Shape:
            (N, F) float32 or float64.

        Raises:
            ConfigError: If the graph has no features.
        """
        column = self.nodes[need_column("features", self.nodes.column_names, "nodes")]
        return SparseMatrix.of(column).scipy() if is_sparse(column.type) else as_numpy(column)

    @property
    def src(self) -> NDArray[np.int64]:
        """Node keys of the sources of edges: (E,) int64, a read-only view."""
        return as_numpy(self.edges["src"])

    @property
    def dst(self) -> NDArray[np.int64]:
        """Node keys of the destinations of edges: (E,) int64, a read-only view."""
        return as_numpy(self.edges["dst"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels of nodes, qualified if there are several node types."""
        return self._names_of("label")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits of nodes, qualified if there are several node types."""
        return self._names_of("split")

    def _names_of(self, kind: str) -> tuple[str, ...]:
        tables = self.node_tables
        return tuple(
            qualified(table.name, name, len(tables))
            for table in tables
            for name in names_of(kind, rows_of(table))
        )

    def label(self, name: str | None = None) -> NDArray[Any]:
        """Return a label of all nodes, with 0 where it is missing; see `labelled`.

        Args:
            name: Name of the label. If None, the only one, or `y` if there are several.

        Shape:
            (N,) or (N, K); a view, except for booleans.

        Raises:
            ConfigError: If there is no such label.
        """
        return as_numpy(self.nodes[named_column("label", self.nodes, name)])

    def labelled(self, name: str | None = None) -> NDArray[np.bool_]:
        """Return whether each node has the label `name`.

        Shape:
            (N,) bool.

        Raises:
            ConfigError: If there is no such label.
        """
        column = self.nodes[named_column("label", self.nodes, name)]
        return np.asarray(column.is_valid().to_numpy())

    def split(self, name: str | None = None) -> NDArray[np.int8]:
        """Return a split of the nodes: 0 none, 1 train, 2 validation, 3 test.

        Args:
            name: Name of the split. If None, the only one, or `split` if there are several.

        Shape:
            (N,) int8, a view.

        Raises:
            ConfigError: If there is no such split.
        """
        return as_numpy(self.nodes[named_column("split", self.nodes, name)])

    def column(self, name: str, *, of: Literal["edges", "nodes"] = "edges") -> NDArray[Any]:
        """Return a column as a NumPy array, without a copy if Arrow's layout allows it.

        A sparse column becomes dense.

        Args:
            name: Name of the column.
            of: Table of the column.

        Raises:
            ConfigError: If there is no such column; the message lists the existing ones.
        """
        table = self.edges if of == "edges" else self.nodes
        return as_numpy(table[need_column(name, table.column_names, of)])

    def __repr__(self) -> str:
        parts = [counted(self.num_nodes, "node"), counted(self.num_edges, "edge")]
        if len(self.node_tables) > 1 or len(self.edge_tables) > 1:
            parts += [f"{table.name} ({table.num_rows:,})" for table in self.node_tables]
            parts += [f"{table.relation.text} ({table.num_rows:,})" for table in self.edge_tables]
        else:
            parts += [counted(self.num_features, "feature")] if self.num_features else []
        parts += [f"label {name}" for name in self.labels]
        parts += [f"split {name}" for name in self.splits]
        if len(self.edge_tables) == 1:
            ends = ("src", "dst")
            parts += [f"edge {name}" for name in self.edges.column_names if name not in ends]
        return f"Graph({', '.join(parts)})"

    # Conversions

    @classmethod
    def from_arrow(
        cls,
        nodes: Any | None,
        edges: Any,
        *,
        columns: Mapping[Any, Mapping[str, Any]] | None = None,
        add_reverse: bool = False,
        **options: Unpack[ColumnOptions],
    ) -> Graph:
        """Convert node tables and edge tables that contain the ids of nodes.

        A table is an Arrow table, a data frame of pandas, Polars or another library with an Arrow
        interface, or a dict of columns, such as lists and NumPy arrays. For a graph of several node
        types or relations, pass mappings; the ids are those of the relation's types:

            gt.Graph.from_arrow(
                {"author": authors, "paper": papers},
                {("author", "writes", "paper"): writes, "paper-cites-paper": cites},
                columns={
                    "paper": {"labels": "venue", "splits": "split"},
                    "paper-cites-paper": {"src": "citing", "dst": "cited", "weight": "times"},
                },
            )

        Args:
            nodes: Node table, or a mapping from the names of node types to their tables. If None,
                the nodes are the sorted distinct ids of the edges.
            edges: Edge table, or a mapping from relations `(source type, name, destination type)`,
                or texts such as `author-writes-paper`, to their tables.
            columns: With mappings, the options of each table by its type or relation; those of a
                relation are without `edge_`, such as `weight`, `labels` and `splits`.
            add_reverse: Whether to add the relation `rev_<name>` for each relation, from its
                destinations to its sources.
            options: Names of the columns, such as `features="f_*"`; see
                `graphtheta.data.mapping.ColumnOptions`.

        Returns:
            A graph with these columns and all other columns of the tables.

        Raises:
            ConfigError: If a named column does not exist, a type's name is empty or contains `-`,
                or a relation has an unknown type.
            GraphFormatError: If an end of an edge is not in its node table, or as for `Graph`.
        """
        graph = cls._of(keyed_tables(*given_tables(nodes, edges, columns, options)))
        return cls.from_source(graph, add_reverse=True) if add_reverse else graph

    @classmethod
    def from_source(cls, source: GraphSource, *, add_reverse: bool = False) -> Graph:
        """Read a whole source into memory.

        Args:
            source: The source.
            add_reverse: Whether to add reverse relations, as in `from_arrow`.

        Raises:
            GraphFormatError: As for `from_arrow`.
        """
        need_attribute(source, "edge_tables", "from_source", "a source of nodes and edges")
        source = WithReverse(source) if add_reverse else source
        if source.keyed and source.node_tables:
            return cls._of((source.node_tables, source.edge_tables))
        return cls._of(with_keys(source.node_tables, source.edge_tables))

    @classmethod
    def from_pyg(cls, data: Any, *, label_kind: LabelKind | None = None) -> Graph:
        """Convert a `torch_geometric.data.Data`, or a `HeteroData` to a graph of several types.

        Reads `x`, `edge_index`, `edge_attr`, `edge_type`, `edge_weight`, `y` (as label `y`), the
        masks (as split `split`; masks of several columns also as `0`, `1`, ...), `original_id`, and
        `time` of nodes and edges (of edges of a `Data`: `edge_time`), of each type of a
        `HeteroData`. Without `original_id`, the id of a node is its row. A class below 0, a target
        or time of NaN, and an integer time of the least int64 are missing. A line of the log names
        other attributes, which are not read.

        Args:
            data: Graph to convert.
            label_kind: Kind of the label `y`. If None, integers are classes, several columns of
                integers or booleans are multi-label classes, and floating-point numbers are
                regression targets.

        Raises:
            ConfigError: If the name of a type contains `-`.
            GraphFormatError: If there is no `edge_index` or the number of nodes of a type is
                unknown, the length of a tensor is not that of the graph, or as for `Graph`.
        """
        return cls._of(converted(*interop.from_pyg(data), label_kind))

    @classmethod
    def from_dgl(
        cls,
        graph: Any,
        *,
        features: str = "feat",
        label: str = "label",
        edge_features: str = "feat",
        edge_type: str = "etype",
        edge_weight: str = "weight",
        label_kind: LabelKind | None = None,
    ) -> Graph:
        """Convert a `dgl.DGLGraph`; a heterograph becomes a graph of several types.

        Reads the tensors below if they exist, `time` and the masks as `from_pyg` does, and
        `ndata["original_id"]`. Without that, the id of a node is its row. A line of the log names
        other tensors, which are not read.

        Args:
            graph: Graph to convert.
            features: Key of the features in `ndata`.
            label: Key in `ndata` of the tensor that becomes label `y`.
            edge_features: Key in `edata` of the tensor that becomes `attr`.
            edge_type: Key in `edata` of the tensor that becomes `type`.
            edge_weight: Key in `edata` of the tensor that becomes `weight`.
            label_kind: Kind of the label `y`, as in `from_pyg`.

        Raises:
            ConfigError: As for `from_pyg`.
            GraphFormatError: As for `from_pyg`.
        """
        node_keys = {"features": features, "y": label}
        edge_keys = {"attr": edge_features, "type": edge_type, "weight": edge_weight}
        return cls._of(converted(*interop.from_dgl(graph, node_keys, edge_keys), label_kind))

    @classmethod
    def from_networkx(cls, graph: Any, **attributes: Unpack[ColumnOptions]) -> Graph:
        """Convert a networkx graph, whose nodes are all integers or all strings.

        An edge of an undirected graph becomes two directed edges, a self-loop one. Floats become
        float32. This loops over nodes and edges in Python, as networkx stores them.

        Args:
            graph: Graph to convert.
            attributes: Names of attributes of nodes and edges, such as `labels="club"`; see
                `graphtheta.data.mapping.ColumnOptions`. Their values may be tensors. Other
                attributes are left out.

        Raises:
            ConfigError: If no node, or no edge, has a named attribute.
            GraphFormatError: If nodes or the values of an attribute have several types, an
                attribute is missing on some nodes or edges, or as for `Graph`.
        """
        attributes = {"src": "src", "dst": "dst", **attributes}
        return cls.from_arrow(*interop.from_networkx(graph, **attributes), **attributes)

    def to_pyg(self, *, label: str | None = None, split: str | None = None) -> Any:
        """Convert to a `torch_geometric.data.Data`, or a graph of several types to a `HeteroData`.

        A missing class is -1, a missing target NaN. A column `time` is kept if it has numbers, or
        times, which become seconds since 1970; a missing time is the least int64, or NaN.

        Args:
            label: Label that becomes `y`, such as `paper.venue`. If None, of each node type `y` or
                the only label; without labels there is no `y`.
            split: Split that becomes the masks. If None, the splits `0`, `1`, ... as columns of the
                masks if they exist, else `split` or the only split; without splits there are no
                masks.

        Raises:
            ConfigError: If there is no such label or split.
        """
        return interop.to_pyg(*self._rows_by_type(), label=label, split=split)

    def to_dgl(self, *, label: str | None = None, split: str | None = None) -> Any:
        """Convert to a `dgl.DGLGraph`, with the keys that `from_dgl` reads by default.

        A graph of several types becomes a heterograph. String ids are left out, because DGL stores
        only tensors.

        Args:
            label: Label that becomes `ndata["label"]`; chosen as in `to_pyg`.
            split: Split that becomes the masks; chosen as in `to_pyg`.

        Raises:
            ConfigError: If there is no such label or split.
        """
        return interop.to_dgl(*self._rows_by_type(), label=label, split=split)

    def to_networkx(self) -> Any:
        """Convert to a `networkx.MultiDiGraph` of original ids, with all columns as attributes.

        This loops over nodes and edges in Python, as networkx stores them.
        """
        return interop.to_networkx(self.nodes, self.edges)
