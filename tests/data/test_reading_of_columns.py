"""What a column is read as: precision, kinds of labels, names of classes, types of ids."""

from __future__ import annotations

import logging
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
import torch

from graphtheta import Graph
from graphtheta.data.schema import classes_of
from graphtheta.datasets.reading import reading
from graphtheta.errors import ConfigError, GraphFormatError

EDGES = pa.table({"src": [0, 1, 2, 3], "dst": [1, 2, 3, 0]})


def graph_of(edges=EDGES, **options):
    columns = options.pop("columns", {})
    return Graph.from_arrow(pa.table({"id": range(4), **columns}), edges, **options)


UNIX_TIME = [1_700_000_000, 1_700_000_001, 3, -1_700_000_003]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(UNIX_TIME),
        pa.array(UNIX_TIME, pa.int32()),
        pa.array([[value] for value in UNIX_TIME]),
        pa.array([[value] for value in UNIX_TIME], pa.list_(pa.int64(), 1)),
        pa.array([Decimal(value) for value in UNIX_TIME]),
        pa.array(np.array(UNIX_TIME, np.float64)),
    ],
    ids=["int64", "int32", "lists", "fixed-lists", "decimal", "float64"],
)
def test_large_numbers_keep_their_digits(column):
    graph = graph_of(columns={"x": column}, features="x:number")
    assert graph.features.dtype == np.float64
    assert graph.features[:, 0].tolist() == UNIX_TIME


def test_large_attributes_and_weights_of_edges_keep_their_digits():
    edges = EDGES.append_column("t", pa.array(UNIX_TIME)).append_column("w", pa.array(UNIX_TIME))
    graph = graph_of(edges, edge_features="t:number", edge_weight="w")
    assert graph.column("attr")[:, 0].tolist() == UNIX_TIME
    assert graph.column("weight").tolist() == UNIX_TIME


def test_small_integers_and_short_decimals_are_float32():
    columns = {"a": [1, 2, 3, 1 << 24], "b": [Decimal("0.5")] * 4}
    assert graph_of(columns=columns, features=["a", "b"]).features.dtype == np.float32


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([0, 1, (1 << 53) + 1, 0], r"features .*: expected values that double holds exactly, got"),
        (
            [0.0, 1e300, 0.0, 0.0],
            r"expected numbers up to 3.4e\+38, the range of float32, got 1e\+300",
        ),
        ([[0.0], [np.inf], [0.0], [0.0]], "expected finite numbers, got NaN or inf in row 1"),
    ],
)
def test_numbers_that_do_not_fit_are_refused_with_their_row(column, message):
    with pytest.raises(GraphFormatError, match=message) as caught:
        graph_of(columns={"x": column}, features="x:number")
    assert "in row" in str(caught.value)
    assert "\n" not in str(caught.value)


WIDE = Decimal((1 << 53) + 1)


@pytest.mark.parametrize(
    "column",
    [pa.array([WIDE] * 4, pa.decimal256(40)), pa.array([[WIDE]] * 4, pa.list_(pa.decimal128(30)))],
    ids=["decimal256", "list"],
)
def test_decimals_that_float64_rounds_are_reported(column, caplog):
    assert graph_of(columns={"x": column}, features="x").features.dtype == np.float64
    assert "from 9.0072e+15 to 9.0072e+15 lose digits" in caplog.text


HALF = pa.array(np.array([0, 1, 1, 2], np.float16))
NEGATIVE_SCALE = pa.array([Decimal("1E3"), Decimal("2E3"), Decimal(0), None], pa.decimal128(5, -3))


@pytest.mark.parametrize(
    ("column", "kind", "values"),
    [
        (HALF, "regression", [0, 1, 1, 2]),
        (HALF, "multiclass", [0, 1, 1, 2]),
        (NEGATIVE_SCALE, "multiclass", [1000, 2000, 0, None]),
        (pa.FixedSizeListArray.from_arrays(HALF, 1), "regression", [0, 1, 1, 2]),
        (pa.nulls(4), "binary", [None] * 4),
    ],
    ids=["half", "half_classes", "negative_scale", "half_lists", "nulls"],
)
def test_labels_of_rare_types_are_read(column, kind, values):
    graph = graph_of(columns={"y": column}, labels="y", label_kinds=kind)
    assert graph.nodes["label:y"].to_pylist() == values


