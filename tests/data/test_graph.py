import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from graphtheta.data.graph import Graph
from graphtheta.data.schema import validate_edges, validate_nodes
from graphtheta.errors import ConfigError, GraphFormatError, GraphThetaError
from tests.typed_graphs import typed_graph, typed_tables

NODES = pa.table(
    {
        "name": ["a", "b", "c"],
        "f_2": [1.0, 2.0, 3.0],
        "f_10": [4.0, 5.0, 6.0],
        "f_1": [7.0, 8.0, 9.0],
        "class": pa.array([1, None, 0]),
        "fold": ["train", "VAL", None],
        "note": ["x", "y", "z"],
    }
)
EDGES = pa.table(
    {
        "from": ["a", "b", "c", "a"],
        "to": ["b", "c", "a", "a"],
        "attr": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]],
        "kind": pa.array([0, 1, 0, 0], pa.int8()),
    }
)
NAMES = {"id": "name", "src": "from", "dst": "to"}


def make(nodes=NODES, edges=EDGES, **options):
    return Graph.from_arrow(nodes, edges, **{**NAMES, **options})


def with_column(name, values):
    return NODES.append_column(name, values if isinstance(values, pa.Array) else pa.array(values))


def test_from_arrow_maps_string_ids_to_node_keys():
    graph = make(features="f_*", labels={"y": "class"}, splits={"split": "fold"}, edge_type="kind")
    assert (graph.num_nodes, graph.num_edges, graph.num_features) == (3, 4, 3)
    assert graph.ids.tolist() == ["a", "b", "c"]
    assert graph.src.tolist() == [0, 1, 2, 0]
    assert graph.dst.tolist() == [1, 2, 0, 0]
    assert graph.label().tolist() == [1, 0, 0]
    assert graph.labelled().tolist() == [True, False, True]
    assert graph.split().tolist() == [1, 2, 0]
    assert graph.split().dtype == np.int8
    assert graph.column("type").tolist() == [0, 1, 0, 0]
    assert graph.column("attr").tolist() == EDGES["attr"].to_pylist()
    assert graph.column("note", of="nodes").tolist() == ["x", "y", "z"]
    assert repr(graph) == (
        "Graph(3 nodes, 4 edges, 3 features, label y, split split, edge attr, edge type)"
    )


def test_glob_of_features_is_in_natural_order():
    assert make(features="f_*").features[0].tolist() == [7.0, 1.0, 4.0]
    assert make(features=["f_10", "f_1"]).features[0].tolist() == [4.0, 7.0]


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint16(), pa.int64()], ids=str)
def test_from_arrow_maps_integer_ids(kind):
    nodes = pa.table({"id": pa.array([30, 10, 20], kind)})
    edges = pa.table({"src": [10, 20], "dst": [30, 10]})
    graph = Graph.from_arrow(nodes, edges)
    assert graph.src.tolist() == [1, 2]
    assert graph.dst.tolist() == [0, 1]


def test_without_node_table_nodes_are_sorted_ids():
    graph = make(None)
    assert graph.ids.tolist() == ["a", "b", "c"]
    graph = Graph.from_arrow(None, pa.table({"src": [9, 2], "dst": [2, 5]}))
    assert graph.ids.tolist() == [2, 5, 9]
    assert graph.src.tolist() == [2, 0]


def test_without_id_column_ids_are_rows():
    nodes = pa.table({"features": [[1.0], [2.0]]})
    graph = Graph.from_arrow(nodes, pa.table({"src": [0], "dst": [1]}), id=None)
    assert graph.ids.tolist() == [0, 1]


def test_views_share_the_tables_memory():
    features = np.arange(6, dtype=np.float32).reshape(3, 2)
    column = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), 2)
    src = np.array([0, 1])
    graph = Graph(
        pa.table({"id": np.arange(3), "features": column}), pa.table({"src": src, "dst": src})
    )
    assert np.shares_memory(graph.features, features)
    assert np.shares_memory(graph.src, src)
    assert not graph.features.flags.writeable


