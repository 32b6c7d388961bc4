"""Graph: a whole graph in memory as two Arrow tables, checked when it is made.

Row i of `nodes` is node_key i, row j of `edges` is edge_key j. `graphtheta.data.schema`
defines the columns. A Graph is read-only; it is a `GraphSource`, so that it can be partitioned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from graphtheta.data import interop
from graphtheta.data.batches import sliced
from graphtheta.data.mapping import Column, Names, plan_edges, plan_nodes, shape
from graphtheta.data.schema import (
    as_numpy,
    in_range,
    named_column,
    names_of,
    need_column,
    refuse,
    some,
    validate_edges,
    validate_nodes,
    whole,
)
from graphtheta.errors import GraphFormatError

if TYPE_CHECKING:
    from graphtheta.data.source import GraphSource

__all__ = ["Graph", "validate_edges", "validate_nodes"]


class Graph:
    """A graph of one node type, in memory.

    Args:
        nodes: The node table, with `id` and columns as in `graphtheta.data.schema`.
        edges: The edge table; `src` and `dst` are int64 node keys.

    Attributes:
        nodes: The node table; every column is one chunk.
        edges: The edge table; every column is one chunk.

    Raises:
        GraphFormatError: If there is no node, an id is used twice, an edge's end is not a node, or
            a column has a wrong type or value. One line that says where.
    """

    __slots__ = ("_digest", "edges", "nodes")

    nodes: pa.Table
    edges: pa.Table

    def __init__(self, nodes: pa.Table, edges: pa.Table) -> None:
        need_column("id", nodes.column_names, "nodes")
        for end in ("src", "dst"):
            need_column(end, edges.column_names, "edges")
        if not nodes.num_rows:
            raise GraphFormatError(
                "nodes: expected at least one node, got none. Check that the input is not empty."
            )
        validate_nodes(nodes, "nodes")
        validate_edges(edges, "edges")
        _check_unique(nodes["id"])
        for end in ("src", "dst"):
            if not pa.types.is_int64(edges.schema.field(end).type):
                raise refuse(
                    f"edges: {end}",
                    "int64 node keys",
                    edges.schema.field(end).type,
                    "Use Graph.from_arrow for edges that name nodes by id.",
                )
            expected = f"node keys in [0, {nodes.num_rows:,})"
            in_range(whole(edges[end]), 0, nodes.num_rows - 1, f"edges: {end}", 0, expected)
        self.nodes = nodes.combine_chunks().replace_schema_metadata(None)
        self.edges = edges.combine_chunks().replace_schema_metadata(None)
        self._digest = ""

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
        """Number of input features of a node; 0 if there are none."""
        if "features" not in self.nodes.column_names:
            return 0
        return int(self.nodes.schema.field("features").type.list_size)

    @property
    def ids(self) -> NDArray[Any]:
        """Original ids.

        Shape:
            (N,) int64, or object (str).
        """
        return as_numpy(self.nodes["id"])

    @property
    def features(self) -> NDArray[Any]:
        """Input features; a read-only view.

        Shape:
            (N, F) float32 or float64.

        Raises:
            ConfigError: If there are none.
        """
        return self.column("features", of="nodes")

    @property
    def src(self) -> NDArray[np.int64]:
        """Node keys of the edges' sources; a read-only view.

        Shape:
            (E,) int64.
        """
        return as_numpy(self.edges["src"])

    @property
    def dst(self) -> NDArray[np.int64]:
        """Node keys of the edges' destinations; a read-only view.

        Shape:
            (E,) int64.
        """
        return as_numpy(self.edges["dst"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the nodes' label columns."""
        return names_of("label", self.nodes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the nodes' split columns."""
        return names_of("split", self.nodes)

    def label(self, name: str | None = None) -> NDArray[Any]:
        """Return a label of the nodes, 0 where it is missing; see `labelled`.

        Args:
            name: Which one; None: `y`, or the only one.

        Shape:
            (N,) or (N, K); a view, except for booleans.

        Raises:
            ConfigError: If there is no such label.
        """
        return as_numpy(self.nodes[named_column("label", self.nodes, name)])

    def labelled(self, name: str | None = None) -> NDArray[np.bool_]:
        """Return which nodes have the label `name`.

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
            name: Which one; None: `split`, or the only one.

        Shape:
            (N,) int8, a view.

        Raises:
            ConfigError: If there is no such split.
        """
        return as_numpy(self.nodes[named_column("split", self.nodes, name)])

    def column(self, name: str, *, of: Literal["edges", "nodes"] = "edges") -> NDArray[Any]:
        """Return any column as NumPy, a view where Arrow's layout allows it.

        Raises:
            ConfigError: If there is no such column; the message lists those that exist.
        """
        table = self.edges if of == "edges" else self.nodes
        return as_numpy(table[need_column(name, table.column_names, of)])

    def __repr__(self) -> str:
        parts = [f"{self.num_nodes:,} nodes", f"{self.num_edges:,} edges"]
        parts += [f"{self.num_features:,} features"] if self.num_features else []
        parts += [f"label {name}" for name in self.labels]
        parts += [f"split {name}" for name in self.splits]
        return f"Graph({', '.join(parts)})"

    # GraphSource

    @property
    def keyed(self) -> bool:
        """True: `src` and `dst` are node keys."""
        return True

    @property
    def node_schema(self) -> pa.Schema:
        """Columns of the node table."""
        return self.nodes.schema

    @property
    def edge_schema(self) -> pa.Schema:
        """Columns of the edge table."""
        return self.edges.schema

    def node_chunks(self, start: int, stop: int, *, ids_only: bool = False) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of the node table, or its `id` alone, without a copy."""
        return sliced(self.nodes.select(["id"]) if ids_only else self.nodes, start, stop)

    def edge_chunks(self, start: int, stop: int, *, ends_only: bool = False) -> Iterator[pa.Table]:
        """Yield rows [start, stop) of the edge table, or its `src` and `dst` alone, likewise."""
        return sliced(self.edges.select(["src", "dst"]) if ends_only else self.edges, start, stop)

    def stamp(self) -> str:
        """Return the digest: everything is in memory."""
        return self.digest()

    def digest(self) -> str:
        """Return the xxh3 of both tables' columns; equal graphs have equal digests."""
        if not self._digest:
            sink = _Hash()
            for table in (self.nodes, self.edges):
                with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as writer:
                    writer.write_table(table)
            self._digest = sink.hash.hexdigest()
        return self._digest

    # Made from other things, and turned into them

    @classmethod
    def from_arrow(
        cls,
        nodes: pa.Table | None,
        edges: pa.Table,
        *,
        id: str | None = "id",
        src: str = "src",
        dst: str = "dst",
        features: str | Sequence[str] | None = None,
        labels: Names | None = None,
        splits: Names | None = None,
        edge_features: str | Sequence[str] | None = None,
        edge_type: str | None = None,
        edge_weight: str | None = None,
    ) -> Graph:
        """Make a graph of a node table and an edge table whose edges name nodes by id.

        Args:
            nodes: The node table; None: the nodes are the sorted distinct ids of the edges.
            edges: The edge table.
            id: The nodes' column of ids, integers or strings. None: a node's id is its row number.
            src: The edges' column of source ids.
            dst: The edges' column of destination ids.
            features: A list column, or scalar columns as names or a glob, say `"f_*"`, combined in
                natural order. None: the column `features`, if there is one.
            labels: Label columns by name, or a mapping of label names to columns. None: columns
                already called `label:<name>`. Nulls are missing labels.
            splits: Split columns, likewise: words (`train`, `val`, `test`), 0 to 3, or booleans
                (True: train). A mapping may give three boolean columns: train, validation, test.
            edge_features: As `features`, for the edges; becomes `attr`.
            edge_type: The edges' column of types, integers from 0; becomes `type`.
            edge_weight: The edges' column of weights; becomes `weight`.

        Returns:
            A graph that also keeps every column that is not named here.

        Raises:
            ConfigError: If a named column does not exist.
            GraphFormatError: If an edge names an unknown node, or as for `Graph`.
        """
        edge_plan = plan_edges(
            edges.column_names,
            "edges",
            src=src,
            dst=dst,
            features=edge_features,
            type=edge_type,
            weight=edge_weight,
        )
        edge_table = shape(edges, _with_others(edge_plan, edges), "edges")
        if nodes is None:
            node_table = pa.table({"id": _ends(edge_table)})
        else:
            node_plan = plan_nodes(
                nodes.column_names, "nodes", id=id, features=features, labels=labels, splits=splits
            )
            node_table = shape(nodes, _with_others(node_plan, nodes), "nodes")
            if id is None:
                rows = pa.array(np.arange(nodes.num_rows))
                node_table = pa.table({"id": rows, **_columns(node_table)})
        keys = {end: _keys(edge_table[end], node_table["id"], end) for end in ("src", "dst")}
        return cls(node_table, pa.table({**_columns(edge_table), **keys}))

    @classmethod
    def from_source(cls, source: GraphSource) -> Graph:
        """Read a whole source into memory.

        Raises:
            GraphFormatError: As for `from_arrow`.
        """
        edges = pa.concat_tables(source.edge_chunks(0, source.num_edges))
        nodes = None
        if source.num_nodes is not None:
            nodes = pa.concat_tables(source.node_chunks(0, source.num_nodes))
        if source.keyed and nodes is not None:
            return cls(nodes, edges)
        return cls.from_arrow(nodes, edges)

    @classmethod
    def from_pyg(cls, data: Any) -> Graph:
        """Make a graph of a `torch_geometric.data.Data`; see `graphtheta.data.interop.from_pyg`."""
        return cls(*interop.from_pyg(data))

    @classmethod
    def from_dgl(cls, graph: Any, **options: Any) -> Graph:
        """Make a graph of a homogeneous `dgl.DGLGraph`; see `graphtheta.data.interop.from_dgl`."""
        return cls(*interop.from_dgl(graph, **options))

    @classmethod
    def from_networkx(cls, graph: Any, **options: Any) -> Graph:
        """Make a graph of a networkx graph; see `graphtheta.data.interop.from_networkx`."""
        return cls.from_arrow(*interop.from_networkx(graph, **options))

    def to_pyg(self, *, label: str | None = None, split: str | None = None) -> Any:
        """Return a `torch_geometric.data.Data`; see `graphtheta.data.interop.to_pyg`."""
        return interop.to_pyg(self.nodes, self.edges, label=label, split=split)

    def to_dgl(self, *, label: str | None = None, split: str | None = None) -> Any:
        """Return a `dgl.DGLGraph`; see `graphtheta.data.interop.to_dgl`."""
        return interop.to_dgl(self.nodes, self.edges, label=label, split=split)

    def to_networkx(self) -> Any:
        """Return a `networkx.MultiDiGraph`; see `graphtheta.data.interop.to_networkx`."""
        return interop.to_networkx(self.nodes, self.edges)


class _Hash:
    """A file that only hashes what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.hash = xxhash.xxh3_128()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing to close: the hash goes on over the next table."""


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _with_others(plan: dict[str, Column], table: pa.Table) -> dict[str, Column]:
    used = {name for column in plan.values() for name in column.inputs}
    others = [n for n in table.column_names if n not in used and n not in plan]
    return plan | {name: Column("other", (name,)) for name in others}


def _check_unique(ids: pa.ChunkedArray) -> None:
    if len(pc.unique(ids)) == len(ids):
        return
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    raise refuse(
        "nodes: id",
        "unique ids",
        f"{some(twice.slice(0, 3).to_pylist(), len(twice))} more than once",
        "Remove the duplicate rows.",
    )


def _ends(edges: pa.Table) -> pa.Array:
    src, dst = edges["src"], edges["dst"]
    if src.type != dst.type:
        raise refuse("edges: dst", f"ids of type {src.type} as in src", dst.type, "Convert one.")
    ids = pc.unique(pa.chunked_array(src.chunks + dst.chunks, src.type)).drop_null()
    return ids.take(pc.sort_indices(ids))


def _keys(ends: pa.ChunkedArray, ids: pa.ChunkedArray, name: str) -> pa.Array:
    where = f"edges: {name}"
    if ends.type != ids.type:
        raise refuse(
            where, f"ids of type {ids.type} as in the nodes' id", ends.type, "Convert one of them."
        )
    keys = whole(pc.index_in(ends, whole(ids)))
    if keys.null_count:
        unknown = pc.unique(ends.filter(keys.is_null()))
        raise refuse(
            where,
            "ids of the node table",
            f"{some(unknown.slice(0, 3).to_pylist(), len(unknown))} (in {keys.null_count:,} rows)",
            "Add these nodes or drop these edges.",
        )
    return keys.cast(pa.int64())