def test_edge_types_of_half_floats_are_refused():
    edges = EDGES.append_column("type", HALF)
    with pytest.raises(GraphFormatError, match=r"type: expected integers from 0.*got halffloat"):
        graph_of(edges)


@pytest.mark.parametrize(
    "column",
    [
        torch.tensor([[1.0], [2.0], [3.0], [4.0]]).bfloat16(),
        torch.tensor([[1.0], [2.0], [3.0], [4.0]]).to_sparse(),
        np.array([1, 2, 3, 4], ">f4"),
        np.array([[1], [2], [3], [4]], ">f8"),
    ],
    ids=["bfloat16", "sparse", "big_endian", "big_endian_matrix"],
)
def test_tensors_and_arrays_of_rare_types_are_features(column):
    nodes = {"id": np.arange(4), "features": column}
    assert Graph.from_arrow(nodes, EDGES).features[:, 0].tolist() == [1, 2, 3, 4]


def test_complex_numbers_are_refused_with_their_column():
    nodes = {"id": np.arange(4), "features": np.ones(4, np.complex64)}
    message = "nodes: features: expected real numbers, got complex64"
    with pytest.raises(GraphFormatError, match=message):
        Graph.from_arrow(nodes, EDGES)


def test_the_column_of_a_bad_number_is_named():
    columns = {"f_1": [0.0] * 4, "f_2": [0.0, np.inf, 0.0, 0.0]}
    with pytest.raises(GraphFormatError, match=r"column f_2: .*NaN or inf in row 1"):
        graph_of(columns=columns, features="f_*")


def test_lists_of_indices_become_columns():
    columns = {"words": [[0, 3], [], [1], [3, 1, 1]], "topics": [[2], [0, 1], None, []]}
    graph = graph_of(columns=columns, features="words", labels="topics")
    assert graph.features.tolist() == [[1, 0, 0, 1], [0] * 4, [0, 1, 0, 0], [0, 1, 0, 1]]
    assert graph.label().tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert graph.labelled().tolist() == [True, True, False, True]
    with pytest.raises(GraphFormatError, match=r"lists of one length, or lists of indices"):
        graph_of(columns={"x": [[1], [1 << 24, 2], [], []]}, features="x")


def test_features_are_named_with_commas_and_globs():
    columns = {"a": [1] * 4, "f_10": [10] * 4, "f_2": [2] * 4, "b,c": [5] * 4}
    given = "a:number, f_*:number"
    assert graph_of(columns=columns, features=given).features[0].tolist() == [1, 2, 10]
    assert graph_of(columns=columns, features={"b,c": "number"}).features[0].tolist() == [5]
    with pytest.raises(ConfigError, match="expected a column 'z'"):
        graph_of(columns=columns, features="a,z")


TEXTS = ["red", None, "blue", "red"]


def test_texts_become_classes_and_keep_their_names():
    graph = graph_of(columns={"y": TEXTS}, labels="y")
    assert graph.label().tolist() == [1, 0, 0, 1]
    assert graph.labelled().tolist() == [True, False, True, True]
    assert classes_of(graph.nodes.schema.field("label:y")) == ("blue", "red")
    again = Graph.from_arrow(graph.nodes, graph.edges)
    assert classes_of(again.nodes.schema.field("label:y")) == ("blue", "red")
    binary = graph_of(columns={"y": TEXTS}, labels="y", label_kinds="binary")
    assert binary.label().tolist() == [True, False, False, True]


def test_texts_become_edge_types_and_edge_labels():
    edges = EDGES.append_column("kind", pa.array(["likes", "follows", "likes", "blocks"]))
    graph = graph_of(edges, edge_type="kind", edge_labels={"sign": "kind"})
    assert graph.column("type").tolist() == [2, 1, 2, 0]
    assert classes_of(graph.edges.schema.field("type")) == ("blocks", "follows", "likes")
    assert graph.column("label:sign").tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize(
    "column", [[0.0, 1.0, None, 2.0], pa.array([0, 1, None, 2], pa.decimal128(9, 2))]
)
def test_whole_numbers_as_measurements_are_warned_about(column, caplog):
    with caplog.at_level(logging.WARNING):
        graph = graph_of(columns={"y": column}, labels="y")
    assert graph.label().dtype == np.float32
    assert "whole numbers from 0 to 2 are read as measurements (regression)" in caplog.text
    caplog.clear()
    graph = graph_of(columns={"y": column}, labels="y", label_kinds={"y": "multiclass"})
    assert graph.label().tolist() == [0, 1, 0, 2]
    assert graph.labelled().tolist() == [True, True, False, True]
    assert not caplog.text


