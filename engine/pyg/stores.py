"""PyG's `FeatureStore` and `GraphStore` over a remote graph, read-only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import EdgeAttr, FeatureStore, GraphStore, TensorAttr
from torch_geometric.data.graph_store import EdgeLayout

from graphtheta.engine.client.graph import RemoteGraph
from graphtheta.engine.pyg.key_ranges import (
    EdgeRange,
    NodeRange,
    edge_ranges,
    node_range,
    node_ranges,
)
from graphtheta.errors import ConfigError, GraphFormatError, UnknownAttribute
from graphtheta.wording import counted

__all__ = ["RemoteFeatureStore", "RemoteGraphStore", "node_keys"]

# Default column of each attribute.
_COLUMNS = {"x": "features", "y": "label:y"}
_EDGE_COLUMNS = {"edge_attr": "attr", "edge_type": "type", "edge_weight": "weight"}
_CHUNK = 1 << 18  # nodes of a request for all edges


class RemoteFeatureStore(FeatureStore):
    """Feature store of node columns by node key, and of edge columns by edge key.

    Node attributes are in the group None, as in homogeneous graphs. Edge attributes are in the
    group `("node", "to", "node")`. In a graph of several node types or relations, groups are the
    names of the types and the relations, and rows are numbered from 0 in each, as in `HeteroData`.
    Attributes in other groups do not exist.

    Args:
        graph: The graph.
        columns: Node column of each attribute; in a typed graph for each type, as in
            `{"paper": {"x": "features"}}`. If None, `x` is the column `features` and `y` the column
            `label:y`, or the only label of a type, if the graph has them.
        edge_columns: Edge column of each edge attribute; in a typed graph for each relation. If
            None, `edge_attr`, `edge_type` and `edge_weight` are the columns `attr`, `type` and
            `weight`, if the graph has them.

    Attributes:
        graph: The graph.
        edge_columns: Edge column of each edge attribute, by relation.

    Raises:
        ConfigError: If the graph has no such type, relation or column, or it holds no numbers.
    """

    def __init__(
        self,
        graph: RemoteGraph,
        columns: Mapping[str, Any] | None = None,
        edge_columns: Mapping[Any, Any] | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self._nodes, self._edges = node_ranges(graph), edge_ranges(graph)
        typed = graph.manifest.is_typed
        self._of_nodes = _columns_of("columns", columns, _COLUMNS, self._nodes, is_typed=typed)
        self.edge_columns = _columns_of(
            "edge_columns", edge_columns, _EDGE_COLUMNS, self._edges, is_typed=typed
        )

    def split(self, name: str, column: str = "split:split", node_type: str | None = None) -> Tensor:
        """Return the node keys of a split in ascending order.

        Args:
            name: `train`, `val` or `test`.
            column: Node column of the splits.
            node_type: Type of the nodes in a typed graph, whose nodes are then numbered from 0.

        Shape:
            Returns (T,) int64.
        """
        splits = {"train": 1, "val": 2, "test": 3}
        if name not in splits:
            raise ConfigError(f"split: expected train, val or test, got {name!r}.")
        node_range(self.graph, node_type)
        values = self.graph.columns(None, [column], node_type=node_type)[column]
        return torch.from_numpy(np.flatnonzero(values == splits[name]))

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        # Without the edge attributes: PyG's loaders would request them by node key.
        return [
            TensorAttr(group, name) for group, names in self._of_nodes.items() for name in names
        ]

    def _get_tensor(self, attr: TensorAttr) -> Tensor:
        return self._multi_get_tensor([attr])[0]

    def _multi_get_tensor(self, attrs: list[TensorAttr]) -> list[Tensor]:
        requests: dict[tuple[Any, int], dict[int, str]] = {}
        for number, attr in enumerate(attrs):  # one request for all attributes of the same rows
            known = self._columns_for(attr)
            if attr.attr_name not in known:
                groups: dict[Any, dict[str, str]] = {**self._of_nodes, **self.edge_columns}
                raise UnknownAttribute(
                    f"feature store: expected one of "
                    f"{'; '.join(_listed(group, names) for group, names in groups.items())}, "
                    f"got {attr.attr_name!r} of {attr.group_name!r}. Specify its column."
                )
            request = requests.setdefault((attr.group_name, id(attr.index)), {})
            request[number] = known[attr.attr_name]
        found: dict[int, Tensor] = {}
        for (group, _), columns in requests.items():
            index, names = attrs[min(columns)].index, list(dict.fromkeys(columns.values()))
            values = self._values(group, index, names)
            is_one = index is not None and not isinstance(index, slice) and np.ndim(index) == 0
            for number, column in columns.items():
                tensor = torch.from_numpy(values[column])
                found[number] = tensor[0] if is_one else tensor
        return [found[number] for number in range(len(attrs))]

    def _values(self, group: Any, index: Any, names: list[str]) -> dict[str, NDArray[Any]]:
        if group in self._edges:
            edges = self._edges[group]
            keys = _rows(index, edges.size)
            if _has_keys(index):
                assert keys is not None
                keys = keys + edges.first_key
            else:
                all_keys = _edge_keys(self.graph, edges)
                keys = all_keys if keys is None else all_keys[keys]
            return self.graph.edge_columns(keys, names, relation=edges.relation)
        nodes = self._nodes[group]
        rows = _rows(index, nodes.size)
        keys = None if rows is None else rows + nodes.first_key
        return self.graph.columns(keys, names, "node_key", node_type=nodes.node_type)

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...] | None:
        columns = self._columns_for(attr)
        if attr.attr_name not in columns:
            return None
        ranges: dict[Any, NodeRange | EdgeRange] = {**self._nodes, **self._edges}
        of = ranges[attr.group_name]
        width = of.columns[columns[attr.attr_name]].width
        return (of.size,) if width is None else (of.size, width)

    def _columns_for(self, attr: TensorAttr) -> dict[str, str]:
        """Return the columns of the attributes of a group."""
        groups: dict[Any, dict[str, str]] = {**self._of_nodes, **self.edge_columns}
        return groups.get(attr.group_name, {})

    def _put_tensor(self, tensor: Any, attr: TensorAttr) -> NoReturn:
        raise ConfigError("feature store: expected a read, got a write. Build a new store.")

    def _remove_tensor(self, attr: TensorAttr) -> NoReturn:
        raise ConfigError("feature store: expected a read, got a removal. Build a new store.")


class RemoteGraphStore(GraphStore):
    """Graph store that returns all edges of a graph. The remote loaders never request them.

    The edge type is None, as in homogeneous graphs; in a graph of several node types or relations,
    it is the relation. In the layout COO, edges are in the order of their keys, or sorted by
    destination on request; in CSC and CSR, each list is in that order.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: RemoteGraph) -> None:
        super().__init__()
        self.graph = graph
        found = edge_ranges(graph)
        self._edges = {group if graph.manifest.is_typed else None: found[group] for group in found}

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        # PyG converts from the first: only from COO do its permutations lead back to edge keys.
        layouts = (EdgeLayout.COO, EdgeLayout.CSC, EdgeLayout.CSR)
        return [
            EdgeAttr(group, layout, layout == EdgeLayout.CSC, (of.source.size, of.destination.size))
            for group, of in self._edges.items()
            for layout in layouts
        ]

    def _get_edge_index(self, attr: EdgeAttr) -> tuple[Tensor, Tensor] | None:
        edges = self._edges.get(attr.edge_type)
        if edges is None or attr.size not in (None, (edges.source.size, edges.destination.size)):
            return None  # PyG raises a KeyError
        out = attr.layout == EdgeLayout.CSR
        pointers, ends, keys = _all_edges(self.graph, edges, out=out)
        if attr.layout == EdgeLayout.COO:
            pointers = np.repeat(np.arange(edges.destination.size), np.diff(pointers))
            if not attr.is_sorted:
                order = np.argsort(keys)
                pointers, ends = pointers[order], ends[order]
        pair = torch.from_numpy(pointers), torch.from_numpy(ends)
        return pair if out else pair[::-1]

    def _put_edge_index(self, edge_index: Any, edge_attr: EdgeAttr) -> NoReturn:
        raise ConfigError("graph store: expected a read, got a write. Build a new store.")

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> NoReturn:
        raise ConfigError("graph store: expected a read, got a removal. Build a new store.")


