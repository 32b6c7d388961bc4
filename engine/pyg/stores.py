"""PyG's `FeatureStore` and `GraphStore` over a remote graph, read-only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import EdgeAttr, FeatureStore, GraphStore, TensorAttr
from torch_geometric.data.graph_store import EdgeLayout

from graphtheta.engine.client.graph import RemoteGraph
from graphtheta.errors import ConfigError, GraphFormatError, UnknownAttribute
from graphtheta.partition import ColumnSpec
from graphtheta.wording import counted

__all__ = ["RemoteFeatureStore", "RemoteGraphStore", "node_keys"]

# Default column of each attribute.
_COLUMNS = {"x": "features", "y": "label:y"}
_EDGE_COLUMNS = {"edge_attr": "attr", "edge_type": "type", "edge_weight": "weight"}
_EDGES = ("node", "to", "node")  # group of the edge attributes
_CHUNK = 1 << 18  # nodes of a request for all edges


class RemoteFeatureStore(FeatureStore):
    """Feature store of node columns by node key, and of edge columns by edge key.

    Node attributes are in the group None, as in homogeneous graphs. Edge attributes are in the
    group `("node", "to", "node")`. Attributes in other groups do not exist.

    Args:
        graph: The graph.
        columns: Node column of each attribute. If None, `x` is the column `features` and `y` the
            column `label:y`, if the graph has them.
        edge_columns: Edge column of each edge attribute. If None, `edge_attr`, `edge_type` and
            `edge_weight` are the columns `attr`, `type` and `weight`, if the graph has them.

    Raises:
        ConfigError: If the graph has no such column, or it holds no numbers.
    """

    def __init__(
        self,
        graph: RemoteGraph,
        columns: Mapping[str, str] | None = None,
        edge_columns: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        manifest = graph.manifest
        self.graph = graph
        self.columns = _columns_of("columns", columns, _COLUMNS, manifest.node_columns)
        self.edge_columns = _columns_of(
            "edge_columns", edge_columns, _EDGE_COLUMNS, manifest.edge_columns
        )

    def split(self, name: str, column: str = "split:split") -> Tensor:
        """Return the node keys of a split in ascending order.

        Args:
            name: `train`, `val` or `test`.
            column: Node column of the splits.

        Shape:
            Returns (T,) int64.
        """
        splits = {"train": 1, "val": 2, "test": 3}
        if name not in splits:
            raise ConfigError(f"split: expected train, val or test, got {name!r}.")
        values = self.graph.columns(None, [column])[column]
        return torch.from_numpy(np.flatnonzero(values == splits[name]))

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        # Without the edge attributes: PyG's loaders would request them by node key.
        return [TensorAttr(None, name) for name in self.columns]

    def _get_tensor(self, attr: TensorAttr) -> Tensor:
        return self._multi_get_tensor([attr])[0]

    def _multi_get_tensor(self, attrs: list[TensorAttr]) -> list[Tensor]:
        groups: dict[tuple[bool, int], dict[int, str]] = {}
        for number, attr in enumerate(attrs):  # one request for all attributes of the same rows
            known = self._columns_for(attr)
            if attr.attr_name not in known:
                raise UnknownAttribute(
                    f"feature store: expected one of {', '.join(self.columns) or 'none'} of the "
                    f"group None, or one of {', '.join(self.edge_columns) or 'none'} of {_EDGES}, "
                    f"got {attr.attr_name!r} of {attr.group_name!r}. Specify its column."
                )
            group = groups.setdefault((attr.group_name is not None, id(attr.index)), {})
            group[number] = known[attr.attr_name]
        found: dict[int, Tensor] = {}
        for (of_edges, _), columns in groups.items():
            index, names = attrs[min(columns)].index, list(dict.fromkeys(columns.values()))
            if of_edges:
                keys = _rows(index, self.graph.num_edges)
                if not _has_keys(index):
                    all_keys = _edge_keys(self.graph)
                    keys = all_keys if keys is None else all_keys[keys]
                values = self.graph.edge_columns(keys, names)
            else:
                values = self.graph.columns(_rows(index, self.graph.num_nodes), names, "node_key")
            is_one = index is not None and not isinstance(index, slice) and np.ndim(index) == 0
            for number, column in columns.items():
                tensor = torch.from_numpy(values[column])
                found[number] = tensor[0] if is_one else tensor
        return [found[number] for number in range(len(attrs))]

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...] | None:
        columns, manifest = self._columns_for(attr), self.graph.manifest
        if attr.attr_name not in columns:
            return None
        of_edges = attr.group_name is not None
        specs = manifest.edge_columns if of_edges else manifest.node_columns
        width = specs[columns[attr.attr_name]].width
        rows = manifest.num_edges if of_edges else manifest.num_nodes
        return (rows,) if width is None else (rows, width)

    def _columns_for(self, attr: TensorAttr) -> dict[str, str]:
        """Return the columns of the attributes of a group."""
        if attr.group_name is None:
            return self.columns
        return self.edge_columns if attr.group_name == _EDGES else {}

    def _put_tensor(self, tensor: Any, attr: TensorAttr) -> NoReturn:
        raise ConfigError("feature store: expected a read, got a write. Build a new store.")

    def _remove_tensor(self, attr: TensorAttr) -> NoReturn:
        raise ConfigError("feature store: expected a read, got a removal. Build a new store.")


class RemoteGraphStore(GraphStore):
    """Graph store that returns all edges of a graph. The remote loaders never request them.

    The edge type is None, as in homogeneous graphs. In the layout COO, edges are in the order of
    their keys, or sorted by destination on request; in CSC and CSR, each list is in that order.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: RemoteGraph) -> None:
        super().__init__()
        self.graph = graph

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        # PyG converts from the first: only from COO do its permutations lead back to edge keys.
        size = (self.graph.num_nodes, self.graph.num_nodes)
        layouts = (EdgeLayout.COO, EdgeLayout.CSC, EdgeLayout.CSR)
        return [EdgeAttr(None, layout, layout == EdgeLayout.CSC, size) for layout in layouts]

    def _get_edge_index(self, attr: EdgeAttr) -> tuple[Tensor, Tensor] | None:
        size = (self.graph.num_nodes, self.graph.num_nodes)
        if attr.edge_type is not None or attr.size not in (None, size):
            return None  # PyG raises a KeyError
        out = attr.layout == EdgeLayout.CSR
        pointers, ends, keys = _all_edges(self.graph, out=out)
        if attr.layout == EdgeLayout.COO:
            pointers = np.repeat(np.arange(self.graph.num_nodes), np.diff(pointers))
            if not attr.is_sorted:
                order = np.argsort(keys)
                pointers, ends = pointers[order], ends[order]
        pair = torch.from_numpy(pointers), torch.from_numpy(ends)
        return pair if out else pair[::-1]

    def _put_edge_index(self, edge_index: Any, edge_attr: EdgeAttr) -> NoReturn:
        raise ConfigError("graph store: expected a read, got a write. Build a new store.")

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> NoReturn:
        raise ConfigError("graph store: expected a read, got a removal. Build a new store.")


