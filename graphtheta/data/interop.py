"""Conversion of node and edge tables from and to PyTorch Geometric, DGL and networkx.

The methods of `Graph`, such as `Graph.from_pyg`, call these functions and describe their arguments.

The other libraries have no missing labels. In their graphs, a class below 0 and a target of NaN
are missing; in graphs made for them, a missing class or boolean is -1 and a missing target NaN. A
missing time is the least int64 or NaN.

torch, dgl and networkx are imported only inside the functions that need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from graphtheta.data.convert import split_columns
from graphtheta.data.given import others, report_unread
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
    need_name,
    refuse,
)
from graphtheta.data.tables import as_array, as_matrix
from graphtheta.data.types import EDGE, NODE, Relation
from graphtheta.wording import counted

NodeRows = Mapping[str, pa.Table]
EdgeRows = Mapping[Relation, pa.Table]  # src and dst are rows of their node tables
Tables = tuple[NodeRows, EdgeRows]

__all__ = ["from_dgl", "from_networkx", "from_pyg", "to_dgl", "to_networkx", "to_pyg"]

MASKS = ("train_mask", "val_mask", "test_mask")
_NODE_DATA = ("original_id", "features", "y", "time", *MASKS)
_EDGE_DATA = ("attr", "type", "weight", "time")
_NO_TIME = np.iinfo(np.int64).min  # an integer time that is missing, as in pandas
_PYG_NAMES = {"features": "x", "attr": "edge_attr", "type": "edge_type", "weight": "edge_weight"}
_PYG_EDGES = {False: _PYG_NAMES | {"time": "edge_time"}, True: _PYG_NAMES}  # in a HeteroData: True


def from_pyg(data: Any) -> Tables:
    """Return the tables of a `torch_geometric` `Data` or `HeteroData`; see `Graph.from_pyg`."""
    typed = hasattr(data, "node_types")
    if typed:
        nodes = {name: data[name] for name in data.node_types}
        edges = {Relation.of(relation): data[relation] for relation in data.edge_types}
        _need_edges("from_pyg", edges)
    else:
        need_attribute(data, "edge_index", "from_pyg", "a torch_geometric.data.Data or HeteroData")
        nodes, edges = {NODE: data}, {EDGE: data}
    node_tables, edge_tables = {}, {}
    report_unread("from_pyg", _unread_of_pyg(data, nodes, edges, typed=typed))
    for relation, store in edges.items():
        where = _where("from_pyg", relation.text, EDGE.text)
        if getattr(store, "edge_index", None) is None:
            remedy = "Set it; torch_geometric.utils.to_edge_index takes it from an adj_t."
            raise refuse(where, "edge_index", "none", remedy)
        names = _PYG_EDGES[typed]
        values = {n: getattr(store, names.get(n, n), None) for n in _EDGE_DATA}
        ends = as_array(store.edge_index, f"{where}: edge_index")
        edge_tables[relation] = _edge_table(where, ends, values)
    for name, store in nodes.items():
        where = _where("from_pyg", name, NODE)
        if store.num_nodes is None:
            raise refuse(where, "num_nodes", "none", f"Set data[{name!r}].num_nodes.")
        values = {n: getattr(store, _PYG_NAMES.get(n, n), None) for n in _NODE_DATA}
        if not typed and values["time"] is not None and not data.is_node_attr("time"):
            del values["time"]  # of edges, or of the graph
        node_tables[name] = _node_table(where, int(store.num_nodes), values)
    return node_tables, edge_tables


def _unread_of_pyg(
    data: Any, nodes: Mapping[str, Any], edges: Mapping[Relation, Any], *, typed: bool
) -> list[str]:
    """Return the attributes that `from_pyg` does not read, in alphabetic order for each type."""
    of_nodes = {"num_nodes", *(_PYG_NAMES.get(name, name) for name in _NODE_DATA)}
    of_edges = {"edge_index", *(_PYG_EDGES[typed].get(name, name) for name in _EDGE_DATA)}
    if not typed:
        read = of_nodes | of_edges
        if "time" in data and not data.is_node_attr("time"):
            read.remove("time")
        return others("", data, read)
    of_types = [name for owner, store in nodes.items() for name in others(owner, store, of_nodes)]
    for relation, store in edges.items():
        of_types += others(relation.text, store, of_edges)
    of_graph = others("", data.to_dict().get("_global_store", {}), set())
    return of_types + of_graph


def to_pyg(
    nodes: NodeRows, edges: EdgeRows, *, label: str | None = None, split: str | None = None
) -> Any:
    """Return tables as a `torch_geometric` `Data` or `HeteroData`; see `Graph.to_pyg`."""
    import torch
    from torch_geometric.data import Data, HeteroData

    typed = list(nodes) != [NODE] or list(edges) != [EDGE]
    result = HeteroData() if typed else Data()
    for name, arrays in _node_arrays(nodes, label, split).items():
        store = result[name] if typed else result
        store.num_nodes = nodes[name].num_rows
        for key, array in arrays.items():
            value = array.tolist() if array.dtype == object else torch.tensor(array)
            setattr(store, _PYG_NAMES.get(key, key), value)
    for relation, table in edges.items():
        store = result[tuple(relation)] if typed else result
        arrays = _edge_arrays(table)
        ends = np.stack([arrays.pop("src"), arrays.pop("dst")])
        store.edge_index = torch.tensor(ends)
        for key, array in arrays.items():
            setattr(store, _PYG_EDGES[typed].get(key, key), torch.tensor(array))
    return result


def from_dgl(graph: Any, node_keys: Mapping[str, str], edge_keys: Mapping[str, str]) -> Tables:
    """Return the tables of a `dgl.DGLGraph`; see `Graph.from_dgl`.

    Args:
        graph: Graph to convert.
        node_keys: Keys in the data of nodes of `features` and `y`.
        edge_keys: Keys in the data of edges of `attr`, `type` and `weight`.
    """
    need_attribute(graph, "is_homogeneous", "from_dgl", "a dgl.DGLGraph")
    typed = not graph.is_homogeneous
    node_tables, edge_tables = {}, {}
    unread: list[str] = []
    for name in graph.ntypes:
        data = graph.nodes[name].data
        unread += others(name if typed else "", data, {node_keys.get(n, n) for n in _NODE_DATA})
        values = {n: data.get(node_keys.get(n, n)) for n in _NODE_DATA}
        owner = name if typed else NODE
        where = _where("from_dgl", owner, NODE)
        node_tables[owner] = _node_table(where, int(graph.num_nodes(name)), values)
    for names in graph.canonical_etypes:
        data = graph.edges[names].data
        owner = "-".join(names) if typed else ""
        unread += others(owner, data, {edge_keys.get(n, n) for n in _EDGE_DATA})
        values = {n: data.get(edge_keys.get(n, n)) for n in _EDGE_DATA}
        relation = Relation.of(names) if typed else EDGE
        where = _where("from_dgl", relation.text, EDGE.text)
        ends = [as_array(end, where) for end in graph.edges(order="eid", etype=names)]
        edge_tables[relation] = _edge_table(where, np.stack(ends), values)
    _need_edges("from_dgl", edge_tables)
    report_unread("from_dgl", unread)
    return node_tables, edge_tables


def to_dgl(
    nodes: NodeRows, edges: EdgeRows, *, label: str | None = None, split: str | None = None
) -> Any:
    """Return tables as a `dgl.DGLGraph`; see `Graph.to_dgl`."""
    import dgl
    import torch

    names = {"features": "feat", "y": "label", "attr": "feat", "type": "etype"}
    of_edges = {relation: _edge_arrays(table) for relation, table in edges.items()}
    ends = {
        tuple(relation): tuple(torch.tensor(arrays.pop(end)) for end in ("src", "dst"))
        for relation, arrays in of_edges.items()
    }
    counts = {name: table.num_rows for name, table in nodes.items()}
    typed = list(nodes) != [NODE] or list(edges) != [EDGE]
    result = (
        dgl.heterograph(ends, num_nodes_dict=counts)
        if typed
        else dgl.graph(ends[tuple(EDGE)], num_nodes=counts[NODE])
    )
    frames = [
        *(
            (result.nodes[name if typed else result.ntypes[0]].data, arrays)
            for name, arrays in _node_arrays(nodes, label, split).items()
        ),
        *(
            (result.edges[tuple(relation) if typed else result.canonical_etypes[0]].data, arrays)
            for relation, arrays in of_edges.items()
        ),
    ]
    for frame, arrays in frames:
        for key, array in arrays.items():
            if array.dtype != object:
                frame[names.get(key, key)] = torch.tensor(array)
    return result


def _where(what: str, owner: str, untyped: str) -> str:
    return what if owner == untyped else f"{what}: {owner}"


def _need_edges(where: str, edges: Mapping[Relation, Any]) -> None:
    if not edges:
        raise refuse(where, "at least one edge type", "none", "Add edges.")


def from_networkx(graph: Any, **attributes: Unpack[ColumnOptions]) -> tuple[pa.Table, pa.Table]:
    """Return the node and edge tables of a networkx graph for `Graph.from_arrow`.

    They have the attributes that `attributes` names, and the edges contain the ids of nodes.
    """
    need_attribute(graph, "is_directed", "from_networkx", "a networkx graph")
    if not len(graph):
        raise refuse(
            "from_networkx", "at least one node", "none", "Check that it is the right one."
        )
    directed = graph if graph.is_directed() else graph.to_directed()
    node_data = [data for _, data in graph.nodes(data=True)]
    triples = list(directed.edges(data=True))
    edge_data = [data for _, _, data in triples]
    ids = _plain(list(graph.nodes), "from_networkx: nodes: id", _ONE_TYPE_OF_IDS)
    ends = {"src": [u for u, _, _ in triples], "dst": [v for _, v, _ in triples]}
    known = {name: pa.array(end, ids.type) for name, end in ends.items()}
    node_options, edge_options = options_by_table(attributes)
    nodes, edges = _named(node_data, "id"), _named(edge_data, *ends)
    return (
        _read(plan_nodes(list(nodes), "nodes", **node_options), nodes, node_data, {"id": ids}),
        _read(plan_edges(list(edges), "edges", **edge_options), edges, edge_data, known),
    )


def _named(data: list[dict[Any, Any]], *known: str) -> dict[str, Any]:
    """Return the names of attributes as texts, with the names themselves."""
    return {str(name): name for name in [*known, *dict.fromkeys(n for one in data for n in one)]}


def _read(
    plan: Mapping[str, Column],
    names: Mapping[str, Any],
    data: list[dict[Any, Any]],
    known: Mapping[str, pa.Array],
) -> pa.Table:
    """Return the columns that a plan reads: `known` ones and attributes; others may be anything."""
    unit = "nodes" if "id" in known else "edges"
    columns = {}
    for text in dict.fromkeys(n for column in plan.values() for n in column.inputs):
        columns[text] = known.get(text)
        if columns[text] is None:
            values = [_listed(one.get(names[text]), f"{unit}: {text}") for one in data]
            remedy = "Convert them to numbers, texts or lists of numbers."
            columns[text] = _plain(values, f"from_networkx: {unit}: {text}", remedy)
    return pa.table(columns)


def _listed(value: Any, where: str) -> Any:
    """Return a tensor or array as a number or a list, and other values unchanged."""
    is_array = hasattr(value, "detach") or isinstance(value, np.ndarray)
    return as_array(value, f"from_networkx: {where}").tolist() if is_array else value


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


def _arrays(given: Mapping[str, Any], rows: int, where: str) -> dict[str, NDArray[Any]]:
    arrays = {
        name: as_array(value, f"{where}: {name}")
        for name, value in given.items()
        if value is not None
    }
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or len(array) != rows:
            raise refuse(
                f"{where}: {name}",
                counted(rows, "row"),
                f"shape {array.shape}",
                "Correct its length.",
            )
    return arrays


def _node_table(where: str, num_nodes: int, data: Mapping[str, Any]) -> pa.Table:
    features, given = None, data.get("features")
    if given is not None:
        features = as_matrix(given, f"{where}: features")
        if len(features) != num_nodes:
            got = f"shape {tuple(given.shape)}"
            raise refuse(
                f"{where}: features", counted(num_nodes, "row"), got, "Correct its length."
            )
    nodes = _arrays({n: v for n, v in data.items() if n != "features"}, num_nodes, where)
    masks = {name: nodes.pop(name, None) for name in MASKS}
    columns = {"id": _values("original_id", nodes.pop("original_id", np.arange(num_nodes)), where)}
    if features is not None:
        columns["features"] = features
    if "y" in nodes:
        columns["label:y"] = _label_column(nodes["y"])
    if "time" in nodes:
        columns["time"] = _values("time", nodes["time"], where)
    if any(mask is not None for mask in masks.values()):
        columns |= split_columns(masks, num_nodes, where)
    return pa.table(columns)


def _edge_table(where: str, ends: NDArray[Any], data: Mapping[str, Any]) -> pa.Table:
    if ends.ndim != 2 or len(ends) != 2:
        got, remedy = f"shape {ends.shape}", "Pass a row of sources and one of destinations."
        raise refuse(f"{where}: edge_index", "two rows", got, remedy)
    src, dst = ends
    edges = _arrays({"src": src, "dst": dst, **data}, len(src), where)
    columns = {name: _values(name, array, where) for name, array in edges.items() if name != "attr"}
    if "attr" in edges:
        columns["attr"] = matrix_column(edges["attr"].reshape(len(src), -1))
    return pa.table(columns)


def _values(name: str, array: NDArray[Any], where: str) -> pa.Array:
    """Return the column of a tensor with one value in each row."""
    if array.ndim == 2 and array.shape[1] != 1:
        got = f"shape {array.shape}"
        raise refuse(f"{where}: {name}", "one value in each row", got, "Choose a column.")
    flat = np.ascontiguousarray(array).reshape(len(array))
    if name != "time" or array.dtype.kind not in "if":
        return pa.array(flat)
    return pa.array(flat, mask=np.isnan(flat) if array.dtype.kind == "f" else flat == _NO_TIME)


def _label_column(y: NDArray[Any]) -> pa.Array:
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim == 2:
        missing = np.isnan(y).all(axis=1) if y.dtype.kind == "f" else np.zeros(len(y), np.bool_)
        flat = pa.array(np.ascontiguousarray(y).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, y.shape[1], mask=pa.array(missing))
    if y.dtype.kind == "b":
        return pa.array(y)
    return pa.array(y, mask=np.isnan(y) if y.dtype.kind == "f" else y < 0)


def _node_arrays(
    nodes: NodeRows, label: str | None, split: str | None
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the arrays of each node type, by the names of `_NODE_DATA`."""
    labels, splits = _of_types("label", label, nodes), _of_types("split", split, nodes)
    found = {}
    for owner, table in nodes.items():
        arrays: dict[str, NDArray[Any]] = {}
        ids = as_numpy(table["id"])
        if ids.dtype == object or not np.array_equal(ids, np.arange(table.num_rows)):
            arrays["original_id"] = ids
        if "features" in table.column_names:
            arrays["features"] = as_numpy(table["features"])
        if owner in labels:
            arrays["y"] = _label_array(table, labels[owner])
        arrays |= _time(table)
        if owner in splits:
            chosen = _split_array(table, splits[owner])
            arrays |= {name: chosen == value for value, name in enumerate(MASKS, start=1)}
        found[owner] = arrays
    return found