def test_unknown_entries_of_a_multi_label_are_minus_one():
    column = [[1.0, 0.0], [np.nan, 1.0], None, [None, 0.0]]
    graph = graph_of(columns={"y": column}, labels="y", label_kinds="multilabel")
    assert graph.label().dtype == np.int8
    assert graph.label().tolist() == [[1, 0], [-1, 1], [0, 0], [-1, 0]]
    assert graph.labelled().tolist() == [True, True, False, True]
    assert (
        graph_of(columns={"y": [[1.0, 0.0]] * 4}, labels="y", label_kinds="multilabel")
        .label()
        .tolist()
        == [[True, False]] * 4
    )


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        (
            [0, 1, 10**12, 1],
            None,
            r"expected classes from 0 to 65,535, got 1,000,000,000,000 in row 2",
        ),
        ([0.5, 1.0, 2.0, 0.0], "multiclass", "expected whole numbers as classes, got fractions"),
        ([0, 1, 2, 0], "binary", "expected 0 and 1 as labels, got 2 in row 2"),
        (["a", "b", "c", "a"], "binary", "expected two classes, got 3"),
        (["a", "b", "c", "a"], "regression", "expected numbers, got string"),
        ([0, 1, 0, 1], "multilabel", "expected lists of 0 and 1 for kind multilabel, got int64"),
        ([[0, 1]] * 4, "multiclass", "expected one value in each row for kind multiclass"),
        ([1e39, 0.0, 0.0, 0.0], None, "expected targets that float32 holds"),
    ],
)
def test_labels_that_are_not_of_their_kind_are_refused(column, kind, message):
    with pytest.raises(GraphFormatError, match=message) as caught:
        graph_of(columns={"y": column}, labels="y", label_kinds=kind)
    assert "\n" not in str(caught.value)


def test_wrong_kinds_are_refused():
    columns = {"y": [0, 1, 0, 1]}
    with pytest.raises(ConfigError, match=r"expected names of labels \(y\), got 'z'"):
        graph_of(columns=columns, labels="y", label_kinds={"z": "binary"})
    with pytest.raises(ConfigError, match="expected multiclass, binary, multilabel, regression"):
        graph_of(columns=columns, labels="y", label_kinds="classes")
    with pytest.raises(ConfigError, match="id_type: expected string or int64, got 'text'"):
        graph_of(id_type="text")


def test_unsigned_ids_beyond_int64_are_texts():
    edges = pa.table({name: pa.array([1, 1 << 63], pa.uint64()) for name in ("src", "dst")})
    assert Graph.from_arrow(None, edges).ids.tolist() == ["1", "9223372036854775808"]


@pytest.mark.parametrize("texts", ["nodes", "edges"])
def test_ids_are_texts_if_one_table_has_texts(texts):
    ids = ["10", "11", "x"]
    nodes = pa.table({"id": ids if texts == "nodes" else [10, 11]})
    edges = pa.table({"src": [10, 11], "dst": [11, 10]})
    if texts == "edges":
        edges = pa.table({"src": ["10", "11"], "dst": ["11", "10"]})
    graph = Graph.from_arrow(nodes, edges)
    assert graph.ids.tolist() == ids[: len(nodes)]
    assert graph.src.tolist() == [0, 1]


@pytest.mark.parametrize(
    "names", [("source", "target"), ("Src", "DST"), ("from_id", "to_id"), ("id_1", "id_2")]
)
def test_usual_names_of_endpoints_are_found(names):
    edges = pa.table({"w": [1.0, 2.0], names[0]: ["a", "b"], names[1]: ["b", "c"]})
    assert Graph.from_arrow(None, edges).dst.tolist() == [1, 2]
    with pytest.raises(ConfigError, match="expected a column 'from'"):
        Graph.from_arrow(None, edges, src="from", dst="to")


def test_endpoints_that_are_not_found_are_named_in_the_remedy():
    edges = pa.table({"a": [1], "b": [2]})
    with pytest.raises(ConfigError, match=r"columns a, b\. Name .* \(--src and --dst\)"):
        Graph.from_arrow(None, edges)
    with pytest.raises(ConfigError, match="expected two columns of ids, got 'a' for both"):
        Graph.from_arrow(None, edges, src="a", dst="a")