@pytest.mark.parametrize(
    ("values", "kind", "shown"),
    [
        (pa.array([2, None, 0], pa.uint8()), pa.int64(), [2, 0, 0]),
        ([True, None, False], pa.bool_(), [True, False, False]),
        ([0.5, None, -1.0], pa.float32(), [0.5, 0.0, -1.0]),
        ([[1, 0], None, [0, 1]], pa.list_(pa.bool_(), 2), [[True, False], [False] * 2, [0, 1]]),
        ([[1.5, 0], None, [0, 1]], pa.list_(pa.float32(), 2), [[1.5, 0], [0, 0], [0, 1]]),
        (pa.nulls(3), pa.int64(), [0, 0, 0]),
    ],
    ids=["multi-class", "binary", "regression", "multi-label", "several-outputs", "none"],
)
def test_label_takes_its_form(values, kind, shown):
    graph = make(with_column("y", values), labels="y")
    assert graph.nodes.schema.field("label:y").type == kind
    assert graph.label().tolist() == shown
    assert not graph.labelled()[1]


def test_equal_labels_have_equal_digests_whatever_lies_under_nulls():
    missing = np.array([False, True, False])
    one, other = (
        make(with_column("y", pa.array(np.array([1, under, 0]), mask=missing)), labels="y")
        for under in (5, -7)
    )
    assert one.digest() == other.digest()


@pytest.mark.parametrize(
    "values",
    [["Train", "valid", "test"], ["train", "validation", "TEST"], [1, 2, 3]],
    ids=["words", "long", "numbers"],
)
def test_split_takes_its_form(values):
    assert make(with_column("s", values), splits="s").split().tolist() == [1, 2, 3]


def test_split_of_booleans():
    nodes = with_column("train", [True, False, None])
    assert make(nodes, splits="train").split("train").tolist() == [1, 0, 0]
    nodes = nodes.append_column("held", pa.array([False, True, True]))
    nodes = nodes.append_column("none", pa.array([False] * 3))
    graph = make(nodes, splits={"split": ("train", "none", "held")})
    assert graph.split().tolist() == [1, 3, 3]
    with pytest.raises(GraphFormatError, match="several in row 0"):
        make(nodes, splits={"split": ("train", "train", "held")})


def test_several_labels_and_splits_are_named():
    nodes = with_column("a", [0, 1, 0]).append_column("b", pa.array([0.5, 1.5, 2.5]))
    graph = make(nodes, labels=["a", "b"])
    assert graph.labels == ("a", "b")
    assert graph.label("b").tolist() == [0.5, 1.5, 2.5]
    with pytest.raises(ConfigError, match=r"expected a label 'y', got 'a', 'b'\. Name one"):
        graph.label()
    with pytest.raises(ConfigError, match="expected a split 'split', got none"):
        graph.split()


def test_tables_of_several_chunks_and_dictionaries():
    nodes = pa.concat_tables([NODES.slice(0, 1), NODES.slice(1)])
    index = nodes.column_names.index("name")
    nodes = nodes.set_column(index, "name", nodes["name"].dictionary_encode())
    assert make(nodes, features="f_*").digest() == make(features="f_*").digest()


def test_chunks_are_slices_and_graph_is_a_source():
    graph = make(features="f_*")
    assert graph.keyed
    assert next(graph.node_tables[0].table.chunks(1, 3))["id"].to_pylist() == ["b", "c"]
    assert next(graph.edge_tables[0].table.chunks(3, 4))["src"].to_pylist() == [0]
    assert next(graph.edge_tables[0].table.chunks(2, 2)).schema == graph.edge_tables[0].schema
    assert next(graph.edge_tables[0].table.chunks(2, 3, ["src", "dst"])).column_names == [
        "src",
        "dst",
    ]
    assert next(graph.node_tables[0].table.chunks(0, 1, ["id"])).column_names == ["id"]
    assert Graph.from_source(graph).digest() == graph.digest()


def test_digest_depends_on_the_content():
    assert make().digest() != make(edges=EDGES.slice(0, 3)).digest()
    assert make().digest() == make().digest()


