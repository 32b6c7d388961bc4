"""Published data sets, where they are available, compared with known facts about them."""

import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from graphtheta import datasets
from graphtheta.data.graph import Graph
from graphtheta.datasets import npz, planetoid, wordnet
from graphtheta.errors import GraphFormatError

DATA = Path(__file__).parents[3] / "shared" / "data"


def folder(name):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no data set at {path}")
    return str(path)


@pytest.mark.parametrize(
    ("name", "nodes", "edges", "features", "classes"),
    [("cora", 2708, 10556, 1433, 7), ("pubmed", 19717, 88648, 500, 3)],
)
def test_planetoid_has_the_public_split(name, nodes, edges, features, classes):
    graph = datasets.read(folder(f"planetoid-{name}"))
    assert isinstance(graph, Graph)
    assert (graph.num_nodes, graph.num_edges, graph.num_features) == (nodes, edges, features)
    split, label = graph.split(), graph.label()
    assert np.bincount(split)[1:].tolist() == [20 * classes, 500, 1000]
    assert np.bincount(label[split == 1]).tolist() == [20] * classes
    np.testing.assert_allclose(graph.features.sum(axis=1), 1, rtol=1e-5)


def test_planetoid_equals_pytorch_geometric():
    pyg = pytest.importorskip("torch_geometric.io")
    import torch

    path = folder("planetoid-cora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pyg.read_planetoid_data(path, "cora")
    ours = planetoid.read(path, normalize=False).to_pyg()
    assert set(ours.keys()) == set(expected.keys()) | {"num_nodes"}
    for name, value in expected:
        assert torch.equal(ours[name], value), name


def test_bundled_cora_is_the_planetoid_one():
    bundled, read = datasets.load("cora"), planetoid.read(folder("planetoid-cora"))
    assert (read.features.toarray() == bundled.features).all()  # sparse, as in the files
    other = ["id", "label:y", "split:split"]
    assert read.nodes.select(other).equals(bundled.nodes.select(other))
    assert read.edges.equals(bundled.edges)


def test_amazon_computers():
    path = folder("amazon-computers/amazon_cs.npz")
    graph = datasets.read(path)
    assert (graph.num_nodes, graph.num_edges, graph.num_features) == (13752, 491722, 767)
    split, label = graph.split(), graph.label()
    assert np.bincount(label[split == 1]).tolist() == [20] * 10
    assert np.bincount(label[split == 2]).tolist() == [30] * 10
    assert not (graph.src == graph.dst).any()
    assert not np.array_equal(npz.read(path, seed=1).split(), split)


def test_tolokers():
    graph = datasets.read(folder("tolokers"))
    assert (graph.num_nodes, graph.num_edges, graph.num_features) == (11758, 1038000, 10)
    assert graph.label().dtype == np.bool_
    assert graph.splits == ("split", *map(str, range(10)))
    assert np.array_equal(graph.split(), graph.split("0"))
    assert not np.array_equal(graph.split("1"), graph.split("0"))


def test_bitcoin_otc():
    graph = datasets.read(folder("bitcoin-otc"))
    assert (graph.num_nodes, graph.num_edges) == (5881, 35592)
    known = graph.labelled()
    assert (known.sum(), graph.label().sum()) == (316, 180)
    assert np.array_equal(graph.split() > 0, known)
    for fraud, count in ((True, 180), (False, 136)):
        sizes = np.bincount(graph.split()[known & (graph.label() == fraud)])[1:]
        assert sizes.tolist() == [round(0.6 * count), round(0.2 * count), sizes[2]]
    attr = graph.column("attr")
    assert np.abs(attr[:, 0]).max() == 1
    assert (attr[:, 1].min(), attr[:, 1].max()) == (0, 1)
    # The first rating of the file: 6 gave 2 a 4.
    rated = (graph.ids[graph.src] == 6) & (graph.ids[graph.dst] == 2)
    assert attr[rated, 0].tolist() == pytest.approx([0.4])


def test_wordnet():
    graph = datasets.read(folder("wordnet30"))
    assert graph.num_nodes == 117659
    assert graph.label().max() == 44
    assert len(np.unique(graph.label())) == 45
    kinds = np.bincount(graph.column("type"), minlength=len(wordnet.POINTERS))
    hypernyms, hyponyms = (kinds[wordnet.POINTERS.index(symbol)] for symbol in "@~")
    assert hypernyms == hyponyms == 89089
    assert graph.ids[0] == "n00001740"
    np.testing.assert_allclose(np.linalg.norm(graph.features, axis=1), 1, rtol=1e-5)
    # entity is a hyponym of nothing, and physical entity one of entity.
    edge = (graph.ids[graph.src[:50]] == "n00001740") & (graph.ids[graph.dst[:50]] == "n00001930")
    assert graph.column("type")[:50][edge].tolist() == [wordnet.POINTERS.index("~")]


def write_planetoid(path, missing=()):
    """Write a data set of 2 training, 501 other known and 3 test nodes, some left out of tests."""
    path.mkdir()
    known, test = 503, [i for i in (505, 503, 504) if i not in missing]
    parts = {
        "x": scipy.sparse.csr_matrix(np.eye(2)),
        "allx": scipy.sparse.csr_matrix(np.ones((known, 2))),
        "tx": scipy.sparse.csr_matrix([[i, 0.0] for i in test]),
        "y": np.eye(2),
        "ally": np.tile([1, 0], (known, 1)),
        "ty": np.tile([0, 1], (len(test), 1)),
        "graph": {0: [1, 1, 0], 1: [0], 505: [0]},
    }
    for key, value in parts.items():
        (path / f"ind.tiny.{key}").write_bytes(pickle.dumps(value))
    (path / "ind.tiny.test.index").write_text("".join(f"{i}\n" for i in test))
    return str(path)


def test_planetoid_with_test_nodes_left_out(tmp_path):
    graph = planetoid.read(write_planetoid(tmp_path / "d", missing=[504]), normalize=False)
    assert graph.num_nodes == 506
    assert graph.features[503:].tolist() == [[503, 0], [0, 0], [505, 0]]
    assert graph.label()[503:].tolist() == [1, 0, 1]
    assert graph.split()[[0, 2, 502, 503, 504, 505]].tolist() == [1, 2, 0, 3, 0, 3]
    edges = list(zip(graph.src.tolist(), graph.dst.tolist(), strict=True))
    assert edges == [(1, 0), (505, 0), (0, 1)]


def test_planetoid_damaged_or_incomplete(tmp_path):
    path = Path(write_planetoid(tmp_path / "d"))
    shutil.copytree(path, tmp_path / "e")
    (path / "ind.tiny.graph").unlink()
    with pytest.raises(GraphFormatError, match=r"ind\.tiny\.graph: expected a file of the data"):
        planetoid.read(str(path))
    path = tmp_path / "e"
    (path / "ind.tiny.ty").write_bytes(pickle.dumps([1, 2], 2))
    with pytest.raises(
        GraphFormatError, match=r"ind\.tiny\.ty: expected a pickled ndarray, got li"
    ):
        planetoid.read(str(path))
    (path / "ind.tiny.test.index").write_text("1\nx\n")
    with pytest.raises(GraphFormatError, match=r"test\.index: expected one integer a line"):
        planetoid.read(str(path))


def test_npz_of_another_form_is_refused(tmp_path):
    path = tmp_path / "g.npz"
    np.savez(path, edges=np.zeros((1, 2), np.int64), other=np.zeros(1))
    with pytest.raises(GraphFormatError, match=r"members adj_data.* adj_matrix.* got edges"):
        npz.read(str(path))


def test_wordnet_line_out_of_form_is_refused(tmp_path):
    for name in ("data.noun", "data.verb", "data.adj", "data.adv"):
        (tmp_path / name).write_text("  1 licence\n00000001 03 n 01 thing 0 001 @ 00000002\n")
    with pytest.raises(GraphFormatError, match=r"data\.noun: line 2: expected a synset"):
        wordnet.read(str(tmp_path))
