"""Text tables: header lines, ids that are names, numbers without types, empty fields."""

from __future__ import annotations

import gzip
from functools import partial

import numpy as np
import pytest

from graphtheta import Graph
from graphtheta.datasets import read
from graphtheta.datasets.reading import reading
from graphtheta.datasets.tables import TableSource
from graphtheta.errors import ConfigError, GraphFormatError


def edges_of(tmp_path, text, name="f.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Graph.from_source(read(str(path), **options))


@pytest.mark.parametrize(
    "head",
    ["source,target", "Src,Dst", '"src","dst"', "\ufeffsrc,dst", "# note\nfrom,to", "head,tail"],
)
def test_header_of_text_ids_is_not_an_edge(tmp_path, head):
    graph = edges_of(tmp_path, f"{head}\nann,bob\nbob,cleo\n")
    assert graph.ids.tolist() == ["ann", "bob", "cleo"]
    assert graph.num_edges == 2


def test_header_in_a_file_with_tabs(tmp_path):
    graph = edges_of(tmp_path, "source\ttarget\tw\nann\tbob\tx\n", "f.tsv", edge_type="w")
    assert graph.num_edges == 1


def test_byte_order_mark_is_not_in_an_id(tmp_path):
    graph = edges_of(tmp_path, b"\xef\xbb\xbfann,bob\nbob,cleo\n")
    assert graph.ids.tolist() == ["ann", "bob", "cleo"]


def test_first_line_that_could_be_both_is_data_and_this_is_said(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("ann,bob\nbob,cleo\n")
    source = read(str(path))
    assert Graph.from_source(source).num_edges == 2
    assert "'ann,bob', is read as data" in dict(reading(source))["edge table"]


@pytest.mark.parametrize("head", ["src,dst", "1,2", "ann,bob"])
def test_named_columns_must_be_there(tmp_path, head):
    with pytest.raises(ConfigError, match="expected a column 'from', got columns"):
        edges_of(tmp_path, f"{head}\n3,4\n", src="from", dst="to")


def test_ids_are_names(tmp_path):
    assert edges_of(tmp_path, "src,dst\n007,7\n7,8\n").ids.tolist() == ["007", "7", "8"]
    assert edges_of(tmp_path, "src,dst\n7, 8\n").ids.tolist() == [7, 8]
    assert edges_of(tmp_path, "src,dst\n7,-0\n").ids.tolist() == ["-0", "7"]
    big = "99999999999999999999"
    assert edges_of(tmp_path, f"src,dst\n7,{big}\n").ids.tolist() == ["7", big]
    assert edges_of(tmp_path, "src,dst\n007,7\n", id_type="int64").ids.tolist() == [7]
    assert edges_of(tmp_path, "src,dst\n7,8\n", id_type="string").ids.tolist() == ["7", "8"]


def test_one_text_far_down_makes_all_ids_texts(tmp_path):
    nodes, edges = tmp_path / "nodes.csv", tmp_path / "edges.csv"
    ids = [*map(str, range(3000)), "A7"]
    nodes.write_text("id\n" + "\n".join(ids) + "\n")
    edges.write_text("src,dst\n" + "\n".join(f"{i},{i + 1}" for i in range(2999)) + "\n")
    graph = Graph.from_source(TableSource(str(nodes), str(edges)))
    assert graph.ids.tolist() == ids
    assert graph.src.tolist() == list(range(2999))


def test_one_text_in_another_file_of_a_folder_makes_all_ids_texts(tmp_path):
    (tmp_path / "part-1.csv").write_text("src,dst\n1,2\n")
    (tmp_path / "part-2.csv").write_text("src,dst\n3,A7\n")
    assert Graph.from_source(TableSource(None, str(tmp_path))).ids.tolist() == ["1", "2", "3", "A7"]


def test_table_with_a_header_only_has_no_rows(tmp_path):
    (tmp_path / "nodes.csv").write_text("id\na\nb\n")
    (tmp_path / "edges.csv").write_text("src,dst\n")
    assert Graph.from_source(read(str(tmp_path))).num_edges == 0


def test_empty_ids_are_refused(tmp_path):
    with pytest.raises(GraphFormatError, match="expected a value in every row, got nulls in row 1"):
        edges_of(tmp_path, "src,dst\nann,bob\n,cleo\n")


def test_numbers_and_labels_of_a_text_table(tmp_path):
    nodes, edges = tmp_path / "nodes.csv", tmp_path / "edges.csv"
    nodes.write_text("id,a,b,y\n1,0.5,1700000000.25,red\n2,1.5,2,\n3,2,3,blue\n")
    edges.write_text("src,dst,w\n1,2,0.1\n2,3,0.2\n")
    source = TableSource(str(nodes), str(edges), features="a,b", labels="y", edge_weight="w")
    graph = Graph.from_source(source)
    assert graph.features.tolist() == [[0.5, 1700000000.25], [1.5, 2], [2, 3]]
    assert graph.column("weight").dtype == np.float32
    assert graph.label().tolist() == [1, 0, 0]
    assert graph.labelled().tolist() == [True, False, True]
    rows = dict(reading(source))
    assert rows["ids"] == "integers"
    assert rows["node features"] == "2 of float64"
    assert (
        rows["node label:y"]
        == "multiclass (by its type, string), 2 classes: 'blue', 'red', missing in 1 of 3"
    )


def test_gaps_in_the_numbers_of_classes_are_shown(tmp_path):
    (tmp_path / "nodes.csv").write_text("id,label:y\n1,10\n2,20\n3,300\n")
    (tmp_path / "edges.csv").write_text("src,dst\n1,2\n2,3\n")
    rows = dict(reading(read(str(tmp_path))))
    assert rows["node label:y"] == "multiclass (by its type, int64), 301 classes, of which 3 occur"


def test_columns_that_are_not_read_are_listed(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("src,dst,when,amount\n1,2,3,4\n")
    assert dict(reading(read(str(path))))["edge table"].endswith("not read: when, amount")


def test_bad_number_is_refused_with_file_and_column(tmp_path):
    nodes, edges = tmp_path / "nodes.csv", tmp_path / "edges.csv"
    nodes.write_text("id,a,b\n1,0.5,inf\n2,1.5,2\n")
    edges.write_text("src,dst\n1,2\n")
    source = TableSource(str(nodes), str(edges), features="a,b")
    with pytest.raises(GraphFormatError, match=r"nodes\.csv: features .*column b: .* row 0"):
        list(source.node_tables[0].table.chunks(0, 2))


def folder_of(tmp_path, files):
    tmp_path.mkdir(exist_ok=True)
    for number, text in enumerate(files):
        (tmp_path / f"part-{number}.csv").write_text(text)
    return TableSource(None, str(tmp_path))


@pytest.mark.parametrize("empty", ["", "\n\n", "src,dst\n", "src,dst"])
def test_files_without_rows_are_left_out(tmp_path, empty, caplog):
    graph = Graph.from_source(folder_of(tmp_path, [empty, "src,dst\n1,2\n", empty]))
    assert graph.ids.tolist() == [1, 2]
    assert ("skipped empty files" in caplog.text) == (not empty.strip())


@pytest.mark.parametrize("header", ["src,dst,weight,type", "src,dst,weight,type\n"])
def test_a_header_is_an_empty_table(tmp_path, header):
    (tmp_path / "edges").mkdir()
    (tmp_path / "nodes.csv").write_text("id\n1\n2\n")
    (tmp_path / "edges" / "a.csv").write_text(header)
    graph = Graph.from_source(read(str(tmp_path)))
    assert (graph.ids.tolist(), graph.num_edges) == ([1, 2], 0)


@pytest.mark.parametrize("files", [[""], ["", "\n"]])
def test_only_empty_files_are_refused(tmp_path, files):
    with pytest.raises(GraphFormatError, match=r"expected a readable table, got Empty CSV"):
        folder_of(tmp_path, files)


@pytest.mark.parametrize(
    ("column", "values", "read_as"),
    [
        ("weight", ["3", "NA", " 0.5 "], None),
        ("weight", ["3", "4", "0.5"], [3, 4, 0.5]),
        ("type", ["", "", "2"], None),
        ("label:y", ["1", "2", "x"], [0, 1, 2]),
        ("split:s", ["", "", "train"], [0, 0, 1]),
        ("attr", ["", "7", "1e3"], [[503.5, 1], [7, 0], [1000, 0]]),
        ("label:b", ["true", "false", "maybe"], [2, 0, 1]),
    ],
)
def test_values_of_another_type_far_down_are_read(tmp_path, column, values, read_as):
    # A file is like a block of a large file: the first one gives the columns their types.
    source = partial(folder_of, tmp_path, [f"src,dst,{column}\n1,2,{value}\n" for value in values])
    if read_as is None:
        with pytest.raises(GraphFormatError, match="expected a value in every row, got nulls in"):
            Graph.from_source(source())
    else:
        assert Graph.from_source(source()).column(column).tolist() == read_as


def test_a_text_among_numbers_is_named(tmp_path):
    texts = [f"src,dst,weight\n1,2,{value}\n" for value in ("1", "n/k", "2")]
    with pytest.raises(GraphFormatError, match=r"weight: expected numbers .* string \('n/k'\)"):
        folder_of(tmp_path, texts)


def test_integers_beyond_int64_are_reported(tmp_path, caplog):
    nodes = "id,x\n0,9223372036854775808\n1,9223372036854775809\n"
    (tmp_path / "nodes.csv").write_text(nodes)
    (tmp_path / "edges.csv").write_text("src,dst\n0,1\n")
    read(str(tmp_path), features="x")
    assert "lose digits" in caplog.text


LATIN = "src,dst,naïve\n1,2,é\n".encode("latin-1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b"src,dst\n1,2\n"), r"UTF-8, got gzip data\. Rename it to f\.csv\.gz\."),
        ("src,dst\n1,2\n".encode("utf-16"), "UTF-8, got UTF-16"),
        ("src,dst\n1,2\n".encode("utf-16-be"), "got zero bytes, as in UTF-16"),
        (LATIN, "got a first line that is not UTF-8"),
        (LATIN.replace(b"\xef", b"i"), "got text that is not UTF-8 in the column 'naive'"),
    ],
    ids=["gzip", "utf_16", "utf_16_without_mark", "latin_header", "latin_column"],
)
def test_other_encodings_are_named(tmp_path, content, message):
    with pytest.raises(GraphFormatError, match=rf"f\.csv: expected .*{message}") as caught:
        edges_of(tmp_path, content, edge_labels="naive" if b"naive" in content else None)
    assert "\n" not in str(caught.value)


def test_columns_of_one_name_are_refused_if_they_are_read(tmp_path):
    text = "src,dst,x,x,weight\n1,2,0,1,1\n2,1,1,1,0.5\n"
    assert edges_of(tmp_path, text).column("weight").tolist() == [1, 0.5]
    with pytest.raises(GraphFormatError, match=r"f\.csv: expected one column 'x', got 2"):
        edges_of(tmp_path, text, edge_features="x")
    with pytest.raises(GraphFormatError, match="expected one column 'dst', got 2"):
        edges_of(tmp_path, text.replace("x,x", "x,dst"))


def test_true_and_false_are_numbers_as_features_and_weights(tmp_path):
    text = "src,dst,weight,x,y\n1,2,True,false,0.5\n2,1,False,true,2\n"
    graph = edges_of(tmp_path, text, edge_features="x,y")
    assert graph.column("weight").tolist() == [1, 0]
    assert graph.column("attr").tolist() == [[0, 0.5], [1, 2]]
    with pytest.raises(GraphFormatError, match=r"expected numbers .* string \('true'\)"):
        folder_of(tmp_path / "g", ["src,dst,weight\n1,2,true\n", "src,dst,weight\n1,2,3\n"])
