import numpy as np
import pyarrow as pa
import pytest
import torch

from graphtheta.data.graph import Graph
from graphtheta.errors import ConfigError, GraphFormatError

NUM_NODES = 6
EDGE_INDEX = torch.tensor([[0, 1, 2, 2], [1, 2, 3, 2]])


def pyg_data(**fields):
    data = pytest.importorskip("torch_geometric.data")
    return data.Data(**{"edge_index": EDGE_INDEX, "num_nodes": NUM_NODES, **fields})


def masks(*shape):
    place = torch.arange(NUM_NODES).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    return {f"{n}_mask": place % 4 == i for i, n in enumerate(("train", "val", "test"))}


def edge_fields():
    generator = torch.Generator().manual_seed(0)
    return {
        "edge_attr": torch.rand(4, 2, generator=generator),
        "edge_type": torch.tensor([0, 1, 0, 2]),
        "edge_weight": torch.rand(4, generator=generator),
    }


LABELS = {
    "multi_class": torch.tensor([0, 1, 2, -1, 0, 1]),
    "binary": torch.tensor([True, False, True, True, False, False]),
    "regression": torch.tensor([0.5, float("nan"), 1.0, -2.0, 3.0, 4.0]),
    "multi_label": torch.rand(6, 3) > 0.5,
    "several_outputs": torch.rand(6, 3),
}


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("shape", [(NUM_NODES,), (NUM_NODES, 2)], ids=["masks", "two_splits"])
def test_pyg_round_trip(label, shape):
    times = {"time": torch.arange(6) * 10**6, "edge_time": torch.rand(4)}
    data = pyg_data(x=torch.rand(6, 3), y=LABELS[label], **masks(*shape), **edge_fields(), **times)
    graph = Graph.from_pyg(data)
    assert graph.splits == (("split",) if len(shape) == 1 else ("split", "0", "1"))
    back = graph.to_pyg()
    assert set(back.keys()) == set(data.keys())
    for name, value in data:
        if torch.is_tensor(value):
            torch.testing.assert_close(back[name], value, rtol=0, atol=0, equal_nan=True)


def test_from_pyg_without_anything_but_edges():
    graph = Graph.from_pyg(pyg_data())
    assert (graph.num_nodes, graph.num_edges, graph.num_features) == (6, 4, 0)
    assert graph.labels == graph.splits == ()


def test_from_pyg_takes_features_of_other_types():
    x = torch.eye(6).to_sparse()
    assert np.array_equal(Graph.from_pyg(pyg_data(x=x)).features, np.eye(6, dtype=np.float32))
    for kind in (torch.int64, torch.bool, torch.bfloat16):
        graph = Graph.from_pyg(
            pyg_data(x=torch.eye(6).to(kind).requires_grad_(kind.is_floating_point))
        )
        assert graph.features.dtype == np.float32
    assert Graph.from_pyg(pyg_data(x=torch.rand(6).double())).features.shape == (6, 1)