def node_keys(graph: RemoteGraph, nodes: Any, what: str, node_type: str | None = None) -> Tensor:
    """Return the node keys that a user gave for a loader, as a tensor.

    Args:
        graph: The graph.
        nodes: List, array or tensor of node keys, or a mask of all nodes. If None, all nodes.
        what: Name of the argument in error messages.
        node_type: Type of the nodes in a typed graph, whose nodes are numbered from 0.

    Shape:
        Returns (T,) int64.

    Raises:
        ConfigError: If there is no such type.
        GraphFormatError: If they are no integers, or a mask of another length.
    """
    count = node_range(graph, node_type).size
    rows = _rows(nodes, count, what)
    return torch.from_numpy(np.arange(count) if rows is None else rows)


def _all_edges(graph: RemoteGraph, edges: EdgeRange, *, out: bool) -> tuple[NDArray[np.int64], ...]:
    """Return all edges of a relation by source (if `out`) or destination.

    Shape:
        Returns (N + 1,) pointers, (E,) numbers of the other ends, and (E,) edge keys.
    """
    own, end = edges.source, edges.destination
    own, end = (own, end) if out else (end, own)
    indptr, other, edge_key = ([np.zeros(1 - k, np.int64)] for k in (0, 1, 1))
    for first in range(0, own.size, _CHUNK):
        keys = np.arange(first, min(first + _CHUNK, own.size)) + own.first_key
        direction: Literal["in", "out"] = "out" if out else "in"
        relation = edges.relation
        found = graph.neighbours(keys, by="node_key", direction=direction, relation=relation)
        indptr.append(found.indptr[1:] + indptr[-1][-1])
        other.append(found.node_key - end.first_key)
        edge_key.append(found.edge_key)
    return np.concatenate(indptr), np.concatenate(other), np.concatenate(edge_key)


