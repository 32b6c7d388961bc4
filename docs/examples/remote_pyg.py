"""A plain PyG model, trained against two servers of a two-part store of Cora."""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch_geometric.nn import GraphSAGE

import graphtheta as gt
from graphtheta.engine import connect
from graphtheta.engine.pyg import RemoteFeatureStore, RemoteGraphStore, RemoteNodeLoader
from graphtheta.partition import Plan, make_store

with tempfile.TemporaryDirectory() as folder:
    store = Path(folder) / "store"
    make_store(gt.datasets.load("cora"), store, Plan(2, "kaminpar"))
    serve = [sys.executable, "-m", "graphtheta", "serve", str(store), "--part"]
    servers = [
        subprocess.Popen([*serve, part], stdout=subprocess.PIPE, text=True) for part in ("0", "1")
    ]
    try:
        # "serving parts 0 of STORE at 127.0.0.1:PORT"
        graph = connect([server.stdout.readline().split()[-1] for server in servers])
        features = RemoteFeatureStore(graph)
        stores = (features, RemoteGraphStore(graph))

        def batches(split, fanouts, size):
            """Load a split's batches."""
            nodes = features.split(split)
            return RemoteNodeLoader(stores, fanouts, nodes, batch_size=size, shuffle=True)

        torch.manual_seed(0)
        model = GraphSAGE(1433, 64, num_layers=2, out_channels=7, dropout=0.5)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=5e-4)
        train = batches("train", [10, 10], 70)
        for _ in range(20):
            for batch in train:
                optimizer.zero_grad()
                out = model(batch.x, batch.edge_index)[: batch.batch_size]
                loss = torch.nn.functional.cross_entropy(out, batch.y[: batch.batch_size])
                loss.backward()
                optimizer.step()

        model.eval()
        right = total = 0
        with torch.no_grad():
            for batch in batches("test", [-1, -1], 250):
                found = model(batch.x, batch.edge_index)[: batch.batch_size].argmax(1)
                right += int((found == batch.y[: batch.batch_size]).sum())
                total += batch.batch_size
        graph.close()
        print(f"test accuracy {right / total:.3f}")
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.communicate()
