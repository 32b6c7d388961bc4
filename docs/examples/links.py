"""Which papers cite each other: link prediction on Cora, on two workers."""

import numpy as np
import pyarrow as pa

import graphtheta as gt

# One row a citation, whatever its direction; a tenth each is hidden for validation and test.
cora = gt.datasets.load("cora")
ends = np.unique(np.sort(np.stack([cora.src, cora.dst]), axis=0), axis=1)
split = np.random.default_rng(0).choice([1, 2, 3], ends.shape[1], p=[0.8, 0.1, 0.1])
edges = {"src": ends[0], "dst": ends[1], "split:split": split.astype(np.int8)}
graph = gt.Graph(cora.nodes, pa.table(edges))


def train(comm):
    """Train on one worker's share; return the summary."""
    shard = gt.open_shard(graph, comm, undirected=True)  # a reverse is in the split of its edge
    encoder = gt.nn.GCN(shard.num_features, 64, 32, dropout=0.5)
    model = gt.nn.EdgeModel(encoder, gt.nn.Dot(32))
    task = gt.LinkPrediction(negatives=2)  # with strategy=gt.MiniBatch(1024) targets carry nothing
    trainer = gt.Trainer(model, shard, task=task, lr=0.02, evaluate_every=10)
    return trainer.fit(epochs=100)


summary = gt.run_local(train, workers=2)
print(f"test AUROC {summary['test_auc']:.3f}, filtered MRR {summary['test_mrr']:.3f}")