def test_pyg_keeps_original_ids():
    nodes = pa.table({"id": ["u", "v"]})
    graph = Graph.from_arrow(nodes, pa.table({"src": ["u"], "dst": ["v"]}))
    assert graph.to_pyg().original_id == ["u", "v"]
    assert Graph.from_pyg(graph.to_pyg()).digest() == graph.digest()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"y": torch.zeros(5)}, r"y: expected 6 rows, got shape \(5,\)"),
        ({"x": torch.rand(7, 2)}, r"features: expected 6 rows, got shape \(7, 2\)"),
        ({"edge_attr": torch.rand(3, 2)}, r"attr: expected 4 rows, got shape \(3, 2\)"),
        ({"x": torch.full((6, 1), torch.nan)}, "features: expected finite numbers, got NaN"),
        ({"edge_index": None}, "expected edge_index, got none"),
        (
            {"edge_index": torch.zeros(3, 4, dtype=torch.int64)},
            r"edge_index: expected two rows, got shape \(3, 4\)",
        ),
        ({"x": torch.ones(6, 2) * 1j}, "features: expected real numbers, got complex64"),
        ({"edge_index": EDGE_INDEX + 4}, r"node keys in \[0, 6\), got 6"),
        (
            {"train_mask": torch.ones(6).bool(), "test_mask": torch.ones(6).bool()},
            "at most one of train, validation, test",
        ),
        (
            {"train_mask": torch.tensor([0, 2, 1, 0, 0, 0])},
            "train_mask: expected booleans, or 0 and 1, got 2 in row 1",
        ),
        ({"test_mask": torch.ones(6, 0)}, "test_mask: expected a mask of 6 rows"),
        ({"val_mask": torch.full((6,), 0.5)}, "val_mask: expected booleans, or 0 and 1, got 0.5"),
    ],
    ids=[
        *("short_y", "long_x", "short_attr", "nan", "no_edges", "three_rows", "complex"),
        *("out_of_range", "masks_overlap"),
        *("mask_of_two", "empty_mask", "mask_of_fractions"),
    ],
)
def test_from_pyg_refuses_bad_input(fields, message):
    with pytest.raises(GraphFormatError, match=message):
        Graph.from_pyg(pyg_data(**fields))


def hetero_data():
    data = pytest.importorskip("torch_geometric.data").HeteroData()
    data["author"].num_nodes = 3
    data["author"].original_id = ["u", "v", "w"]
    data["paper"].x = torch.rand(NUM_NODES, 3)
    data["paper"].y = LABELS["multi_class"]
    data["paper"].update(masks(NUM_NODES))
    data["author", "writes", "paper"].edge_index = torch.tensor([[0, 2, 1], [5, 0, 3]])
    data["author", "writes", "paper"].edge_weight = torch.rand(3)
    data["paper", "cites", "paper"].edge_index = EDGE_INDEX
    data["paper", "cites", "paper"].edge_attr = torch.rand(4, 2)
    data["paper"].time = torch.tensor([3, 2, 1, 0, torch.iinfo(torch.int64).min, 5])
    data["paper", "cites", "paper"].time = torch.arange(4)
    return data


def test_hetero_data_round_trip():
    data = hetero_data()
    graph = Graph.from_pyg(data)
    assert graph.node_types == ("author", "paper")
    assert graph.labels == ("paper.y",)
    assert graph.splits == ("paper.split",)
    assert graph.edge_table("paper-cites-paper")["src"].to_pylist() == [3, 4, 5, 5]
    assert graph.edge_table("paper-cites-paper")["time"].to_pylist() == [0, 1, 2, 3]
    assert graph.node_table("paper")["time"].to_pylist() == [3, 2, 1, 0, None, 5]
    back = graph.to_pyg(label="paper.y")
    assert back.metadata() == data.metadata()
    assert back["author"].to_dict() == data["author"].to_dict()
    for store in ("paper", ("author", "writes", "paper"), ("paper", "cites", "paper")):
        for name, value in data[store].items():
            assert torch.equal(back[store][name], value), (store, name)
    assert Graph.from_pyg(back).digest() == graph.digest()
    with pytest.raises(ConfigError, match=r"label: expected one of paper\.y, got 'author\.y'"):
        graph.to_pyg(label="author.y")


def test_to_pyg_writes_times_as_seconds():
    days = pa.array([1, None], pa.timestamp("ms")).cast(pa.date32())
    nodes = pa.table({"id": [0, 1], "time": days})
    late = {"src": [0, 1], "dst": [1, 0], "time": pa.array([1_500, 2_500], pa.timestamp("ms"))}
    data = Graph.from_arrow({"v": nodes}, {"v-to-v": pa.table(late), "v-x-v": late}).to_pyg()
    assert data["v"].time.tolist() == [0, torch.iinfo(torch.int64).min]
    assert data["v", "to", "v"].time.tolist() == [1, 2]


def test_from_pyg_leaves_out_a_time_of_the_graph():
    assert Graph.from_pyg(pyg_data(time=torch.tensor([3]))).nodes.column_names == ["id"]


