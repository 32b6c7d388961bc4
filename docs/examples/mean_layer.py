"""A graph layer of one's own in a dozen lines, trained on Cora by two workers.

The layer says what happens at one node and on one edge. That its gradient is exact, and the same on
any number of workers, is not its business.
"""

from torch import Tensor, nn

import graphtheta as gt
from graphtheta.comm.communicator import Communicator


class MeanConv(gt.tgar.TGARLayer):
    """h_i = W h_i + mean of W h_j over in-neighbours j."""

    aggregator = "mean"  # Sum

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.lin = nn.Linear(in_channels, out_channels)

    def transform(self, h: Tensor) -> dict[str, Tensor]:  # NN-Transform, per node
        return {"z": self.lin(h)}

    def gather(self, src, dst, edge):  # NN-Gather, per edge
        return src["z"]

    def apply_node(self, n: dict[str, Tensor], m: Tensor) -> Tensor:  # NN-Apply, per node
        return n["z"] + m


class Model(nn.Module):
    """Two such layers. `view[k]` is what layer k computes on: nodes, edges, other workers."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first, self.second = MeanConv(in_channels, 32), MeanConv(32, out_channels)
        self.dropout = gt.nn.Dropout(0.5)  # not torch's: the mask must not depend on the workers

    def forward(self, view: gt.tgar.View, x: Tensor) -> Tensor:
        h = self.first(view[0], self.dropout(view[0], x)).relu()
        return self.second(view[1], self.dropout(view[1], h))


def train(comm: Communicator) -> float:
    """Train on this worker's share of Cora; return the test accuracy."""
    shard = gt.open_shard(gt.datasets.load("cora"), comm)
    with gt.nn.seeded(0):
        model = Model(shard.num_features, shard.num_outputs("y"))
    trainer = gt.Trainer(model, shard, lr=0.01, weight_decay=5e-4)
    return trainer.fit(epochs=60)["test_accuracy"]


if __name__ == "__main__":
    print(f"test accuracy {gt.run_local(train, workers=2):.3f}")