def test_tables_may_be_dicts_and_other_frames():
    class Frame:
        def __arrow_c_stream__(self, schema=None):
            return pa.table({"src": [0, 1], "dst": [1, 0]}).__arrow_c_stream__(schema)

    nodes = {"id": [0, 1], "features": np.eye(2, dtype=np.float32), "label:y": [True, False]}
    graph = Graph.from_arrow(nodes, Frame())
    assert graph.features.tolist() == [[1, 0], [0, 1]]
    assert graph.dst.tolist() == [1, 0]
    batch = pa.record_batch({"src": ["a"], "dst": ["b"]})
    assert Graph.from_arrow(None, batch).ids.tolist() == ["a", "b"]


@pytest.mark.parametrize("convert", ["from_arrow", "from_pyg", "from_dgl", "from_networkx"])
@pytest.mark.parametrize("given", [[(0, 1)], np.zeros((2, 2)), None, "edges.csv"], ids=str)
def test_other_objects_are_refused_with_their_type(convert, given):
    arguments = (None, given) if convert == "from_arrow" else (given,)
    with pytest.raises(GraphFormatError, match=f"expected a.*, got {type(given).__name__}"):
        getattr(Graph, convert)(*arguments)


def test_columns_of_two_lengths_are_refused():
    with pytest.raises(GraphFormatError, match=r"edges: .*'?dst'? expected length 2 but got"):
        Graph.from_arrow(None, {"src": [0, 1], "dst": [1]})


def test_graph_without_edges():
    graph = make(edges=EDGES.slice(0, 0))
    assert graph.num_edges == 0
    assert graph.src.shape == (0,)


BAD = {
    "duplicate_ids": (
        {"nodes": pa.concat_tables([NODES, NODES])},
        "nodes: id: expected unique ids, got 'a', 'b', 'c' more than once",
    ),
    "unknown_ids": (
        {"nodes": NODES.slice(0, 1)},
        r"edges: src: expected ids of the node table, got 'b', 'c' \(in 2 rows\)",
    ),
    "null_ids": (
        {"edges": pa.table({"from": ["a", None], "to": ["a", "b"]})},
        "edges: src .*: expected a value in every row, got nulls in row 1",
    ),
    "ids_of_two_types": (
        {"edges": pa.table({"from": [1], "to": [2]})},
        "edges: src: expected ids of the node table, got '1'",
    ),
    "float_ids": (
        {"edges": pa.table({"from": [1.5], "to": [2.5]})},
        "expected integers or strings, got double",
    ),
    "no_nodes": (
        {"nodes": NODES.slice(0, 0), "edges": EDGES.slice(0, 0)},
        "expected at least one node, got none",
    ),
    "nan_features": (
        {"nodes": with_column("x", [[0.0], [np.nan], [np.inf]]), "features": "x"},
        "features: expected finite numbers, got NaN or inf in rows 1, 2",
    ),
    "null_features": (
        {"nodes": with_column("x", [[0.0], None, [1.0]]), "features": "x"},
        "expected a value in every row, got nulls in row 1",
    ),
    "nulls_inside_features": (
        {"nodes": with_column("x", [[0.0], [None], [1.0]]), "features": "x"},
        "expected lists without nulls, got nulls in row 1",
    ),
    "nulls_inside_targets": (
        {"nodes": with_column("y", [[1.5, None], None, [1.5, 2.5]]), "labels": "y"},
        "expected lists without nulls, got nulls in row 0",
    ),
    "lists_of_two_lengths": (
        {"nodes": with_column("x", [[0.0], [1.0, 2.0], [1.0]]), "features": "x"},
        "expected lists of length 1 as in the first row, got length 2 in row 1",
    ),
    "lists_shorter_than_the_first": (
        {"nodes": with_column("x", [[0.0, 1.0], [1.0], [1.0, 2.0]]), "features": "x"},
        "expected lists of length 2 as in the first row, got length 1 in row 1",
    ),
    "features_of_text": (
        {"features": "note:standard"},
        r"features \(from 'note'\): expected numbers, booleans or durations for standard, got str",
    ),
    "negative_label": (
        {"nodes": with_column("y", [0, None, -1]), "labels": "y"},
        "label:y .*: expected classes from 0 to 65,535, got -1 in row 2.*a null for a missing one",
    ),
    "nan_label": (
        {"nodes": with_column("y", [0.5, None, np.nan]), "labels": "y"},
        "label:y: expected finite numbers, got NaN or inf in row 2",
    ),
    "multi_label_of_counts": (
        {"nodes": with_column("y", [[0, 1], [2, 0], [0, 0]]), "labels": "y"},
        "expected 0 and 1 as labels, got 2 in row 1",
    ),
    "split_out_of_range": (
        {"nodes": with_column("s", [0, 4, 1]), "splits": "s"},
        "expected 0 none, 1 train, 2 validation or 3 test, got 4 in row 1",
    ),
    "split_of_other_words": (
        {"nodes": with_column("s", ["train", "dev", "tset"]), "splits": "s"},
        "expected train, val, test or none, got 'dev', 'tset'",
    ),
    "negative_edge_type": (
        {"edges": EDGES.append_column("type", pa.array([0, 1, -1, 0]))},
        "edges: type: expected edge types from 0 to 65,535, got -1 in row 2",
    ),
    "nan_edge_attribute": (
        {"edges": EDGES.append_column("weight", pa.array([0.0, 1.0, np.nan, 0.0]))},
        "edges: weight: expected finite numbers, got NaN or inf in row 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case):
    options, message = BAD[case]
    with pytest.raises(GraphFormatError, match=message) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"id": "nope"},
        {"src": "nope"},
        {"features": "g_*"},
        {"features": ["f_1", "nope"]},
        {"labels": "nope"},
        {"splits": {"split": "nope"}},
        {"edge_type": "nope"},
    ],
    ids=str,
)
def test_unknown_column_is_refused_with_those_that_exist(options):
    with pytest.raises(ConfigError, match=r"got columns (name, f_2|from, to, attr)"):
        make(**options)