def test_what_is_not_read_is_reported(caplog):
    Graph.from_pyg(pyg_data(y=LABELS["multi_class"], **edge_fields(), edge_time=torch.rand(4)))
    Graph.from_pyg(hetero_data())
    assert not caplog.messages
    links = {"edge_label": torch.ones(4), "edge_label_index": EDGE_INDEX}
    Graph.from_pyg(pyg_data(time=torch.tensor([3]), name="x", **links))
    data = hetero_data()
    data["paper"].n_id = torch.arange(NUM_NODES)
    data["author", "writes", "paper"].update(links)
    data.name = "x"
    Graph.from_pyg(data)
    untyped, typed = caplog.messages
    assert untyped.startswith("from_pyg: not read: edge_label, edge_label_index, name, time (for")
    assert "author-writes-paper.edge_label_index, name (for the supervision edges" in typed
    assert "not read: paper.n_id, author-writes-paper.edge_label, " in typed


def broken(change):
    data = hetero_data()
    change(data)
    return data


@pytest.mark.filterwarnings("ignore:Unable to accurately infer")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["author"].update(num_nodes=2), "original_id: expected 2 rows"),
        (lambda data: data["x"].update(z=1), "from_pyg: x: expected num_nodes, got none"),
        (
            lambda data: setattr(data["author", "in", "city"], "edge_index", EDGE_INDEX),
            "author, paper, got 'city' in the relation author-in-city",
        ),
        (
            lambda data: data["author", "writes", "paper"].edge_index.add_(3),
            r"src: expected node keys in \[0, 3\), got 3",
        ),
        (lambda data: data["paper", "is-a", "paper"], "without '-', got 'is-a'"),
        (
            lambda data: data["paper"].update(time=torch.ones(NUM_NODES, 2)),
            r"paper: time: expected one value in each row, got shape \(6, 2\)",
        ),
        (
            lambda data: data["paper", "cites", "paper"].update(edge_weight=torch.ones(4, 2)),
            r"cites-paper: weight: expected one value in each row, got shape \(4, 2\)",
        ),
    ],
    ids=["rows", "num_nodes", "unknown_type", "out_of_range", "name", "times", "weights"],
)
def test_from_pyg_refuses_bad_hetero_data(change, message):
    with pytest.raises((ConfigError, GraphFormatError), match=message):
        Graph.from_pyg(broken(change))


def test_from_pyg_refuses_hetero_data_without_edges():
    data = pytest.importorskip("torch_geometric.data")
    with pytest.raises(GraphFormatError, match="expected at least one edge type"):
        Graph.from_pyg(data.HeteroData())


def test_networkx_round_trip():
    nx = pytest.importorskip("networkx")
    given = nx.MultiDiGraph()
    given.add_node("a", features=[1.0, 2.0], y=1, s="train", junk=object())
    given.add_node("b", features=[3.0, 4.0], y=None, s="test")
    given.add_edge("a", "b", weight=0.5)
    given.add_edge("a", "b", weight=1.5)
    given.add_edge("b", "b", weight=2.5)
    graph = Graph.from_networkx(given, labels="y", splits={"split": "s"})
    assert graph.features.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert graph.features.dtype == np.float32
    assert graph.labelled().tolist() == [True, False]
    assert graph.column("weight").tolist() == [0.5, 1.5, 2.5]
    back = graph.to_networkx()
    assert list(back.edges(data="weight")) == list(given.edges(data="weight"))
    assert Graph.from_networkx(back).digest() == graph.digest()


