"""Label propagation finds planted communities, the same on any number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import graphtheta as gt
from graphtheta import datasets
from graphtheta.comm.communicator import Communicator
from graphtheta.data.graph import Graph
from graphtheta.datasets.generate import communities
from graphtheta.errors import ConfigError
from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose, hash_keys
from graphtheta.strategy import LabelPropagation
from tests.graphs import CORNER_GRAPHS, power_law, to_graph

SETUPS = [(2, "node-hash"), (3, "dbh"), (4, "hdrf"), (4, "node-hash")]


def found(
    graph: Graph,
    workers: int = 1,
    method: str = "node-hash",
    how: LabelPropagation = LabelPropagation(),  # noqa: B008
) -> NDArray[np.int64]:
    """Return the label of every node."""

    def work(comm: Communicator) -> NDArray[np.int64]:
        shard = gt.open_shard(graph, comm, method=method)
        labels = np.zeros(graph.num_nodes, np.int64)
        labels[shard.node_key_L[: shard.num_masters]] = how(shard, comm, 5)
        comm.all_reduce(labels, stage="test")
        return labels

    return gt.run_local(work, workers=workers, timeout_s=60, check=True)


def mutual_information(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Return the normalised mutual information of two labellings."""
    shares = []
    for labels in (a, b, a * (b.max() + 1) + b):
        share = np.unique(labels, return_counts=True)[1] / len(labels)
        shares.append(-(share * np.log(share)).sum())
    return float(2 * (shares[0] + shares[1] - shares[2]) / (shares[0] + shares[1]))


@pytest.mark.parametrize("degrees", ["power-law", "uniform"])
def test_planted_communities_are_found(degrees: str, tmp_path: Path) -> None:
    nodes, group_size = 3000, 60
    communities(
        tmp_path / "graph", nodes=nodes, group_size=group_size, edge_factor=10, degrees=degrees
    )
    graph = Graph.from_source(datasets.read(str(tmp_path / "graph")))
    position = Permutation(nodes, 0, Purpose.GENERATE).inverse(np.arange(nodes))
    labels = found(graph)
    assert mutual_information(position % (nodes // group_size), labels) > 0.95
    for workers, method in SETUPS:
        np.testing.assert_array_equal(found(graph, workers, method), labels)


@pytest.mark.parametrize("corner", CORNER_GRAPHS)
def test_labels_are_the_same_on_any_number_of_workers(corner: str) -> None:
    graph = to_graph(CORNER_GRAPHS[corner])
    labels = found(graph)
    for most, method in SETUPS:
        workers = min(most, graph.num_nodes)
        np.testing.assert_array_equal(found(graph, workers, method), labels)


@pytest.mark.parametrize(
    "how",
    [
        LabelPropagation(attenuation=0.0),
        LabelPropagation(attenuation=0.5),
        LabelPropagation(preference=-1.0),
        LabelPropagation(rounds=2, preference=1.0),
    ],
    ids=str,
)
def test_options_keep_it_the_same(how: LabelPropagation) -> None:
    graph = to_graph(power_law(300, 900))
    labels = found(graph, how=how)
    assert 1 < len(np.unique(labels)) < 300
    for workers, method in SETUPS:
        np.testing.assert_array_equal(found(graph, workers, method, how), labels)


def test_components_and_isolated_nodes_stay_apart() -> None:
    num_nodes, src, dst = CORNER_GRAPHS["two_components"]
    labels = found(to_graph((num_nodes + 2, src, dst)))
    assert labels[8:].tolist() == [8, 9]
    assert not set(labels[:4]) & set(labels[4:])


def rounds_by_hand(graph: Graph, rounds: int, how: LabelPropagation) -> NDArray[np.int64]:
    """Return the labels after some rounds, computed one node and neighbour at a time."""
    num_nodes = graph.num_nodes
    pairs = [*zip(graph.src.tolist(), graph.dst.tolist(), strict=True)]
    degree = np.bincount(np.concatenate([graph.src, graph.dst]), minlength=num_nodes)
    weight = [round(256 * max(int(d), 1) ** how.preference) for d in degree]
    attenuation = round(65536 * how.attenuation)
    labels, scores = list(range(num_nodes)), [65536] * num_nodes
    for number in range(rounds):
        before = labels
        draws = hash_keys(np.arange(num_nodes), 5, Purpose.COMMUNITY, step=2 * number)
        tie_break = hash_keys(
            np.arange(num_nodes), 5, Purpose.COMMUNITY, step=2 * number + 1
        ).tolist()
        for updated in (draws < 2**63, draws >= 2**63):
            after = labels.copy(), scores.copy()
            for i in np.flatnonzero(updated).tolist():
                near = [a + b - i for a, b in pairs if i in (a, b) and a != b]
                sums = {labels[j]: 0 for j in near}
                for j in near:
                    sums[labels[j]] += scores[j] * weight[j]
                value = {n: (total, n == labels[i], tie_break[n]) for n, total in sums.items()}
                best = max(value, key=value.__getitem__, default=-1)
                if sums.get(best):
                    reached = max(scores[j] for j in near if labels[j] == best)
                    after[0][i] = best
                    after[1][i] = reached if best == labels[i] else max(0, reached - attenuation)
            labels, scores = after
        if labels == before:
            break
    return np.array(labels)


@pytest.mark.parametrize("rounds", [1, 2, 6])
@pytest.mark.parametrize("corner", ["power_law", "random", "self_loops", "parallel_edges"])
def test_rounds_equal_a_reference(corner: str, rounds: int) -> None:
    graph = to_graph(CORNER_GRAPHS[corner])
    how = LabelPropagation(rounds=rounds, attenuation=0.3, preference=0.5)
    np.testing.assert_array_equal(found(graph, how=how), rounds_by_hand(graph, rounds, how))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "expected rounds at least 1, got 0"),
        ({"attenuation": 1.0}, r"expected attenuation in \[0, 1\), got 1.0"),
        ({"preference": 2.0}, r"expected preference in \[-1, 1\], got 2.0"),
    ],
)
def test_wrong_options_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelPropagation(**options)
