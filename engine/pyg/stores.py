"""PyG's `FeatureStore` and `GraphStore` over a remote graph, read-only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import EdgeAttr, FeatureStore, GraphStore, TensorAttr
from torch_geometric.data.graph_store import EdgeLayout

from graphtheta.engine.client.graph import RemoteGraph
from graphtheta.errors import ConfigError
from graphtheta.partition import ColumnSpec

__all__ = ["RemoteFeatureStore", "RemoteGraphStore"]

# Default column of each attribute.
_COLUMNS = {"x": "features", "y": "label:y"}
_EDGE_COLUMNS = {"edge_attr": "attr", "edge_type": "type", "edge_weight": "weight"}
_CHUNK = 1 << 18  # nodes of a request for all edges


class RemoteFeatureStore(FeatureStore):
    """Feature store of node columns by node key, and of edge columns by edge key.

    Node attributes are in the group None, as in homogeneous graphs. Edge attributes are in a group
    that is a tuple, such as `("node", "to", "node")`.

    Args:
        graph: The graph.
        columns: Node column of each attribute. If None, `x` is the column `features` and `y` the
            column `label:y`, if the graph has them.
        edge_columns: Edge column of each edge attribute. If None, `edge_attr`, `edge_type` and
            `edge_weight` are the columns `attr`, `type` and `weight`, if the graph has them.
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
            of_edges, known = self._columns_for(attr)
            if attr.attr_name not in known:
                raise ConfigError(
                    f"feature store: expected an attribute among {', '.join(known)}, got "
                    f"{attr.attr_name!r}. Specify its column."
                )
            group = groups.setdefault((of_edges, id(attr.index)), {})
            group[number] = known[attr.attr_name]
        found: dict[int, Tensor] = {}
        for (of_edges, _), columns in groups.items():
            index, names = attrs[min(columns)].index, list(dict.fromkeys(columns.values()))
            if of_edges:
                keys = _rows(index, self.graph.num_edges)
                all_keys = np.arange(self.graph.num_edges) if keys is None else keys
                values = self.graph.edge_columns(all_keys, names)
            else:
                values = self.graph.columns(_rows(index, self.graph.num_nodes), names, "node_key")
            found |= {n: torch.from_numpy(values[column]) for n, column in columns.items()}
        return [found[number] for number in range(len(attrs))]

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...]:
        (of_edges, columns), manifest = self._columns_for(attr), self.graph.manifest
        specs = manifest.edge_columns if of_edges else manifest.node_columns
        spec = specs[columns[attr.attr_name]]
        rows = manifest.num_edges if of_edges else manifest.num_nodes
        return (rows,) if spec.width is None else (rows, spec.width)

    def _columns_for(self, attr: TensorAttr) -> tuple[bool, dict[str, str]]:
        """Return whether an attribute is one of edges, and the columns of such attributes."""
        of_edges = isinstance(attr.group_name, tuple)
        return of_edges, self.edge_columns if of_edges else self.columns

    def _put_tensor(self, tensor: Any, attr: TensorAttr) -> NoReturn:
        raise ConfigError("feature store: expected a read, got a write. Build a new store.")

    def _remove_tensor(self, attr: TensorAttr) -> NoReturn:
        raise ConfigError("feature store: expected a read, got a removal. Build a new store.")


class RemoteGraphStore(GraphStore):
    """Graph store that returns all edges of a graph. The remote loaders never request them.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: RemoteGraph) -> None:
        super().__init__()
        self.graph = graph

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        size = (self.graph.num_nodes, self.graph.num_nodes)
        return [EdgeAttr(None, layout, True, size) for layout in (EdgeLayout.CSC, EdgeLayout.CSR)]

    def _get_edge_index(self, attr: EdgeAttr) -> tuple[Tensor, Tensor]:
        out = attr.layout == EdgeLayout.CSR
        indptr, other = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)]
        for first in range(0, self.graph.num_nodes, _CHUNK):
            keys = np.arange(first, min(first + _CHUNK, self.graph.num_nodes))
            found = self.graph.neighbours(keys, by="node_key", direction="out" if out else "in")
            indptr.append(found.indptr[1:] + indptr[-1][-1])
            other.append(found.node_key)
        pointers, ends = np.concatenate(indptr), np.concatenate(other)
        if attr.layout == EdgeLayout.COO:
            pointers = np.repeat(np.arange(self.graph.num_nodes), np.diff(pointers))
        pair = torch.from_numpy(pointers), torch.from_numpy(ends)
        return pair if out else pair[::-1]

    def _put_edge_index(self, edge_index: Any, edge_attr: EdgeAttr) -> NoReturn:
        raise ConfigError("graph store: expected a read, got a write. Build a new store.")

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> NoReturn:
        raise ConfigError("graph store: expected a read, got a removal. Build a new store.")


def _columns_of(
    option: str,
    given: Mapping[str, str] | None,
    defaults: Mapping[str, str],
    known: Mapping[str, ColumnSpec],
) -> dict[str, str]:
    """Return the column of each attribute."""
    if given is None:
        return {name: column for name, column in defaults.items() if column in known}
    unknown = sorted(set(given.values()) - known.keys())
    if unknown:
        raise ConfigError(
            f"{option}: expected columns among {', '.join(known)}, got {', '.join(unknown)}."
        )
    return dict(given)


def _rows(index: Any, total: int) -> NDArray[np.int64] | None:
    """Return the rows of PyG's index as numbers, or None for all rows."""
    if index is None:
        return None
    if isinstance(index, slice):
        return np.arange(total)[index]
    rows = np.atleast_1d(np.asarray(index))
    return np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64, copy=False)
