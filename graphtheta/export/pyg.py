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

Memory: one part, as tables and as tensors. PyG needs the two maps, of 8 bytes for each node and for
each edge key of the graph. They are made in mapped files, which need no memory here, but PyG loads
them into memory.

Source: torch_geometric 2.8.1, `torch_geometric.distributed.Partitioner`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphtheta.export.columns import Columns, survey, write_record, write_rest
from graphtheta.export.edge_cut import destinations, refuse_vertex_cut
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
        ConfigError: If the store is a vertex-cut, or two columns would get the same name.
    """
    refuse_vertex_cut(store, "pyg")
    found = survey(store, _NODE_NAMES, _EDGE_NAMES)
    num_nodes = store.manifest.num_nodes
    node_map = _new_map(folder / "node_map.raw", num_nodes)
    edge_map = _new_map(folder / "edge_map.raw", found.num_edge_keys)
    for index in range(store.num_parts):
        part, at = store.part(index), folder / f"part_{index}"
        at.mkdir()
        node_map[column_numpy(part.masters, "node_key")] = index
        edge_map[column_numpy(part.in_edges, "edge_key")] = index
        order = _write_graph(part, num_nodes, at)
        if part.num_masters:
            torch.save(_features(found.nodes, part.masters_of(), "node_key"), at / "node_feats.pt")
        edges = part.in_edges_of().take(pa.array(order))
        empty = not part.num_edges
        feats = {} if empty else _features(found.edges, edges, "edge_key")
        torch.save(feats, at / "edge_feats.pt")
        write_rest(found.nodes, part.masters_of(), "node_key", at / "node_columns.parquet")
        write_rest(found.edges, edges, "edge_key", at / "edge_columns.parquet")
    for raw, values in (("node_map", node_map), ("edge_map", edge_map)):
        torch.save(torch.from_numpy(values), folder / f"{raw}.pt")
        (folder / f"{raw}.raw").unlink(missing_ok=True)
    meta = {
        "num_parts": store.num_parts,
        "node_types": None,
        "edge_types": None,
        "node_offset": None,
        "is_hetero": False,
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


def _write_graph(part: PartTables, num_nodes: int, at: Path) -> NDArray[np.int64]:
    """Write the edges sorted by the node_key of their destination, and return that order."""
    key = column_numpy(part.replicas, "node_key")
    dst = key[destinations(part)]
    order = np.argsort(dst, kind="stable")
    graph = {
        "edge_id": torch.from_numpy(column_numpy(part.in_edges, "edge_key")[order]),
        "row": torch.from_numpy(key[column_numpy(part.in_edges, "src")[order]]),
        "col": torch.from_numpy(dst[order]),
        "size": (num_nodes, num_nodes),
    }
    torch.save(graph, at / "graph.pt")
    return order


def _features(columns: Columns, table: pa.Table, key: str) -> dict[str, Tensor | dict[str, Tensor]]:
    tensors = {name: torch.tensor(array) for name, array in columns.arrays(table)}
    return {"global_id": tensors.pop(key), "feats": tensors}
