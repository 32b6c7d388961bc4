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

In a typed graph, ids number the nodes and edges of a part type by type, as DGL requires: `node_map`
and `edge_map` have a range for each type and part, and the id within a type is the position in the
concatenation of its ranges. Types are `_TYPE` in the graph, columns are called `author/feat` and
`author:writes:paper/feat`, and those that cannot be tensors are in a folder for each type:
part0/node_columns/author.parquet.

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
import torch
from numpy.typing import NDArray

from graphtheta.data.types import positions_of_keys
from graphtheta.errors import ConfigError
from graphtheta.export.checks import refuse_names, refuse_vertex_cut
from graphtheta.export.columns import Survey, folder_names, survey, write_record, write_rest
from graphtheta.export.dgl_chunked import EDGE_NAMES, NODE_NAMES, REFUSED, type_names
from graphtheta.export.ids import Ids, destinations, number_ids
from graphtheta.partition.store.part import PartTables
from graphtheta.partition.store.store import Store
from graphtheta.partition.store.tables import column_numpy

__all__ = ["write"]


def write(store: Store, folder: Path, name: str) -> None:
    """Write the folder; `name` is the name of the graph and of the JSON file.

    Raises:
        ConfigError: If the store is a vertex-cut, two columns would get the same name, DGL cannot
            represent the name of a type, or dgl is not installed.
    """
    refuse_vertex_cut(store, "dgl", ", or export dgl-chunked, which uses only the parts of nodes")
    refuse_names(store, "dgl", REFUSED)
    dgl = _dgl()
    found, ids = survey(store, NODE_NAMES, EDGE_NAMES), number_ids(store)
    for index in range(store.num_parts):
        part, at = store.part(index), folder / f"part{index}"
        at.mkdir()
        graph = _graph(dgl, store, part, ids)
        dgl.save_graphs(str(at / "graph.dgl"), [graph])
        del graph
        _save(dgl, store, part, found, at)
    (folder / f"{name}.json").write_text(json.dumps(_config(store, ids, name), indent=4) + "\n")
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


def _graph(dgl: Any, store: Store, part: PartTables, ids: Ids) -> Any:
    replicas, edge_key = ids.of_replicas(part), column_numpy(part.in_edges, "edge_key")
    first = ids.ranges(ids.nodes)[part.part, 0, 0]
    # Masters by type, so that a master has the row of its id; then mirrors.
    row_L = np.arange(part.num_replicas, dtype=np.int64)
    row_L[: part.num_masters] = replicas.among_all[: part.num_masters] - first
    order_L = np.argsort(row_L)
    relation_E = positions_of_keys(edge_key, part.first_edge_keys)
    order_E = np.argsort(relation_E, kind="stable")
    ends = (row_L[end[order_E]] for end in (column_numpy(part.in_edges, "src"), destinations(part)))
    graph = dgl.graph(tuple(map(torch.from_numpy, ends)), num_nodes=part.num_replicas)
    owner = column_numpy(part.replicas, "owner").astype(np.int64)
    first_edge_id = ids.ranges(ids.edges)[part.part, 0, 0]
    nodes: dict[str, NDArray[Any]] = {
        dgl.NID: replicas.among_all,
        "orig_id": column_numpy(part.replicas, "node_key"),
        "part_id": owner,
        "inner_node": (owner == part.part).astype(np.uint8),
    }
    edges: dict[str, NDArray[Any]] = {
        dgl.EID: np.arange(first_edge_id, first_edge_id + part.num_edges, dtype=np.int64),
        "orig_id": edge_key[order_E],
        # Every edge is in the part of its destination.
        "inner_edge": np.ones(part.num_edges, np.uint8),
    }
    if store.manifest.is_typed:
        nodes[dgl.NTYPE] = replicas.of_type.astype(np.int16)
        edges[dgl.ETYPE] = relation_E[order_E].astype(np.int32)
    for column, values in nodes.items():
        graph.ndata[column] = torch.from_numpy(values[order_L])
    for column, values in edges.items():
        graph.edata[column] = torch.from_numpy(values)
    return graph


def _save(dgl: Any, store: Store, part: PartTables, found: Survey, at: Path) -> None:
    (types, relations), folders = type_names(store), folder_names(store)
    for kind, names, of_kind, folders_of_kind, table_of in (
        ("node", types, found.nodes, folders[0], part.masters_of),
        ("edge", relations, found.edges, folders[1], part.in_edges_of),
    ):
        tensors = {}
        for i, (name, columns) in enumerate(zip(names, of_kind, strict=True)):
            table = table_of(i)
            for column, array in columns.arrays(table):
                tensors[f"{name}/{column}"] = torch.tensor(array)
            rest = Path(f"{at / f'{kind}_columns' / folders_of_kind[i]}.parquet")
            write_rest(columns, table, f"{kind}_key", rest)
        dgl.data.utils.save_tensors(str(at / f"{kind}_feat.dgl"), tensors)


def _config(store: Store, ids: Ids, name: str) -> dict[str, Any]:
    manifest, (types, relations) = store.manifest, type_names(store)
    files = {
        "node_feats": "node_feat.dgl",
        "edge_feats": "edge_feat.dgl",
        "part_graph": "graph.dgl",
    }

    def by_name(names: list[str], counts: NDArray[np.int64]) -> dict[str, Any]:
        return dict(zip(names, ids.ranges(counts).swapaxes(0, 1).tolist(), strict=True))

    return {
        "graph_name": name,
        "num_nodes": manifest.num_nodes,
        "num_edges": manifest.num_edges,
        "part_method": manifest.method,
        "num_parts": manifest.num_parts,
        "halo_hops": 1,
        "node_map": by_name(types, ids.nodes),
        "edge_map": by_name(relations, ids.edges),
        "ntypes": {name: i for i, name in enumerate(types)},
        "etypes": {name: i for i, name in enumerate(relations)},
        **{
            f"part-{part}": {what: f"part{part}/{file}" for what, file in files.items()}
            for part in range(manifest.num_parts)
        },
    }
