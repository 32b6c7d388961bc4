"""Export to DGL's chunked graph format, the input of its `tools/dispatch_data.py`, with parts.

```
metadata.json                        counts, and the files of edges, node_data and edge_data
edges/part-00000.csv                 lines of "src dst", as node ids
node_data/feat/part-00000.npy        a column of nodes; also edge_data
node_columns/part-00000.parquet      columns that cannot be arrays, by node_key; also edge_columns
partition/_N.txt                     the part of the master of each node, one per line
partition/partition_meta.json        number of parts
graphtheta.json                      manifest of the store, and the names of all columns
```
There is a chunk for each part, which is empty if the part has no edges. The id of a node is its new
id, so that no ids are looked up. DGL puts every edge into the part of its destination, so that only
the parts of the nodes of a vertex-cut are kept. Needs neither dgl nor torch.

Memory: one part.

Source: DGL user guide, 7.1.2 "Distributed Graph Partitioning Pipeline", and `tools/` of DGL. Up to
1.0 it reads `num_nodes_per_chunk` and `num_edges_per_chunk`, later `..._per_type`; both are there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from graphtheta.export.columns import Columns, survey, write_record, write_rest
from graphtheta.export.edge_cut import destinations, new_ids
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["EDGE_NAMES", "EDGE_TYPE", "NODE_NAMES", "NODE_TYPE", "write"]

NODE_TYPE = "_N"  # DGL's names of the only node type and the only edge type
EDGE_TYPE = "_N:_E:_N"
NODE_NAMES = {"features": "feat", "label": "label"}
EDGE_NAMES = {"attr": "feat", "type": "etype", "label": "label"}
_LINES = csv.WriteOptions(include_header=False, delimiter=" ")
_MAX_LINES = 1 << 20  # lines that are written at a time


def write(store: Store, folder: Path, name: str) -> None:
    """Write the folder; `name` is the name of the graph.

    Raises:
        ConfigError: If two columns would get the same name.
    """
    found = survey(store, NODE_NAMES, EDGE_NAMES)
    for sub in ("edges", "node_data", "edge_data", "partition"):
        (folder / sub).mkdir()
    for index in range(store.num_parts):
        part = store.part(index)
        _write_edges(store, part, folder / "edges" / f"part-{index:05d}.csv")
        _write_columns(found.nodes, part.masters_of(), "node", index, folder)
        _write_columns(found.edges, part.in_edges_of(), "edge", index, folder)
    _write_assignment(store, folder / "partition")
    metadata = _metadata(store, name)
    metadata["node_data"] = {NODE_TYPE: _data(store, folder, "node_data")}
    metadata["edge_data"] = {EDGE_TYPE: _data(store, folder, "edge_data")}
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=4) + "\n")
    write_record(store, found, folder)


def _write_edges(store: Store, part: PartTables, path: Path) -> None:
    ids = new_ids(store, part)
    ends = {"src": ids[column_numpy(part.in_edges, "src")], "dst": ids[destinations(part)]}
    csv.write_csv(pa.table(ends), path, _LINES)


def _write_columns(columns: Columns, table: pa.Table, kind: str, index: int, folder: Path) -> None:
    for name, array in columns.arrays(table):
        of_column = folder / f"{kind}_data" / name
        of_column.mkdir(exist_ok=True)
        np.save(of_column / f"part-{index:05d}.npy", array)
    if columns.rest:
        rest = folder / f"{kind}_columns"
        rest.mkdir(exist_ok=True)
        write_rest(columns, table, f"{kind}_key", rest / f"part-{index:05d}.parquet")


def _write_assignment(store: Store, folder: Path) -> None:
    with (folder / f"{NODE_TYPE}.txt").open("w") as file:
        for part, count in enumerate(store.book.masters.tolist()):
            for start in range(0, count, _MAX_LINES):
                file.write(f"{part}\n" * min(_MAX_LINES, count - start))
    # DGL accepts only these two names of an algorithm, and does not use them.
    algorithm = "metis" if store.manifest.method == "metis" else "random"
    meta = {"version": "1.0.0", "num_parts": store.num_parts, "algo_name": algorithm}
    (folder / "partition_meta.json").write_text(json.dumps(meta, indent=4) + "\n")


def _metadata(store: Store, name: str) -> dict[str, Any]:
    chunks = [f"edges/part-{part:05d}.csv" for part in range(store.num_parts)]
    return {
        "graph_name": name,
        "node_type": [NODE_TYPE],
        "num_nodes_per_type": [store.manifest.num_nodes],
        "num_nodes_per_chunk": [store.book.masters.tolist()],
        "edge_type": [EDGE_TYPE],
        "num_edges_per_type": [store.manifest.num_edges],
        "num_edges_per_chunk": [store.book.edges.tolist()],
        "edges": {EDGE_TYPE: {"format": {"name": "csv", "delimiter": " "}, "data": chunks}},
    }


def _data(store: Store, folder: Path, sub: str) -> dict[str, Any]:
    parts = range(store.num_parts)
    return {
        column.name: {
            "format": {"name": "numpy"},
            "data": [f"{sub}/{column.name}/part-{part:05d}.npy" for part in parts],
        }
        for column in sorted((folder / sub).iterdir())
    }