def test_lists_and_numbers_are_joined_as_features():
    columns = {
        "vector": [[0.5, 1.5]] * 4,
        "age": [10, 20, 30, 40],
        "words": [[1], [0, 2], [], [2]],
    }
    graph = graph_of(columns=columns, features="vector,age:number,words")
    assert graph.features[1].tolist() == [0.5, 1.5, 20, 1, 0, 1]
    assert graph.features[2].tolist() == [0.5, 1.5, 30, 0, 0, 0]
    columns["vector"][2] = [0.5, None]
    with pytest.raises(GraphFormatError, match="column vector: expected lists without nulls"):
        graph_of(columns=columns, features="vector,age")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edge_features": "weight,weight"}, "each column once for attr.*, got 'weight' 2 times"),
        ({"edge_features": "w*,weight"}, "each column once for attr.*, got 'weight' 2 times"),
        ({"edge_weight": "src"}, "numbers for weight, got 'src', the column of ids"),
        ({"edge_features": ["weight", "dst"]}, "numbers for attr, got 'dst', the column of ids"),
    ],
)
def test_columns_named_twice_and_ids_as_numbers_are_refused(options, message):
    with pytest.raises(ConfigError, match=f"edges: expected .*{message}"):
        graph_of(EDGES.append_column("weight", EDGES["src"]), **options)


def test_splits_are_drawn_by_ids_whatever_the_order_and_the_type_of_the_ids():
    ids = np.arange(1000)
    edges = pa.table({"src": ids, "dst": ids[::-1]})  # each edge and its reverse
    options = {"splits": "random(0.6,0.3,7)", "edge_splits": {"drawn": "random(0.5,0.5)"}}
    first, other, texts = (
        Graph.from_arrow({"id": of, "x": of.astype(float)}, edges, features="x", **options)
        for of in (ids, ids[::-1], ids.astype(str))
    )
    parts = first.nodes["split:split"].to_numpy()
    assert np.abs(np.bincount(parts, minlength=4) - [0, 600, 300, 100]).max() < 60
    assert (other.nodes["split:split"].to_numpy()[::-1] == parts).all()
    assert texts.nodes["split:split"].to_numpy().tolist() == parts.tolist()
    drawn = first.edges["split:drawn"].to_numpy()
    assert (drawn == drawn[::-1]).all()
    assert set(drawn) == {1, 2}
    rows = first.nodes.schema.field("features").metadata[b"encoding"]  # fitted to training rows
    assert f'"rows": {(parts == 1).sum()}'.encode() in rows
    for text in ("random(0.6)", "random(0.6,0.5)", "random(a,0.1)", "random(nan,0.1)"):
        with pytest.raises(ConfigError, match="nodes: expected the shares of training and valid"):
            graph_of(splits=text)
    with pytest.raises(ConfigError, match="expected ids, by which random"):
        Graph.from_arrow({"x": [1, 2]}, {"src": [0], "dst": [1]}, id=None, splits="random(1,0)")


def test_large_numbers_that_are_used_as_they_are_are_named():
    columns = {"age": [1.0, 2.0, 90.0, None], "share": [0.1, 0.2, 0.3, 0.4]}
    rows = dict(reading(graph_of(columns=columns, features="age,share")))
    assert rows["hint"].startswith("'age': used as they are, up to 90; the encoding standard")
    assert "hint" not in dict(reading(graph_of(columns=columns, features="age:standard,share")))


def test_tables_with_two_columns_of_a_name_are_refused():
    edges = pa.table([[0], [1], [2], [3]], names=["src", "dst", "x", "x"])
    with pytest.raises(GraphFormatError, match="edges: expected one column 'x', got 2"):
        graph_of(edges)


def test_classes_that_mostly_do_not_occur_are_reported(caplog):
    graph_of(columns={"y": [0, 60_000, 0, None]}, labels="y")
    assert "only 2 of the classes 0 to 60,000 occur" in caplog.text
    caplog.clear()
    graph_of(columns={"y": [0, 2, 0, 1]}, labels="y")
    graph_of(columns={"y": pa.nulls(4, pa.int64())}, labels="y")
    assert not caplog.text


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
def test_large_classes_are_shown_with_all_digits(kind):
    with pytest.raises(GraphFormatError, match="got 9,007,199,254,740,993 in row 1") as caught:
        graph_of(columns={"y": [0, (1 << 53) + 1, 0, 1]}, labels="y", label_kinds=kind)
    assert ("regression (--label-kind" in str(caught.value)) == (kind == "multiclass")