def _of_types(kind: str, name: str | None, nodes: NodeRows) -> dict[str, str | None]:
    """Return the node types whose label or split is chosen, each with its name there."""
    if name is None:
        return {owner: None for owner, table in nodes.items() if names_of(kind, table)}
    if len(nodes) == 1:
        return dict.fromkeys(nodes, name)
    owners = {f"{o}.{n}": (o, n) for o, table in nodes.items() for n in names_of(kind, table)}
    need_name(name, owners, kind)
    return dict([owners[name]])


def _edge_arrays(edges: pa.Table) -> dict[str, NDArray[Any]]:
    known = [name for name in ("src", "dst", *_EDGE_DATA) if name in edges.column_names]
    return {name: as_numpy(edges[name]) for name in known if name != "time"} | _time(edges)


def _time(table: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the column `time` of a table, if it has one of numbers, or of times as seconds."""
    if "time" not in table.column_names:
        return {}
    column = table["time"]
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    if pa.types.is_floating(column.type):
        return {"time": as_numpy(column.fill_null(np.nan))}
    if not pa.types.is_integer(column.type):
        return {}
    if column.null_count:
        column = column.cast(pa.int64()).fill_null(_NO_TIME)
    return {"time": as_numpy(column)}


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


_ONE_TYPE_OF_IDS = "See networkx.convert_node_labels_to_integers."


def _plain(values: list[Any], where: str, remedy: str) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise refuse(where, "values of one type that Arrow holds", reason, remedy) from None
    if pa.types.is_float64(array.type):
        return array.cast(pa.float32())
    if pa.types.is_list(array.type) and pa.types.is_float64(array.type.value_type):
        return array.cast(pa.list_(pa.float32()))
    return array
