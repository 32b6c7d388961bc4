"""GraphTheta as a library: train a GAT on Cora with four workers, threads of this process."""

import graphtheta as gt
from graphtheta.comm.communicator import Communicator

graph = gt.datasets.load("cora")  # or gt.Graph.from_pyg(data), from_dgl, from_networkx, from_arrow


def train(comm: Communicator):
    """Train on this worker's share; the same function serves under mpiexec."""
    shard = gt.open_shard(graph, comm)  # a Graph is partitioned on the spot; a path is opened
    model = gt.nn.GAT(shard.num_features, 8, shard.num_outputs("y"), heads=8, dropout=0.6)
    trainer = gt.Trainer(model, shard, lr=0.005, weight_decay=5e-4)
    print(f"rank {comm.rank}: {shard.num_masters} nodes, {shard.num_edges} edges")
    summary = trainer.fit(epochs=60)
    return summary, trainer.predict()  # on rank 0 rows in the order of the input nodes


summary, predictions = gt.run_local(train, workers=4)
print(f"predictions {tuple(predictions.shape)}; test accuracy {summary['test_accuracy']:.3f}")