def test_from_networkx_takes_undirected_edges_both_ways_and_self_loops_once():
    nx = pytest.importorskip("networkx")
    graph = Graph.from_networkx(nx.Graph([(0, 1), (1, 1)]))
    assert sorted(zip(graph.src.tolist(), graph.dst.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (1, 1),
    ]


def test_from_networkx_refuses_bad_input():
    nx = pytest.importorskip("networkx")
    with pytest.raises(GraphFormatError, match="nodes: id: expected values of one type"):
        Graph.from_networkx(nx.Graph([(0, "a")]))
    with pytest.raises(GraphFormatError, match="expected at least one node"):
        Graph.from_networkx(nx.Graph())
    with pytest.raises(ValueError, match="expected a column 'x'"):
        Graph.from_networkx(nx.path_graph(3), features="x")


def test_from_networkx_reads_tensors_and_ignores_what_it_does_not_read():
    nx = pytest.importorskip("networkx")
    given = nx.path_graph(2, create_using=nx.DiGraph)
    for node, data in given.nodes(data=True):
        data |= {"features": torch.tensor([node, 1.5]), "label:y": torch.tensor(node)}
        data |= {"when": np.datetime64("2026-01-01"), "mixed": ["a", 1][node], 7: 1j}
    given.edges[0, 1].update(weight=torch.tensor(0.5).bfloat16(), huge=2**64)
    graph = Graph.from_networkx(given)
    assert graph.features.tolist() == [[0, 1.5], [1, 1.5]]
    assert graph.nodes["label:y"].to_pylist() == [0, 1]
    assert graph.column("weight").tolist() == [0.5]


@pytest.mark.parametrize(
    ("name", "values", "options"),
    [
        ("features", [1j, 2j], {}),
        ("features", [torch.tensor(1j)] * 2, {}),
        ("label:y", ["a", 1], {}),
        ("features", [2**63, 1], {}),
        ("when", ["now", np.datetime64("2026-01-01")], {"labels": "when"}),
    ],
)
def test_attributes_that_cannot_be_read_are_refused_by_name(name, values, options):
    nx = pytest.importorskip("networkx")
    given = nx.path_graph(2)
    nx.set_node_attributes(given, dict(enumerate(values)), name)
    with pytest.raises(GraphFormatError, match=f"from_networkx: nodes: {name}: expected ") as error:
        Graph.from_networkx(given, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("nodes", "weight", "name"), [([2**63, 1], 1, "nodes: id"), ([0, 1], 2**63, "edges: weight")]
)
def test_integers_beyond_int64_in_networkx_are_refused(nodes, weight, name):
    nx = pytest.importorskip("networkx")
    given = nx.Graph([(*nodes, {"weight": weight})])
    with pytest.raises(GraphFormatError, match=f"from_networkx: {name}: expected "):
        Graph.from_networkx(given)


def test_dgl_round_trip():
    dgl = pytest.importorskip("dgl")
    given = dgl.graph(tuple(EDGE_INDEX), num_nodes=NUM_NODES)
    fields = edge_fields()
    given.ndata.update({"feat": torch.rand(6, 3), "label": LABELS["multi_class"], **masks(6)})
    given.edata.update(
        feat=fields["edge_attr"], etype=fields["edge_type"], weight=fields["edge_weight"]
    )
    back = Graph.from_dgl(given).to_dgl()
    assert torch.equal(torch.stack(back.edges()), EDGE_INDEX)
    for before, after in ((given.ndata, back.ndata), (given.edata, back.edata)):
        assert set(before) == set(after)
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_dgl_heterograph_round_trip():
    dgl = pytest.importorskip("dgl")
    follows, plays = ("user", "follows", "user"), ("user", "plays", "game")
    ends = {follows: ([0, 1], [1, 2]), plays: ([2, 0], [0, 1])}
    given = dgl.heterograph(ends, num_nodes_dict={"user": 3, "game": 4})
    given.nodes["game"].data.update(feat=torch.rand(4, 2), label=torch.tensor([0, 1, -1, 2]))
    given.edges[plays].data["weight"] = torch.rand(2)
    back = Graph.from_dgl(given).to_dgl()
    assert back.canonical_etypes == given.canonical_etypes
    for names in ends:
        assert torch.equal(torch.stack(back.edges(etype=names)), torch.tensor(ends[names]))
    for name, value in given.nodes["game"].data.items():
        assert torch.equal(back.nodes["game"].data[name], value)
    assert torch.equal(back.edges[plays].data["weight"], given.edges[plays].data["weight"])
