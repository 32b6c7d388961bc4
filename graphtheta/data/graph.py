"""Whole graph in memory, as two Arrow tables that are validated when it is made.

Row i of `nodes` has node_key i, and row j of `edges` has edge_key j. `graphtheta.data.schema`
describes the columns. A Graph is read-only. It is a `GraphSource`, so that it can be partitioned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data import interop
from graphtheta.data.mapping import ColumnOptions
from graphtheta.data.schema import (
    LabelKind,
    as_numpy,
    in_range,
    named_column,
    names_of,
    need_attribute,
    need_column,
    refuse,
    validate_edges,
    validate_nodes,
    whole,
)
from graphtheta.data.source import TableInMemory
from graphtheta.data.tables import (
    as_table,
    check_unique_ids,
    converted,
    digest_of,
    keyed_tables,
    with_keys,
)
from graphtheta.errors import GraphFormatError
from graphtheta.wording import counted

if TYPE_CHECKING:
    from graphtheta.data.source import GraphSource

__all__ = ["Graph"]


class Graph:
    """Graph of one node type, in memory.

    Args:
        nodes: Node table, with `id` and columns as described in `graphtheta.data.schema`.
        edges: Edge table, whose `src` and `dst` are int64 node keys.
        names: Names of the two tables in messages.

    Attributes:
        nodes: Node table; every column is one Arrow chunk.
        edges: Edge table; every column is one Arrow chunk.

    Raises:
        GraphFormatError: If there is no node, an id occurs twice, an end of an edge is not a node,
            or a column has a wrong type or value.
    """

    __slots__ = ("_digest", "_names", "edges", "nodes")

    keyed = True  # edges contain node keys, not ids
    nodes: pa.Table
    edges: pa.Table

    def __init__(
        self, nodes: pa.Table, edges: pa.Table, *, names: tuple[str, str] = ("nodes", "edges")
    ) -> None:
        of_nodes, of_edges = names
        nodes, edges = as_table(nodes, of_nodes), as_table(edges, of_edges)
        need_column("id", nodes.column_names, of_nodes)
        for end in ("src", "dst"):
            need_column(end, edges.column_names, of_edges)
        if not nodes.num_rows:
            raise GraphFormatError(
                f"{of_nodes}: expected at least one node, got none. Check that the input is not "
                "empty."
            )
        validate_nodes(nodes, of_nodes)
        validate_edges(edges, of_edges)
        check_unique_ids(nodes["id"], of_nodes)
        for end in ("src", "dst"):
            if not pa.types.is_int64(edges.schema.field(end).type):
                raise refuse(
                    f"{of_edges}: {end}",
                    "int64 node keys",
                    edges.schema.field(end).type,
                    "Use Graph.from_arrow for edges that name nodes by id.",
                )
            expected = f"node keys in [0, {nodes.num_rows:,})"
            in_range(whole(edges[end]), 0, nodes.num_rows - 1, f"{of_edges}: {end}", 0, expected)
        self.nodes = nodes.combine_chunks().replace_schema_metadata(None)
        self.edges = edges.combine_chunks().replace_schema_metadata(None)
        self._names, self._digest = names, ""

    # Views

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return int(self.nodes.num_rows)

    @property
    def num_edges(self) -> int:
        """Number of directed edges."""
        return int(self.edges.num_rows)

    @property
    def num_features(self) -> int:
        """Number of input features per node; 0 if there are none."""
        if "features" not in self.nodes.column_names:
            return 0
        return int(self.nodes.schema.field("features").type.list_size)

    @property
    def ids(self) -> NDArray[Any]:
        """Original ids: (N,) int64, or object (str)."""
        return as_numpy(self.nodes["id"])

    @property
    def features(self) -> NDArray[Any]:
        """Input features, as a read-only view.

        Shape:
            (N, F) float32 or float64.

        Raises:
            ConfigError: If the graph has no features.
        """
        return self.column("features", of="nodes")

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
        """Names of the label columns of nodes."""
        return names_of("label", self.nodes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the split columns of nodes."""
        return names_of("split", self.nodes)

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
        parts += [counted(self.num_features, "feature")] if self.num_features else []
        parts += [f"label {name}" for name in self.labels]
        parts += [f"split {name}" for name in self.splits]
        parts += [f"edge {name}" for name in self.edges.column_names if name not in ("src", "dst")]
        return f"Graph({', '.join(parts)})"

    # GraphSource

    @property
    def memory_bytes(self) -> int:
        return int(self.nodes.nbytes + self.edges.nbytes)

    @property
    def node_table(self) -> TableInMemory:
        return TableInMemory(self._names[0], self.nodes)

    @property
    def edge_table(self) -> TableInMemory:
        return TableInMemory(self._names[1], self.edges)

    def stamp(self) -> str:
        return self.digest()

    def digest(self) -> str:
        """Return the xxh3 hash of all columns; equal graphs have equal digests."""
        if not self._digest:
            self._digest = digest_of((self.nodes, self.edges))
        return self._digest

    # Conversions

    @classmethod
    def from_arrow(cls, nodes: Any | None, edges: Any, **columns: Unpack[ColumnOptions]) -> Graph:
        """Convert a node table and an edge table that contains the ids of nodes.

        A table is an Arrow table, a data frame of pandas, Polars or another library with an Arrow
        interface, or a dict of columns, such as lists and NumPy arrays.

        Args:
            nodes: Node table. If None, the nodes are the sorted distinct ids of the edges.
            edges: Edge table.
            columns: Names of the columns, such as `features="f_*"`; see
                `graphtheta.data.mapping.ColumnOptions`.

        Returns:
            A graph with these columns and all other columns of the tables.

        Raises:
            ConfigError: If a named column does not exist.
            GraphFormatError: If an end of an edge is not in the node table, or as for `Graph`.
        """
        return cls(*keyed_tables(nodes, edges, **columns))

    @classmethod
    def from_source(cls, source: GraphSource) -> Graph:
        """Read a whole source into memory.

        Raises:
            GraphFormatError: As for `from_arrow`.
        """
        need_attribute(source, "edge_table", "from_source", "a source of nodes and edges")
        of_nodes, of_edges = source.node_table, source.edge_table
        edges = pa.concat_tables(of_edges.chunks(0, of_edges.num_rows))
        nodes = None
        if of_nodes is not None:
            nodes = pa.concat_tables(of_nodes.chunks(0, of_nodes.num_rows))
        names = "nodes" if of_nodes is None else of_nodes.name, of_edges.name
        if nodes is None or not source.keyed:
            nodes, edges = with_keys(nodes, edges, names[1])
        return cls(nodes, edges, names=names)

    @classmethod
    def from_pyg(cls, data: Any, *, label_kind: LabelKind | None = None) -> Graph:
        """Convert a `torch_geometric.data.Data`.

        Reads `x`, `edge_index`, `edge_attr`, `edge_type`, `edge_weight`, `y` (as label `y`), the
        masks (as split `split`; masks of several columns also as `0`, `1`, ...) and `original_id`.
        Without `original_id`, the id of a node is its row. A class below 0 and a target of NaN are
        missing labels.

        Args:
            data: Graph to convert.
            label_kind: Kind of the label `y`. If None, integers are classes, several columns of
                integers or booleans are multi-label classes, and floating-point numbers are
                regression targets.

        Raises:
            GraphFormatError: If the graph is heterogeneous or has no `edge_index`, the length of a
                tensor is not that of the graph, or as for `Graph`.
        """
        return cls(*converted(*interop.from_pyg(data), label_kind))

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
        """Convert a homogeneous `dgl.DGLGraph`.

        Reads the tensors below if they exist, the masks as `from_pyg` does, and
        `ndata["original_id"]`. Without that, the id of a node is its row.

        Args:
            graph: Graph to convert.
            features: Key of the features in `ndata`.
            label: Key in `ndata` of the tensor that becomes label `y`.
            edge_features: Key in `edata` of the tensor that becomes `attr`.
            edge_type: Key in `edata` of the tensor that becomes `type`.
            edge_weight: Key in `edata` of the tensor that becomes `weight`.
            label_kind: Kind of the label `y`, as in `from_pyg`.

        Raises:
            GraphFormatError: If the graph has several node or edge types, or as for `from_pyg`.
        """
        node_keys = {"features": features, "y": label}
        edge_keys = {"attr": edge_features, "type": edge_type, "weight": edge_weight}
        return cls(*converted(*interop.from_dgl(graph, node_keys, edge_keys), label_kind))

    @classmethod
    def from_networkx(cls, graph: Any, **attributes: Unpack[ColumnOptions]) -> Graph:
        """Convert a networkx graph, whose nodes are all integers or all strings.

        An edge of an undirected graph becomes two directed edges, a self-loop one. Floats become
        float32. This loops over nodes and edges in Python, as networkx stores them.

        Args:
            graph: Graph to convert.
            attributes: Names of attributes of nodes and edges, such as `labels="club"`; see
                `graphtheta.data.mapping.ColumnOptions`. Other attributes are left out.

        Raises:
            ConfigError: If no node, or no edge, has a named attribute.
            GraphFormatError: If nodes have several types, an attribute is missing on some nodes or
                edges, or as for `Graph`.
        """
        attributes = {"src": "src", "dst": "dst", **attributes}
        return cls.from_arrow(*interop.from_networkx(graph, **attributes), **attributes)

    def to_pyg(self, *, label: str | None = None, split: str | None = None) -> Any:
        """Convert to a `torch_geometric.data.Data`.

        A missing class is -1, a missing target NaN.

        Args:
            label: Label that becomes `y`. If None, `y` or the only label; without labels there is
                no `y`.
            split: Split that becomes the masks. If None, the splits `0`, `1`, ... as columns of the
                masks if they exist, else `split` or the only split; without splits there are no
                masks.

        Raises:
            ConfigError: If there is no such label or split.
        """
        return interop.to_pyg(self.nodes, self.edges, label=label, split=split)

    def to_dgl(self, *, label: str | None = None, split: str | None = None) -> Any:
        """Convert to a `dgl.DGLGraph`, with the keys that `from_dgl` reads by default.

        String ids are left out, because DGL stores only tensors.

        Args:
            label: Label that becomes `ndata["label"]`; chosen as in `to_pyg`.
            split: Split that becomes the masks; chosen as in `to_pyg`.

        Raises:
            ConfigError: If there is no such label or split.
        """
        return interop.to_dgl(self.nodes, self.edges, label=label, split=split)

    def to_networkx(self) -> Any:
        """Convert to a `networkx.MultiDiGraph` of original ids, with all columns as attributes.

        This loops over nodes and edges in Python, as networkx stores them.
        """
        return interop.to_networkx(self.nodes, self.edges)