def node_keys(graph: RemoteGraph, nodes: Any, what: str) -> Tensor:
    """Return the node keys that a user gave for a loader, as a tensor.

    Args:
        graph: The graph.
        nodes: List, array or tensor of node keys, or a mask of all nodes. If None, all nodes.
        what: Name of the argument in error messages.

    Shape:
        Returns (T,) int64.

    Raises:
        GraphFormatError: If they are no integers, or a mask of another length.
    """
    rows = _rows(nodes, graph.num_nodes, what)
    return torch.from_numpy(np.arange(graph.num_nodes) if rows is None else rows)


def _all_edges(graph: RemoteGraph, *, out: bool) -> tuple[NDArray[np.int64], ...]:
    """Return all edges by source (if `out`) or destination.

    Shape:
        Returns (N + 1,) pointers, (E,) node keys of the other ends, and (E,) edge keys.
    """
    indptr, other, edge_key = ([np.zeros(1 - k, np.int64)] for k in (0, 1, 1))
    for first in range(0, graph.num_nodes, _CHUNK):
        keys = np.arange(first, min(first + _CHUNK, graph.num_nodes))
        found = graph.neighbours(keys, by="node_key", direction="out" if out else "in")
        indptr.append(found.indptr[1:] + indptr[-1][-1])
        other.append(found.node_key)
        edge_key.append(found.edge_key)
    return np.concatenate(indptr), np.concatenate(other), np.concatenate(edge_key)


def _edge_keys(graph: RemoteGraph) -> NDArray[np.int64]:
    """Return the keys of all edges in ascending order."""
    manifest = graph.manifest
    if manifest.self_loops and manifest.repeats and not manifest.undirected:
        return np.arange(graph.num_edges)
    return np.sort(_all_edges(graph, out=False)[2])


def _columns_of(
    option: str,
    given: Mapping[str, str] | None,
    defaults: Mapping[str, str],
    known: Mapping[str, ColumnSpec],
) -> dict[str, str]:
    """Return the column of each attribute."""
    if given is None:
        return {name: column for name, column in defaults.items() if column in known}
    numeric = {n for n, spec in known.items() if _is_number(pa.type_for_alias(spec.dtype))}
    unknown = sorted(set(given.values()) - numeric)
    if unknown:
        raise ConfigError(
            f"{option}: expected columns of numbers among {', '.join(sorted(numeric)) or 'none'}, "
            f"got {', '.join(unknown)}. Name some of these."
        )
    return dict(given)


def _is_number(kind: pa.DataType) -> bool:
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(is_number or pa.types.is_boolean(kind))


def _has_keys(index: Any) -> bool:
    """Return whether PyG's index holds keys, and not a slice or mask of all rows."""
    return not (index is None or isinstance(index, slice) or np.asarray(index).dtype == np.bool_)


def _rows(index: Any, total: int, what: str = "index") -> NDArray[np.int64] | None:
    """Return PyG's index as a list of numbers, or None for all rows.

    Raises:
        GraphFormatError: If it holds no integers, or is a mask of another length.
    """
    if index is None or (isinstance(index, slice) and index == slice(None)):
        return None
    if isinstance(index, slice):
        return np.arange(total)[index]
    rows = np.asarray(index)
    if rows.dtype == np.bool_ and rows.shape == (total,):
        return np.flatnonzero(rows)
    if rows.ndim > 1 or (rows.dtype.kind not in "iu" and rows.size) or rows.dtype == np.bool_:
        raise GraphFormatError(
            f"{what}: expected a list of integers or a mask of {counted(total, 'row')}, "
            f"got {rows.dtype} of "
            f"shape {rows.shape}. Convert it."
        )
    return np.atleast_1d(rows).astype(np.int64, copy=False)
