"""Conversion of node and edge tables from and to PyTorch Geometric, DGL and networkx.

The methods of `Graph`, such as `Graph.from_pyg`, call these functions and describe their arguments.

The other libraries have no missing labels. In their graphs, a class below 0 and a target of NaN
are missing; in graphs made for them, a missing class or boolean is -1 and a missing target NaN.

torch, dgl and networkx are imported only inside the functions that need them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.mapping import (
    Column,
    ColumnOptions,
    options_by_table,
    plan_edges,
    plan_nodes,
)
from graphtheta.data.schema import (
    as_numpy,
    matrix_column,
    named_column,
    names_of,
    need_attribute,
    refuse,
    split_columns,
)
from graphtheta.errors import GraphFormatError
from graphtheta.wording import counted

Tables = tuple[pa.Table, pa.Table]  # nodes, edges

__all__ = ["from_dgl", "from_networkx", "from_pyg", "to_dgl", "to_networkx", "to_pyg"]

MASKS = ("train_mask", "val_mask", "test_mask")
_NODE_DATA = ("original_id", "features", "y", *MASKS)
_EDGE_DATA = ("attr", "type", "weight")
_PYG_NAMES = {"features": "x", "attr": "edge_attr", "type": "edge_type", "weight": "edge_weight"}


def from_pyg(data: Any) -> Tables:
    """Return the node and edge tables of a `torch_geometric.data.Data`; see `Graph.from_pyg`."""
    if hasattr(data, "node_types"):
        raise GraphFormatError(
            "from_pyg: expected a graph of one node type, got HeteroData. "
            "Convert it with data.to_homogeneous()."
        )
    need_attribute(data, "edge_index", "from_pyg", "a torch_geometric.data.Data")
    if data.edge_index is None:
        raise GraphFormatError(
            "from_pyg: expected edge_index, got none. "
            "Set it; torch_geometric.utils.to_edge_index takes it from an adj_t."
        )
    src, dst = _array(data.edge_index)
    node_data, edge_data = (
        {name: getattr(data, _PYG_NAMES.get(name, name), None) for name in names}
        for names in (_NODE_DATA, _EDGE_DATA)
    )
    edges = {"src": src, "dst": dst, **edge_data}
    return _from_arrays("from_pyg", int(data.num_nodes), node_data, edges)


def to_pyg(
    nodes: pa.Table, edges: pa.Table, *, label: str | None = None, split: str | None = None
) -> Any:
    """Return tables of a graph as a `torch_geometric.data.Data`; see `Graph.to_pyg`."""
    import torch
    from torch_geometric.data import Data

    node_arrays, edge_arrays = _to_arrays(nodes, edges, label, split)
    tensors = {
        _PYG_NAMES.get(name, name): torch.tensor(array)
        for name, array in {**node_arrays, **edge_arrays}.items()
        if name not in ("src", "dst") and array.dtype != object
    }
    if "original_id" in node_arrays and "original_id" not in tensors:
        tensors["original_id"] = node_arrays["original_id"].tolist()
    edge_index = torch.tensor(np.stack([edge_arrays["src"], edge_arrays["dst"]]))
    return Data(edge_index=edge_index, num_nodes=nodes.num_rows, **tensors)


def from_dgl(graph: Any, node_keys: Mapping[str, str], edge_keys: Mapping[str, str]) -> Tables:
    """Return the node and edge tables of a homogeneous `dgl.DGLGraph`; see `Graph.from_dgl`.

    Args:
        graph: Graph to convert.
        node_keys: Keys in `ndata` of `features` and `y`.
        edge_keys: Keys in `edata` of `attr`, `type` and `weight`.
    """
    need_attribute(graph, "is_homogeneous", "from_dgl", "a dgl.DGLGraph")
    if not graph.is_homogeneous:
        raise GraphFormatError(
            "from_dgl: expected a graph of one node and one edge type, got several. "
            "Convert it with dgl.to_homogeneous."
        )
    src, dst = graph.edges(order="eid")
    node_data = {name: graph.ndata.get(node_keys.get(name, name)) for name in _NODE_DATA}
    edge_data = {name: graph.edata.get(key) for name, key in edge_keys.items()}
    edges = {"src": src, "dst": dst, **edge_data}
    return _from_arrays("from_dgl", int(graph.num_nodes()), node_data, edges)


def to_dgl(
    nodes: pa.Table, edges: pa.Table, *, label: str | None = None, split: str | None = None
) -> Any:
    """Return tables of a graph as a `dgl.DGLGraph`; see `Graph.to_dgl`."""
    import dgl
    import torch

    node_arrays, edge_arrays = _to_arrays(nodes, edges, label, split)
    ends = torch.tensor(edge_arrays.pop("src")), torch.tensor(edge_arrays.pop("dst"))
    result = dgl.graph(ends, num_nodes=nodes.num_rows)
    names = {"features": "feat", "y": "label", "attr": "feat", "type": "etype"}
    for frame, columns in ((result.ndata, node_arrays), (result.edata, edge_arrays)):
        for name, array in columns.items():
            if array.dtype != object:
                frame[names.get(name, name)] = torch.tensor(array)
    return result


def from_networkx(graph: Any, **attributes: Unpack[ColumnOptions]) -> Tables:
    """Return the node and edge tables of a networkx graph for `Graph.from_arrow`.

    They have the attributes that `attributes` names, and the edges contain the ids of nodes.
    """
    need_attribute(graph, "is_directed", "from_networkx", "a networkx graph")
    if not len(graph):
        raise refuse(
            "from_networkx", "at least one node", "none", "Check that it is the right one."
        )
    nodes = _attributes(graph.nodes(data=True), "from_networkx: nodes")
    nodes["id"] = _plain(list(graph.nodes), "from_networkx: nodes")
    directed = graph if graph.is_directed() else graph.to_directed()
    triples = list(directed.edges(data=True))
    edges = _attributes(((None, data) for _, _, data in triples), "from_networkx: edges")
    kind = nodes["id"].type
    edges["src"] = pa.array([u for u, _, _ in triples], kind)
    edges["dst"] = pa.array([v for _, v, _ in triples], kind)
    node_options, edge_options = options_by_table(attributes)
    return (
        _planned(pa.table(nodes), plan_nodes(list(nodes), "nodes", **node_options)),
        _planned(pa.table(edges), plan_edges(list(edges), "edges", **edge_options)),
    )


def _planned(table: pa.Table, plan: Mapping[str, Column]) -> pa.Table:
    """Return the columns of a table that a plan reads."""
    return table.select(list(dict.fromkeys(n for column in plan.values() for n in column.inputs)))


def to_networkx(nodes: pa.Table, edges: pa.Table) -> Any:
    """Return tables of a graph as a `networkx.MultiDiGraph`; see `Graph.to_networkx`."""
    import networkx as nx

    result = nx.MultiDiGraph()
    ids = nodes["id"].to_pylist()
    result.add_nodes_from(zip(ids, nodes.drop_columns(["id"]).to_pylist(), strict=True))
    sources = nodes["id"].take(edges["src"]).to_pylist()
    targets = nodes["id"].take(edges["dst"]).to_pylist()
    attributes = edges.drop_columns(["src", "dst"])
    rows = attributes.to_pylist() if attributes.num_columns else [{} for _ in sources]
    result.add_edges_from(zip(sources, targets, rows, strict=True))
    return result


# Tensors


def _array(tensor: Any) -> NDArray[Any]:
    if not hasattr(tensor, "detach"):
        return np.asarray(tensor)
    tensor = tensor.detach().cpu()
    if hasattr(tensor, "layout") and "strided" not in str(tensor.layout):
        tensor = tensor.to_dense()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def _arrays(given: Mapping[str, Any], rows: int, where: str) -> dict[str, NDArray[Any]]:
    arrays = {name: _array(value) for name, value in given.items() if value is not None}
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or len(array) != rows:
            raise refuse(
                f"{where}: {name}",
                counted(rows, "row"),
                f"shape {array.shape}",
                "Correct its length.",
            )
    return arrays


def _from_arrays(
    where: str, num_nodes: int, node_data: Mapping[str, Any], edge_data: Mapping[str, Any]
) -> Tables:
    nodes = _arrays(node_data, num_nodes, where)
    edges = _arrays(edge_data, len(_array(edge_data["src"])), where)
    none = np.zeros(num_nodes, np.bool_)
    masks = [nodes.pop(name).astype(np.bool_) if name in nodes else None for name in MASKS]
    found = [mask for mask in masks if mask is not None]
    columns = {"id": pa.array(nodes.pop("original_id", np.arange(num_nodes)))}
    if "features" in nodes:
        columns["features"] = matrix_column(nodes["features"].reshape(num_nodes, -1))
    if "y" in nodes:
        columns["label:y"] = _label_column(nodes["y"])
    node_table = pa.table(columns)
    if found:
        blank = none if found[0].ndim == 1 else np.zeros_like(found[0])
        train, val, test = (blank if mask is None else mask for mask in masks)
        for name, column in split_columns(train, val, test, where).items():
            node_table = node_table.append_column(name, column)
    columns = {name: pa.array(array) for name, array in edges.items() if name != "attr"}
    if "attr" in edges:
        columns["attr"] = matrix_column(edges["attr"].reshape(len(edges["src"]), -1))
    return node_table, pa.table(columns)


def _label_column(y: NDArray[Any]) -> pa.Array:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 2:
        missing = np.isnan(y).all(axis=1) if y.dtype.kind == "f" else np.zeros(len(y), np.bool_)
        flat = pa.array(np.ascontiguousarray(y).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, y.shape[1], mask=pa.array(missing))
    if y.dtype.kind == "b":
        return pa.array(y)
    return pa.array(y, mask=np.isnan(y) if y.dtype.kind == "f" else y < 0)


def _to_arrays(
    nodes: pa.Table, edges: pa.Table, label: str | None, split: str | None
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    arrays: dict[str, NDArray[Any]] = {}
    ids = as_numpy(nodes["id"])
    if ids.dtype == object or not np.array_equal(ids, np.arange(nodes.num_rows)):
        arrays["original_id"] = ids
    if "features" in nodes.column_names:
        arrays["features"] = as_numpy(nodes["features"])
    if label is not None or names_of("label", nodes):
        arrays["y"] = _label_array(nodes, label)
    if split is not None or names_of("split", nodes):
        chosen = _split_array(nodes, split)
        arrays |= {name: chosen == value for value, name in enumerate(MASKS, start=1)}
    known = [name for name in ("src", "dst", *_EDGE_DATA) if name in edges.column_names]
    return arrays, {name: as_numpy(edges[name]) for name in known}


def _label_array(nodes: pa.Table, name: str | None) -> NDArray[Any]:
    column = nodes[named_column("label", nodes, name)]
    values, known = as_numpy(column), np.asarray(column.is_valid().to_numpy())
    if known.all():
        return values
    if values.dtype == np.int8:
        return np.where(known[:, None], values, np.int8(-1))
    floating = values.ndim == 2 or values.dtype.kind == "f"
    result = np.array(values, np.float32 if floating else np.int64)
    result[~known] = np.nan if floating else -1
    return result


def _split_array(nodes: pa.Table, name: str | None) -> NDArray[np.int8]:
    splits = names_of("split", nodes)
    runs = [str(run) for run in range(len(splits)) if str(run) in splits]
    if name is None and runs:
        return np.stack([as_numpy(nodes[f"split:{run}"]) for run in runs], axis=1)
    return as_numpy(nodes[named_column("split", nodes, name)])


# Python objects


def _plain(values: list[Any], where: str) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = str(error).splitlines()[0]
        raise refuse(
            where, "values of one type", reason, "See networkx.convert_node_labels_to_integers."
        ) from None
    if pa.types.is_float64(array.type):
        return array.cast(pa.float32())
    if pa.types.is_list(array.type) and pa.types.is_float64(array.type.value_type):
        return array.cast(pa.list_(pa.float32()))
    return array


def _attributes(rows: Iterable[tuple[Any, dict[str, Any]]], where: str) -> dict[str, pa.Array]:
    data = [attributes for _, attributes in rows]
    names = {str(name): name for attributes in data for name in attributes}
    columns = {}
    for text, name in names.items():
        try:
            columns[text] = _plain([attributes.get(name) for attributes in data], where)
        except GraphFormatError:
            # An attribute may be no data for us. If it is requested, it is reported as missing.
            continue
    return columns
