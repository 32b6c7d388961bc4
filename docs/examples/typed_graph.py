"""Typed graph: papers, their authors and venues, of which only the papers have features.

The graph is made up. A paper's topic is told by its authors, its venue and a little by its words,
so that a model has to combine the relations.
"""

import numpy as np
import pyarrow as pa

import graphtheta as gt
from graphtheta.comm.communicator import Communicator

PAPERS, AUTHORS, VENUES, TOPICS = 1500, 600, 20, 5

rng = np.random.default_rng(0)
topic = rng.integers(TOPICS, size=PAPERS)
author_topic, venue_topic = rng.integers(TOPICS, size=AUTHORS), np.arange(VENUES) % TOPICS


def choose(topics: np.ndarray, of_nodes: np.ndarray) -> np.ndarray:
    """Return a node for each topic, mostly one of the same topic."""
    right = np.argsort(rng.random((len(topics), len(of_nodes))), axis=1)
    matches = of_nodes[right] == topics[:, None]
    found = right[np.arange(len(topics)), matches.argmax(axis=1)]
    return np.where(
        rng.random(len(topics)) < 0.7, found, rng.integers(len(of_nodes), size=len(topics))
    )


words = rng.normal(size=(PAPERS, 16)).astype(np.float32)
words[np.arange(PAPERS), topic] += 1.5
written = np.repeat(np.arange(PAPERS), 3)
papers = pa.table(
    {
        "id": np.arange(PAPERS),
        "features": pa.FixedSizeListArray.from_arrays(words.reshape(-1), 16),
        "topic": topic,
        "split": rng.choice(["train", "val", "test"], PAPERS, p=[0.3, 0.2, 0.5]),
    }
)
graph = gt.Graph.from_arrow(
    {
        "paper": papers,
        "author": pa.table({"id": np.arange(AUTHORS)}),
        "venue": pa.table({"id": np.arange(VENUES)}),
    },
    {
        "author-writes-paper": pa.table(
            {"src": choose(topic[written], author_topic), "dst": written}
        ),
        "venue-prints-paper": pa.table(
            {"src": choose(topic, venue_topic), "dst": np.arange(PAPERS)}
        ),
    },
    columns={"paper": {"labels": "topic", "splits": "split"}},
    add_reverse=True,
)


def train(comm: Communicator) -> float:
    """Train on this worker's share of the graph; return the accuracy."""
    shard = gt.open_shard(graph, comm)
    model = gt.nn.HGT(32, 8, shard.num_outputs("paper.topic"), metadata=shard.metadata, heads=4)
    trainer = gt.Trainer(gt.nn.TypedInput(shard, 32, model), shard, lr=0.005)
    return trainer.fit(epochs=30)["test_accuracy"]


if __name__ == "__main__":
    print(f"test accuracy {gt.run_local(train, workers=2):.3f}")