def test_unknown_ids_names_three_and_the_count():
    edges = pa.table({"from": ["a", *"uvwxy"], "to": ["a"] * 6})
    with pytest.raises(GraphFormatError, match=r"'u', 'v', 'w', \.\.\. \(5 in all\) \(in 5 rows\)"):
        make(edges=edges)


@pytest.mark.parametrize("key", [-1, 3])
def test_node_key_out_of_range_is_refused(key):
    edges = pa.table({"src": [0, key], "dst": [1, 1]})
    with pytest.raises(GraphFormatError, match=rf"node keys in \[0, 3\), got {key} in row 1"):
        Graph(pa.table({"id": [0, 1, 2]}), edges)


def test_unknown_column_of_a_graph_is_refused():
    with pytest.raises(ConfigError, match="edges: expected a column 'attr2', got columns src, dst"):
        make().column("attr2")


def test_validate_counts_rows_of_a_block_from_its_first():
    block = pa.table({"id": [7, 8], "label:y": pa.array([0, -3])})
    with pytest.raises(GraphFormatError, match="got -3 in row 101"):
        validate_nodes(block, "nodes", 100)
    with pytest.raises(GraphFormatError, match="got NaN or inf in row 101"):
        validate_edges(pa.table({"weight": [0.0, np.nan]}), "edges", first_row=100)


def test_validate_takes_slices():
    table = make(features="f_*", labels={"y": "class"}, splits={"split": "fold"}).nodes
    for start in range(3):
        validate_nodes(table.slice(start, 1), "nodes", start)
        validate_nodes(table.slice(start, 0), "nodes", start)


