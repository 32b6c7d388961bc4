"""Edge attributes: find dishonest accounts by the ratings they get, from tables of one's own.

The graph is made up. Accounts have nothing to tell them apart but the ratings on their in-edges,
which GAT-E reads in its messages and its attention.
"""

import numpy as np
import pyarrow as pa

import graphtheta as gt
from graphtheta.comm.communicator import Communicator

ACCOUNTS, RATINGS = 2000, 30_000

rng = np.random.default_rng(0)
dishonest = rng.random(ACCOUNTS) < 0.3
by, of = rng.integers(ACCOUNTS, size=(2, RATINGS))
score = rng.normal(np.where(dishonest[of], -0.4, 0.4)).astype(np.float32)

names = np.array([f"account-{k}" for k in range(ACCOUNTS)])
accounts = pa.table(
    {
        "name": names,
        "one": np.ones(ACCOUNTS, np.float32),
        "dishonest": dishonest,
        "split": rng.choice(["train", "val", "test"], ACCOUNTS),
    }
)
ratings = pa.table({"by": names[by], "of": names[of], "score": score})
graph = gt.Graph.from_arrow(
    accounts,
    ratings,
    id="name",
    src="by",
    dst="of",
    features=["one"],
    labels=["dishonest"],
    splits=["split"],
    edge_features=["score"],
)


def train(comm: Communicator) -> float:
    """Train on this worker's share of the graph; return the area under the ROC curve."""
    shard = gt.open_shard(graph, comm)
    model = gt.nn.GATE(shard.num_features, 16, 1, heads=4, dropout=0.0, edge_dim=shard.edge_dim)
    trainer = gt.Trainer(model, shard, lr=0.05)
    return trainer.fit(epochs=60)["test_auroc"]


if __name__ == "__main__":
    print(f"test AUROC {gt.run_local(train, workers=2):.3f}")
