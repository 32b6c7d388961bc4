"""Export to PyG's partition folder, for `LocalGraphStore` and `LocalFeatureStore`.

```
META.json                    number of parts; edges are sorted by destination
node_map.pt edge_map.pt      the part of each node and edge
part_0/graph.pt              row (src), col (dst), edge_id, size
part_0/node_feats.pt         global_id, and the columns of the masters: x, y, train_mask, ...
part_0/edge_feats.pt         global_id, and the columns of the edges: edge_attr, edge_type, ...
part_0/node_columns.parquet  columns that cannot be tensors, by node_key; also edge_columns
graphtheta.json              manifest of the store, and the names of all columns
```
As in PyG, global ids are those of the input: node_key and edge_key. With reverse edges, some edge
keys have no edge; there `edge_map` is -1. PyG's loaders expect no features of a part without
masters or without edges, so the file or its content is left out.

In a typed graph, ids count within a node type or relation, everywhere: PyG looks features up by
such ids, though its partitioner numbers some ids over all types. `node_offset` in META.json has the
first node_key of each type. Maps and columns have a file for each type: node_map/author.pt,
edge_map/author__writes__paper.pt, part_0/node_columns/author.parquet.

Memory: one part, as tables and as tensors. PyG needs the two maps, of 8 bytes for each node and for
each edge key of the graph. They are made in mapped files, which need no memory here, but PyG loads
them into memory.

Source: torch_geometric 2.8.1, `torch_geometric.distributed.Partitioner`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.export.checks import refuse_names, refuse_vertex_cut
from graphtheta.export.columns import (
    Columns,
    Survey,
    folder_names,
    survey,
    write_record,
    write_rest,
)
from graphtheta.export.ids import destinations
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["write"]

_NODE_NAMES = {"features": "x", "label": "y"}
_EDGE_NAMES = {
    "attr": "edge_attr",
    "type": "edge_type",
    "weight": "edge_weight",
    "label": "edge_label",
}


def write(store: Store, folder: Path, name: str) -> None:
    """Write the folder; `name` is not used, because this format has no name of the graph.

    Raises:
        ConfigError: If the store is a vertex-cut, two columns would get the same name, or PyG
            cannot represent the name of a type.
    """
    refuse_vertex_cut(store, "pyg")
    refuse_names(store, "pyg", ("__", "/"))  # PyG joins the names of a relation by the first
    found, manifest = survey(store, _NODE_NAMES, _EDGE_NAMES), store.manifest
    node_map = _new_map(folder / "node_map.raw", manifest.num_nodes)
    edge_map = _new_map(folder / "edge_map.raw", found.num_edge_keys)
    for index in range(store.num_parts):
        part, at = store.part(index), folder / f"part_{index}"
        at.mkdir()
        node_map[column_numpy(part.masters, "node_key")] = index
        edge_map[column_numpy(part.in_edges, "edge_key")] = index
        _write_part(store, part, found, at)
    types, relations = folder_names(store)
    relations = [text.replace("-", "__") for text in relations]
    for which, values, names, first_keys in (
        ("node_map", node_map, types, manifest.first_node_keys),
        ("edge_map", edge_map, relations, manifest.first_edge_keys),
    ):
        for of, mapped in zip(names, np.split(values, first_keys[1:]), strict=True):
            path = Path(f"{folder / which / of}.pt")
            path.parent.mkdir(exist_ok=True)
            torch.save(torch.from_numpy(mapped), path)
        (folder / f"{which}.raw").unlink(missing_ok=True)
    typed = manifest.is_typed
    meta = {
        "num_parts": store.num_parts,
        "node_types": types if typed else None,
        "edge_types": [list(spec.relation) for spec in manifest.relations] if typed else None,
        "node_offset": manifest.first_node_keys.tolist() if typed else None,
        "is_hetero": typed,
        "is_sorted": True,
    }
    (folder / "META.json").write_text(json.dumps(meta) + "\n")
    write_record(store, found, folder)


def _new_map(path: Path, length: int) -> NDArray[np.int64]:
    if not length:  # an empty file cannot be mapped
        return np.empty(0, np.int64)
    values: NDArray[np.int64] = np.memmap(path, np.int64, "w+", shape=(length,))
    values[:] = -1
    return values


def _write_part(store: Store, part: PartTables, found: Survey, at: Path) -> None:
    types, relations = folder_names(store)
    graphs: dict[Any, Any] = {}
    nodes: dict[Any, Any] = {}
    edges: dict[Any, Any] = {}
    for i, (spec, columns) in enumerate(zip(store.manifest.node_types, found.nodes, strict=True)):
        table = part.masters_of(i)
        if table.num_rows:
            nodes[spec.name] = _features(columns, table, "node_key", spec.first_key, types[i])
        write_rest(columns, table, "node_key", Path(f"{at / 'node_columns' / types[i]}.parquet"))
    for i, (of, columns) in enumerate(zip(store.manifest.relations, found.edges, strict=True)):
        graphs[tuple(of.relation)], order = _graph(store, part, i)
        table = part.in_edges_of(i).take(pa.array(order))
        if table.num_rows:
            given = _features(columns, table, "edge_key", of.first_key, relations[i])
            edges[tuple(of.relation)] = given
        rest = Path(f"{at / 'edge_columns' / relations[i]}.parquet")
        write_rest(columns, table, "edge_key", rest)
    if not store.manifest.is_typed:
        graphs, nodes, edges = (next(iter(of.values()), {}) for of in (graphs, nodes, edges))
    torch.save(graphs, at / "graph.pt")
    if nodes:
        torch.save(nodes, at / "node_feats.pt")
    torch.save(edges, at / "edge_feats.pt")


def _graph(store: Store, part: PartTables, position: int) -> tuple[dict[str, Any], NDArray[Any]]:
    """Return the edges of a relation, sorted by the id of their destination, and that order."""
    manifest = store.manifest
    of = manifest.relations[position]
    rows, key = part.rows_of_relation(position), column_numpy(part.replicas, "node_key")
    source, destination = manifest.node_type(of.source), manifest.node_type(of.destination)
    dst = key[destinations(part)[rows]] - destination.first_key
    order = np.argsort(dst, kind="stable")
    rows = rows[order]
    graph = {
        "edge_id": torch.from_numpy(column_numpy(part.in_edges, "edge_key")[rows] - of.first_key),
        "row": torch.from_numpy(key[column_numpy(part.in_edges, "src")[rows]] - source.first_key),
        "col": torch.from_numpy(dst[order]),
        "size": (source.count, destination.count),
    }
    return graph, order


def _features(
    columns: Columns, table: pa.Table, key: str, first_key: int, typed: str
) -> dict[str, Tensor | dict[str, Tensor]]:
    tensors = {name: torch.tensor(array) for name, array in columns.arrays(table)}
    keys = tensors[key] if typed else tensors.pop(key)
    return {"global_id": keys - first_key, "feats": tensors}
