"""Export to DGL's partition folder, for `dgl.distributed.load_partition` and `DistGraph`.

```
<name>.json                 ranges of node and edge ids of each part
part0/graph.dgl             masters, then mirrors ("halo nodes"); every edge of the masters
part0/node_feat.dgl         columns of the masters: feat, label, train_mask, ..., original_id
part0/edge_feat.dgl         columns of the edges: feat, etype, weight, ..., edge_key
part0/node_columns.parquet  columns that cannot be tensors, by node_key; also edge_columns
graphtheta.json             manifest of the store, and the names of all columns
```
A global node id is the new id of the store. Global edge ids number the edges part by part, in CSC
order. The graph contains them as `_ID`, and node_key and edge_key as `orig_id`. DGL stores booleans
as bytes.

As with DGL's `tools/dispatch_data.py`, every edge is in one part, that of its destination.
`partition_graph` repeats an edge in the part of its source, as an outer edge, which sampling of
in-neighbours does not read.

Needs dgl. Memory: one part, as tables and as tensors.

Source: dgl 1.1.3, `dgl.distributed.partition_graph` and `load_partition`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from graphtheta.errors import ConfigError
from graphtheta.export.columns import Columns, survey, write_record, write_rest
from graphtheta.export.dgl_chunked import EDGE_NAMES, EDGE_TYPE, NODE_NAMES, NODE_TYPE
from graphtheta.export.edge_cut import destinations, new_ids, refuse_vertex_cut
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["write"]


def write(store: Store, folder: Path, name: str) -> None:
    """Write the folder; `name` is the name of the graph and of the JSON file.

    Raises:
        ConfigError: If the store is a vertex-cut, two columns would get the same name, or dgl is
            not installed.
    """
    refuse_vertex_cut(store, "dgl", ", or export dgl-chunked, which uses only the parts of nodes")
    dgl = _dgl()
    found = survey(store, NODE_NAMES, EDGE_NAMES)
    stops = np.cumsum(store.book.edges)
    for index in range(store.num_parts):
        part, at = store.part(index), folder / f"part{index}"
        at.mkdir()
        graph = _graph(dgl, store, part, int(stops[index]) - part.num_edges)
        dgl.save_graphs(str(at / "graph.dgl"), [graph])
        del graph
        _save(dgl, found.nodes, part.masters_of(), NODE_TYPE, at / "node_feat.dgl")
        _save(dgl, found.edges, part.in_edges_of(), EDGE_TYPE, at / "edge_feat.dgl")
        write_rest(found.nodes, part.masters_of(), "node_key", at / "node_columns.parquet")
        write_rest(found.edges, part.in_edges_of(), "edge_key", at / "edge_columns.parquet")
    (folder / f"{name}.json").write_text(json.dumps(_config(store, name, stops), indent=4) + "\n")
    write_record(store, found, folder)


def _dgl() -> Any:
    try:
        import dgl
    except (ImportError, OSError) as error:  # a dgl for another torch cannot load its library
        reason = str(error).strip().splitlines()
        raise ConfigError(
            f"export dgl: expected the library dgl, got {reason[0] if reason else 'none'}. "
            "Install it (pip install 'graphtheta[dgl]'), or export dgl-chunked, which needs no dgl."
        ) from None
    return dgl


def _graph(dgl: Any, store: Store, part: PartTables, first_edge_id: int) -> Any:
    src = column_numpy(part.in_edges, "src").astype(np.int64)
    ends = torch.from_numpy(src), torch.from_numpy(destinations(part))
    graph = dgl.graph(ends, num_nodes=part.num_replicas)
    owner = column_numpy(part.replicas, "owner").astype(np.int64)
    inner_edge = np.ones(part.num_edges, np.uint8)  # every edge is in the part of its destination
    edge_ids = np.arange(first_edge_id, first_edge_id + part.num_edges, dtype=np.int64)
    columns: dict[str, NDArray[Any]] = {
        "_ID": new_ids(store, part),
        "orig_id": np.array(column_numpy(part.replicas, "node_key")),
        "part_id": owner,
        "inner_node": (owner == part.part).astype(np.uint8),
    }
    for column, values in columns.items():
        graph.ndata[column] = torch.from_numpy(values)
    graph.edata["_ID"] = torch.from_numpy(edge_ids)
    graph.edata["orig_id"] = torch.tensor(column_numpy(part.in_edges, "edge_key"))
    graph.edata["inner_edge"] = torch.from_numpy(inner_edge)
    return graph


def _save(dgl: Any, columns: Columns, table: pa.Table, kind: str, path: Path) -> None:
    tensors = {f"{kind}/{name}": torch.tensor(array) for name, array in columns.arrays(table)}
    dgl.data.utils.save_tensors(str(path), tensors)


def _config(store: Store, name: str, stops: NDArray[np.int64]) -> dict[str, Any]:
    book, manifest = store.book, store.manifest
    nodes = np.stack([book.first_new_id, book.first_new_id + book.masters], axis=1)
    edges = np.stack([stops - book.edges, stops], axis=1)
    files = {
        "node_feats": "node_feat.dgl",
        "edge_feats": "edge_feat.dgl",
        "part_graph": "graph.dgl",
    }
    return {
        "graph_name": name,
        "num_nodes": manifest.num_nodes,
        "num_edges": manifest.num_edges,
        "part_method": manifest.method,
        "num_parts": manifest.num_parts,
        "halo_hops": 1,
        "node_map": {NODE_TYPE: nodes.tolist()},
        "edge_map": {EDGE_TYPE: edges.tolist()},
        "ntypes": {NODE_TYPE: 0},
        "etypes": {EDGE_TYPE: 0},
        **{
            f"part-{part}": {what: f"part{part}/{file}" for what, file in files.items()}
            for part in range(manifest.num_parts)
        },
    }