def test_graph_does_not_import_torch():
    code = (
        "import sys, graphtheta.data.graph, graphtheta.datasets; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_typed_graph_has_a_range_of_keys_for_each_type() -> None:
    graph = typed_graph()
    assert graph.node_types == ("author", "empty", "paper", "venue")
    assert graph.relations[0] == ("author", "writes", "paper")
    assert [table.first_key for table in graph.node_tables] == [0, 13, 13, 34]
    _, edges = typed_tables()
    for relation in graph.relations:
        given = edges[relation] if relation in edges else edges[relation.text]
        found = graph.edge_table(relation)
        for end, of_type in (("src", relation.source), ("dst", relation.destination)):
            first = next(t.first_key for t in graph.node_tables if t.name == of_type)
            ids = graph.node_table(of_type)["id"].take(pc.subtract(found[end], first))
            assert ids.to_pylist() == list(given[end].tolist())
    assert graph.edge_table("paper-extends-paper")["type"].to_pylist() == [0, 1] * 4 + [0]
    assert graph.labels == ("paper.y",)
    assert "paper (21)" in repr(graph)
    again = Graph.from_source(graph)
    assert again.digest() == graph.digest() != typed_graph(1).digest()
    with pytest.raises(ConfigError, match=r"^node type: expected one of author, .* got none"):
        _ = graph.nodes


def test_options_of_a_relation_are_those_of_a_folder() -> None:
    edges = {**TO, "w": [0.5], "stars": [3], "fold": ["train"], "kind": ["x"], "f": [1.0]}
    options = {"weight": "w", "labels": "stars", "splits": "fold", "type": "kind", "features": "f"}
    graph = Graph.from_arrow(ONE_TYPE, {"a-to-a": edges}, columns={("a", "to", "a"): options})
    found = graph.edge_table("a-to-a").column_names
    assert {"weight", "label:stars", "split:fold", "type", "attr"} <= {*found}


ONE_TYPE = {"a": {"id": [0, 1], "color": ["red", "blue"]}}
TO = {"src": [0], "dst": [1]}


@pytest.mark.parametrize(
    ("nodes", "edges", "columns", "match"),
    [
        (
            ONE_TYPE,
            {("a", "to", "b"): TO},
            {},
            "a-to-b: .*among a, got 'b' in the relation",
        ),
        (ONE_TYPE, {"a-to": TO}, {}, r"relation: expected \(source type, .* got 'a-to'"),
        (ONE_TYPE, {("a", "", "a"): TO}, {}, "relation .*without '-', got ''"),
        ({"a-b": {"id": [0]}}, {"a-to-a": TO}, {}, "nodes of a-b: expected a name .*got 'a-b'"),
        ({"": {"id": [0]}}, {"a-to-a": TO}, {}, "expected a name of a type without '-', got ''"),
        (ONE_TYPE, {"a-to-a": TO, ("a", "to", "a"): TO}, {}, "got two for a-to-a"),
        (ONE_TYPE, {"a-to-a": {"src": [0], "dst": [7]}}, {}, "a-to-a: dst: .*nodes of a, got 7"),
        (ONE_TYPE, {}, {}, "edges: expected at least one table, got none"),
        (ONE_TYPE, TO, {}, "edges: expected a mapping from relations to tables, got dict"),
        ({"id": [0, 1]}, {"a-to-a": TO}, {}, "nodes: expected a mapping from node types"),
        (ONE_TYPE, {"a-to-a": TO}, {"b": {}}, "relation: expected"),
        (ONE_TYPE, {"a-to-a": TO}, {"a-of-a": {}}, "columns: .*of a, a-to-a, got 'a-of-a'"),
        (
            ONE_TYPE,
            {"a-to-a": TO},
            {"a-to-a": {"edge_labels": "x"}},
            "a-to-a: .*, labels, .*'edge_l",
        ),
        (ONE_TYPE, {"a-to-a": TO}, {"a-to-a": {"id_type": "string"}}, "a-to-a: .*got 'id_type'"),
        (ONE_TYPE, {"a-to-a": TO}, {"a": {"labels": "size"}}, "nodes of a: .*a column 'size'"),
        ({"a": {"id": [0, 0, 1]}}, {"a-to-a": TO}, {}, "nodes of a: id: expected unique ids"),
    ],
)
def test_mistakes_in_typed_tables_are_one_line(
    nodes: Any, edges: Any, columns: Any, match: str
) -> None:
    with pytest.raises(GraphThetaError, match=match) as caught:
        Graph.from_arrow(nodes, edges, columns=columns)
    assert "\n" not in str(caught.value)
