import gzip
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from graphtheta import datasets
from graphtheta.data.graph import Graph
from graphtheta.datasets.tables import TableSource
from graphtheta.errors import ConfigError, GraphFormatError
from tests.datasets.rows import edge_rows, node_rows

N, E = 50, 200


def tables():
    rng = np.random.default_rng(0)
    ids = rng.permutation(1000)[:N]
    nodes = pa.table(
        {
            "id": ids,
            "f_10": rng.random(N),
            "f_2": rng.random(N, np.float32),
            "x": list(rng.random((N, 3), np.float32)),
            "y": pa.array(rng.integers(0, 4, N), mask=rng.random(N) < 0.2),
            "fold": rng.choice(["train", "val", "test", "none"], N),
        }
    )
    edges = pa.table(
        {
            "src": rng.choice(ids, E),
            "dst": rng.choice(ids, E),
            "w": rng.random(E),
            "kind": rng.integers(0, 3, E),
        }
    )
    return nodes, edges


OPTIONS = {"features": "f_*", "labels": "y", "splits": {"split": "fold"}, "edge_type": "kind"}


def write_parquet(table, path):
    pq.write_table(table, f"{path}.parquet", row_group_size=7)
    return f"{path}.parquet"


def write_ipc(table, path):
    with pa.ipc.new_file(f"{path}.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=11)
    return f"{path}.arrow"


def write_csv(table, path):
    flat = table.drop_columns(["x"]) if "x" in table.column_names else table
    pyarrow.csv.write_csv(flat, f"{path}.csv")
    return f"{path}.csv"


def write_folder(table, path):
    path.mkdir()
    for part in range(12):  # so that part-10 must come after part-2
        start, stop = part * len(table) // 12, (part + 1) * len(table) // 12
        pq.write_table(table.slice(start, stop - start), path / f"part-{part}.parquet")
    (path / "_SUCCESS").touch()
    return str(path)


def row_groups_read(monkeypatch):
    """Return a list of (row groups, columns) that grows with each decoding of Parquet."""
    read = []
    decode = pq.ParquetFile.iter_batches

    def recorded(self, batch_size, row_groups, columns):
        read.append((list(row_groups), list(columns)))
        return decode(self, batch_size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)
    return read


@pytest.mark.parametrize("write", [write_parquet, write_ipc, write_csv, write_folder])
def test_every_format_gives_the_graph_whatever_the_blocks(write, tmp_path):
    nodes, edges = tables()
    expected = Graph.from_arrow(nodes.drop_columns(["x"]), edges.drop_columns(["w"]), **OPTIONS)
    source = TableSource(write(nodes, tmp_path / "n"), write(edges, tmp_path / "e"), **OPTIONS)
    assert (source.num_nodes, source.num_edges, source.keyed) == (N, E, False)
    for ranks in (1, 3, 64):
        bounds = [r * N // ranks for r in range(ranks + 1)]
        read_nodes = pa.concat_tables(map(partial(node_rows, source), bounds[:-1], bounds[1:]))
        bounds = [r * E // ranks for r in range(ranks + 1)]
        read_edges = pa.concat_tables(map(partial(edge_rows, source), bounds[:-1], bounds[1:]))
        graph = Graph.from_arrow(read_nodes, read_edges)
        assert graph.ids.tolist() == expected.ids.tolist()
        np.testing.assert_allclose(graph.features, expected.features, rtol=1e-6)
        assert graph.nodes["label:y"].equals(expected.nodes["label:y"])
        assert graph.split().tolist() == expected.split().tolist()
        assert graph.edges.equals(expected.edges)
    assert Graph.from_source(source).edges.equals(expected.edges)


def test_only_named_columns_are_read(tmp_path):
    nodes, edges = tables()
    source = TableSource(write_parquet(nodes, tmp_path / "n"), write_parquet(edges, tmp_path / "e"))
    assert node_rows(source, 0, 2).column_names == ["id"]
    assert edge_rows(source, 0, 2).column_names == ["src", "dst"]


@pytest.mark.parametrize("write", [write_parquet, write_csv])
def test_kept_columns_are_read_as_they_are(write, tmp_path):
    nodes, edges = tables()
    nodes = nodes.append_column("gap", pa.array([None, *np.arange(0.5, N - 1)]))
    paths = write(nodes, tmp_path / "n"), write(edges, tmp_path / "e")
    source = TableSource(*paths, features="f_2", keep=["fold,f_1?", "gap"], edge_keep="w")
    found = node_rows(source, 0, N)
    assert found.column_names == ["id", "features", "fold", "f_10", "gap"]
    assert found["fold"].to_pylist() == nodes["fold"].to_pylist()
    np.testing.assert_allclose(found["f_10"], nodes["f_10"], rtol=1e-6)
    assert np.isnan(found["gap"].to_numpy()).tolist() == [True] + [False] * (N - 1)
    np.testing.assert_allclose(edge_rows(source, 0, E)["w"], edges["w"], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"keep": "z"}, ConfigError, r"expected a column 'z'.*\(--keep, --edge-keep\)"),
        ({"keep": "id"}, ConfigError, "with names of their own, got 'id'"),
        ({"keep": "x"}, GraphFormatError, "x: expected numbers, .* to keep, got list"),
        ({"keep": "y"}, GraphFormatError, "y: expected a value in every row, got nulls in rows"),
        ({"edge_keep": "src"}, ConfigError, "with names of their own, got 'src'"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(options, error, message, tmp_path):
    nodes, edges = tables()
    paths = write_parquet(nodes, tmp_path / "n"), write_parquet(edges, tmp_path / "e")
    with pytest.raises(error, match=message):
        node_rows(TableSource(*paths, **options), 0, N)


def test_only_touched_row_groups_are_read(tmp_path, monkeypatch):
    nodes, edges = tables()
    source = TableSource(write_parquet(nodes, tmp_path / "n"), write_parquet(edges, tmp_path / "e"))
    read = row_groups_read(monkeypatch)
    edge_rows(source, 20, 30)
    assert read == [([2, 3, 4], ["src", "dst"])]


def test_uri_is_read(tmp_path):
    nodes, edges = tables()
    paths = write_parquet(nodes, tmp_path / "n"), write_parquet(edges, tmp_path / "e")
    source = TableSource(*(f"file://{path}" for path in paths), features="x")
    assert node_rows(source, 0, N)["features"].to_pylist() == nodes["x"].to_pylist()


def test_digest_is_of_content_and_columns(tmp_path):
    nodes, edges = tables()
    paths = write_parquet(nodes, tmp_path / "n"), write_parquet(edges, tmp_path / "e")
    digest = TableSource(*paths).digest()
    assert digest == TableSource(*paths).digest()
    assert digest != TableSource(*paths, features="x").digest()
    write_parquet(edges.slice(1), tmp_path / "e")
    assert digest != TableSource(*paths).digest()


EDGE_LISTS = {
    "comma": "1,2,0.5\n3,1,0.25\n",
    "tab": "1\t2\t0.5\n3\t1\t0.25\n",
    "space": "1 2 0.5\n3 1 0.25\n",
    "comments": "# made by hand\n# src dst weight\n1 2 0.5\n3 1 0.25\n",
    "header": "src,dst,column_2\n1,2,0.5\n3,1,0.25\n",
}


@pytest.mark.parametrize("name", EDGE_LISTS)
def test_edge_list(name, tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text(EDGE_LISTS[name])
    source = datasets.read(str(path), edge_weight="column_2")
    assert (source.num_nodes, source.num_edges) == (None, 2)
    assert edge_rows(source, 0, 2).to_pydict() == {
        "src": [1, 3],
        "dst": [2, 1],
        "weight": [0.5, 0.25],
    }
    assert edge_rows(source, 1, 2)["src"].to_pylist() == [3]
    assert edge_rows(source, 1, 1).num_rows == 0
    assert Graph.from_source(source).ids.tolist() == [1, 2, 3]
    assert source.node_tables == ()


def test_edge_list_of_strings_with_named_columns(tmp_path):
    path = tmp_path / "edges.csv.gz"
    path.write_bytes(gzip.compress(b"who,whom\nann,bob\nbob,eve\n"))
    source = datasets.read(str(path), src="who", dst="whom")
    assert edge_rows(source, 0, 2).to_pydict() == {"src": ["ann", "bob"], "dst": ["bob", "eve"]}
    path.write_bytes(gzip.compress(b"ann,bob\nbob,eve\n"))
    assert datasets.read(str(path)).num_edges == 2


def test_edge_list_whose_header_has_other_names_says_which(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text("buyer,seller\n1,2\n")
    with pytest.raises(ConfigError, match="expected columns src and dst, got columns buyer, sel"):
        datasets.read(str(path))


@pytest.mark.parametrize("form", ["files", "folders"])
def test_folder_of_nodes_and_edges(form, tmp_path):
    nodes, edges = tables()
    write = write_parquet if form == "files" else write_folder
    write(nodes, tmp_path / "nodes")
    write(edges, tmp_path / "edges")
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        source = datasets.read(uri, labels="y")
        assert (source.num_nodes, source.num_edges) == (N, E)
        assert "label:y" in node_rows(source, 0, 1).column_names


def test_lists_whose_length_changes_are_refused(tmp_path):
    nodes = pa.table({"id": [0, 1, 2], "x": [[1.0], [2.0], [3.0, 4.0]]})
    edges = pa.table({"src": [0], "dst": [1]})
    paths = write_parquet(nodes, tmp_path / "n"), write_parquet(edges, tmp_path / "e")
    source = TableSource(*paths, features="x")
    with pytest.raises(GraphFormatError, match=r"expected lists of length 1 .* length 2 in row 2"):
        node_rows(source, 0, 3)
    with pytest.raises(GraphFormatError, match=r"expected lists of length 1 .* length 2 in row 2"):
        node_rows(source, 2, 3)


def test_damaged_and_missing_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "edges.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(GraphFormatError, match=r"edges\.parquet: expected a readable table") as got:
        TableSource(None, str(path))
    assert "\n" not in str(got.value)
    with pytest.raises(ConfigError, match="expected a file or a folder of files, got none"):
        TableSource(None, str(tmp_path / "absent.parquet"))
    with pytest.raises(ConfigError, match="expected a path or URI of files"):
        TableSource(None, "nothing://here/edges.parquet")
    (tmp_path / "edges.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"expected files of one of \.parquet.*got \.json"):
        TableSource(None, str(tmp_path / "edges.json"))


def test_csv_whose_types_change_is_refused(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text("src,dst\n" + "1,2\n" * 3 + "1\n")
    with pytest.raises(GraphFormatError, match=r"edges\.csv: expected a readable table"):
        TableSource(None, str(path))


def test_parquet_files_with_other_columns_are_refused(tmp_path):
    pq.write_table(pa.table({"src": [0], "dst": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"src": [0], "to": [1]}), tmp_path / "b.parquet")
    with pytest.raises(GraphFormatError, match="expected a readable table"):
        edge_rows(TableSource(None, str(tmp_path)), 0, 2)


def test_missing_multi_labels_fit_whatever_block_they_are_in(tmp_path):
    labels = [None] * 20 + [[True, False]] + [None] * 9
    nodes = pa.table({"id": list(range(30)), "y": pa.array(labels, pa.list_(pa.bool_()))})
    edges = pa.table({"src": [0], "dst": [1]})
    paths = write_parquet(nodes, tmp_path / "n"), write_parquet(edges, tmp_path / "e")
    source = TableSource(*paths, labels="y")
    blocks = [node_rows(source, start, start + 10) for start in (0, 10, 20)]
    assert pa.concat_tables(blocks)["label:y"].to_pylist() == labels
    assert node_rows(source, 5, 5).schema == blocks[0].schema