def _edge_keys(graph: RemoteGraph, edges: EdgeRange) -> NDArray[np.int64]:
    """Return the keys of all edges of a relation in ascending order."""
    manifest = graph.manifest
    if manifest.self_loops and manifest.repeats and not manifest.undirected:
        return np.arange(edges.size) + edges.first_key
    return np.sort(_all_edges(graph, edges, out=False)[2])


def _columns_of(
    option: str,
    given: Mapping[Any, Any] | None,
    defaults: Mapping[str, str],
    ranges: Mapping[Any, NodeRange | EdgeRange],
    *,
    is_typed: bool,
) -> dict[Any, dict[str, str]]:
    """Return the column of each attribute, by group."""
    if given is None:
        return {group: _default_columns(defaults, of) for group, of in ranges.items()}
    by_group = dict(given) if is_typed else dict.fromkeys(ranges, given)
    if unknown := [group for group in by_group if group not in ranges]:
        raise ConfigError(
            f"{option}: expected columns by {', '.join(map(str, ranges))}, got {unknown[0]}. "
            "Name some of these."
        )
    return {
        group: _known_columns(option, by_group.get(group, {}), of) for group, of in ranges.items()
    }


def _default_columns(defaults: Mapping[str, str], of: NodeRange | EdgeRange) -> dict[str, str]:
    found = {name: column for name, column in defaults.items() if column in of.columns}
    labels = [column for column in of.columns if column.startswith("label:")]
    is_typed_node = isinstance(of, NodeRange) and of.node_type is not None
    if is_typed_node and "y" not in found and len(labels) == 1:
        found["y"] = labels[0]
    return found


def _known_columns(
    option: str, given: Mapping[str, str], of: NodeRange | EdgeRange
) -> dict[str, str]:
    numeric = {n for n, spec in of.columns.items() if _is_number(pa.type_for_alias(spec.dtype))}
    unknown = sorted(set(given.values()) - numeric)
    if unknown:
        raise ConfigError(
            f"{option}: expected columns of numbers among {', '.join(sorted(numeric)) or 'none'}, "
            f"got {', '.join(unknown)}. Name some of these."
        )
    return dict(given)


def _listed(group: Any, names: Iterable[str]) -> str:
    return f"{', '.join(names) or 'none'} of {group}"


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
