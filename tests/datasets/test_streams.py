"""Tables read in chunks: every format and range, each row group once, and invalid input."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from graphtheta import datasets
from graphtheta.data import batches as chunks
from graphtheta.data.graph import Graph
from graphtheta.datasets import binary_edges as pairs
from graphtheta.datasets import files, formats
from graphtheta.datasets.tables import TableSource
from graphtheta.errors import ConfigError, GraphFormatError
from tests.datasets.rows import edge_rows

E = 1000


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 64)
    monkeypatch.setattr(pairs, "CHUNK_ROWS", 64)


def table(kind=np.int64):
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "src": rng.integers(0, 100, E).astype(kind),
            "dst": rng.integers(0, 100, E).astype(kind),
            "attr": pa.FixedSizeListArray.from_arrays(rng.random(2 * E, np.float32), 2),
        }
    )


def parquet(edges, path, row_group_size=90, **options):
    path.mkdir()
    for part, start in enumerate(range(0, E, 350)):
        rows = edges.slice(start, 350)
        pq.write_table(rows, path / f"{part}.parquet", row_group_size=row_group_size, **options)
    return path


def ipc(edges, path, **options):
    path.mkdir()
    for part, start in enumerate(range(0, E, 350)):
        with pa.ipc.new_file(path / f"{part}.arrow", edges.schema, **options) as writer:
            writer.write_table(edges.slice(start, 350), max_chunksize=150)
    return path


def csv(edges, path):
    path.mkdir()
    for part, start in enumerate(range(0, E, 350)):
        pyarrow.csv.write_csv(edges.select(["src", "dst"]).slice(start, 350), path / f"{part}.csv")
    return path


def matrix(edges):
    return np.stack([edges["src"].to_numpy(), edges["dst"].to_numpy()], axis=1)


def saved(array, path):
    np.save(path, array)
    return path


def raw(array, path):
    array.tofile(path)
    return path


WRITERS = {
    "parquet": lambda t, p: parquet(t, p / "e"),
    "large_row_groups": lambda t, p: parquet(t, p / "e", row_group_size=500),
    "small_row_groups": lambda t, p: parquet(t, p / "e", row_group_size=7),
    "ipc": lambda t, p: ipc(t, p / "e"),
    "compressed_ipc": lambda t, p: ipc(
        t, p / "e", options=pa.ipc.IpcWriteOptions(compression="lz4")
    ),
    "csv": lambda t, p: csv(t, p / "e"),
    "npy_rows": lambda t, p: saved(matrix(t), p / "e.npy"),
    "npy_columns": lambda t, p: saved(np.ascontiguousarray(matrix(t).T), p / "e.npy"),
    "npy_fortran": lambda t, p: saved(np.asfortranarray(matrix(t)), p / "e.npy"),
    "npy_fortran_columns": lambda t, p: saved(matrix(t).T, p / "e.npy"),
    "npy_big_endian": lambda t, p: saved(matrix(t).astype(">i4"), p / "e.npy"),
    "bin": lambda t, p: raw(matrix(t).astype("<u4"), p / "e.bin"),
    "bin_i64": lambda t, p: raw(matrix(t).astype("<i8"), p / "e.i64.bin"),
    "bin_u64": lambda t, p: raw(matrix(t).astype("<u8"), p / "e.u64.bin"),
    "bin_i32": lambda t, p: raw(matrix(t).astype("<i4"), p / "e.i32.bin"),
}
RANGES = [(0, E), (0, 1), (349, 351), (340, 720), (85, 95), (999, E), (0, 0), (E, E), (500, 500)]


@pytest.mark.parametrize("name", WRITERS)
def test_chunks_are_the_rows(name, tmp_path):
    edges = table()
    source = TableSource(None, str(WRITERS[name](edges, tmp_path)))
    assert source.num_edges == E
    whole = edges.select(
        [c for c in edges.column_names if c in edge_rows(source, 0, 0).column_names]
    )
    for start, stop in RANGES:
        for ends_only in (False, True):
            got = list(
                source.edge_tables[0].table.chunks(
                    start, stop, ["src", "dst"] if ends_only else None
                )
            )
            expected = whole.select(["src", "dst"]) if ends_only else whole
            assert pa.concat_tables(got).equals(expected.slice(start, stop - start))
            assert all(0 < chunk.num_rows <= 64 for chunk in got) or (
                start == stop and len(got) == 1
            )
            assert all(column.num_chunks <= 1 for chunk in got for column in chunk.columns)
    assert len(list(source.edge_tables[0].table.chunks(0, E))) <= 50


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.uint32, np.uint64])
def test_ids_of_any_integer_type_become_int64(kind, tmp_path):
    edges = table(kind)
    source = TableSource(None, str(parquet(edges, tmp_path / "e")))
    chunk = next(source.edge_tables[0].table.chunks(0, E, ["src", "dst"]))
    assert chunk.schema.types == [pa.int64()] * 2
    assert chunk["src"].to_pylist() == edges["src"].to_pylist()[:64]


def test_graph_in_memory_gives_chunks():
    edges = table()
    graph = Graph(pa.table({"id": np.arange(100)}), edges)
    got = list(graph.edge_tables[0].table.chunks(10, 300))
    assert pa.concat_tables(got).equals(edges.slice(10, 290))
    assert [len(chunk) for chunk in got] == [58] * 5
    assert next(graph.edge_tables[0].table.chunks(0, 5, ["src", "dst"])).column_names == [
        "src",
        "dst",
    ]
    assert [len(chunk) for chunk in graph.node_tables[0].table.chunks(0, 100)] == [50, 50]
    assert [len(chunk) for chunk in graph.node_tables[0].table.chunks(3, 3)] == [0]


def test_row_groups_are_decoded_once_and_only_in_columns_asked_for(tmp_path, monkeypatch):
    source = TableSource(None, str(parquet(table(), tmp_path / "e")))
    read = []
    decode = pq.ParquetFile.iter_batches

    def recorded(self, batch_size, row_groups, columns):
        read.append((row_groups, columns))
        return decode(self, batch_size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)
    list(source.edge_tables[0].table.chunks(100, 800, ["src", "dst"]))
    assert read == [
        ([1, 2, 3], ["src", "dst"]),
        ([0, 1, 2, 3], ["src", "dst"]),
        ([0, 1], ["src", "dst"]),
    ]
    read.clear()
    list(source.edge_tables[0].table.chunks(0, 10))
    assert read == [([0], ["src", "dst", "attr"])]


def test_csv_is_scanned_once_a_pass(tmp_path, monkeypatch):
    source = TableSource(None, str(csv(table(), tmp_path / "e")))
    opened = []
    scan = formats.pyarrow.csv.open_csv
    monkeypatch.setattr(
        formats.pyarrow.csv, "open_csv", lambda *a, **k: (opened.append(1), scan(*a, **k))[1]
    )
    assert len(list(source.edge_tables[0].table.chunks(0, E))) > 3
    assert len(opened) == 3


def test_wide_rows_make_small_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4000)
    values = pa.FixedSizeListArray.from_arrays(np.zeros(E * 50, np.float32), 50)
    nodes = pa.table({"id": np.arange(E), "features": values})
    edges = pa.table({"src": [0], "dst": [1]})
    pq.write_table(nodes, tmp_path / "n.parquet")
    pq.write_table(edges, tmp_path / "e.parquet")
    for source in (
        TableSource(str(tmp_path / "n.parquet"), str(tmp_path / "e.parquet")),
        Graph(nodes, edges),
    ):
        got = list(source.node_tables[0].table.chunks(0, E))
        assert max(chunk.nbytes for chunk in got) <= 4000
        assert min(len(chunk) for chunk in got[:-1]) >= 9
        assert pa.concat_tables(got).equals(nodes)


def test_files_of_several_integer_types_are_one_table(tmp_path):
    for part, kind in enumerate((np.int64, np.int32)):
        ends = np.arange(3, dtype=kind)
        pq.write_table(pa.table({"src": ends, "dst": ends}), tmp_path / f"{part}.parquet")
    source = TableSource(None, str(tmp_path))
    assert edge_rows(source, 0, 6)["src"].to_pylist() == [0, 1, 2, 0, 1, 2]


def test_damaged_row_group_is_refused_in_the_pass_and_names_its_file(tmp_path):
    folder = parquet(table(), tmp_path / "e", compression="snappy", use_dictionary=False)
    source = TableSource(None, str(folder))
    path = folder / "1.parquet"
    group = pq.read_metadata(path).row_group(2).column(1)
    content = bytearray(path.read_bytes())
    start = group.data_page_offset
    content[start : start + group.total_compressed_size] = b"\xff" * group.total_compressed_size
    path.write_bytes(content)
    passing = source.edge_tables[0].table.chunks(0, E)
    for _ in range(5):
        next(passing)  # all of the first file
    with pytest.raises(GraphFormatError, match=r"1\.parquet: expected a readable table") as got:
        list(passing)
    assert "\n" not in str(got.value)
    (folder / "0.parquet").unlink()
    with pytest.raises(GraphFormatError, match=r"0\.parquet: expected a readable table"):
        next(source.edge_tables[0].table.chunks(0, E))


def test_file_that_shrank_since_it_was_opened_is_refused(tmp_path):
    path = raw(matrix(table()).astype("<u4"), tmp_path / "e.bin")
    source = TableSource(None, str(path))
    path.write_bytes(path.read_bytes()[:-80])
    with pytest.raises(GraphFormatError, match=r"e\.bin: expected a readable table, got an end"):
        list(source.edge_tables[0].table.chunks(0, E))
    path = tmp_path / "e.parquet"
    pq.write_table(table(), path)
    source = TableSource(None, str(path))
    pq.write_table(table().slice(1), path)
    with pytest.raises(GraphFormatError, match=r"expected a readable table, got only 999 of its"):
        list(source.edge_tables[0].table.chunks(0, E))


REFUSED = {
    "e.bin": (np.zeros(3, "<u4"), "expected pairs of 8 bytes, got 12 bytes, 4 too many"),
    "e.i64.bin": (np.zeros(3, "<i8"), "expected pairs of 16 bytes, got 24 bytes, 8 too many"),
    "e.f32.bin": (np.zeros(2, "<f4"), "expected a type among u32, i32, u64, i64 in its name"),
    "e.u64.bin": (np.full(2, -1), "expected ids that fit int64, got 18446744073709551615"),
    "three.npy": (
        np.zeros((4, 3), int),
        r"expected shape \(E, 2\) or \(2, E\), got shape \(4, 3\)",
    ),
    "flat.npy": (np.zeros(4, int), r"expected shape .*, got shape \(4,\)"),
    "floats.npy": (np.zeros((4, 2)), "expected integers, got float64"),
    "e.bin.gz": (np.zeros(2, "<u4"), "expected an uncompressed file of pairs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_pairs_are_refused_in_one_line(name, tmp_path):
    array, message = REFUSED[name]
    path = tmp_path / name
    saved(array, path) if name.endswith(".npy") else raw(array, path)
    with pytest.raises((GraphFormatError, ConfigError), match=message) as got:
        edge_rows(datasets.read(str(path)), 0, 1)
    assert "\n" not in str(got.value)
    assert name in str(got.value)


def test_pairs_cannot_be_nodes_and_take_the_names_asked_for(tmp_path):
    path = str(saved(np.array([[4, 5]]), tmp_path / "e.npy"))
    assert edge_rows(datasets.read(path, src="from", dst="to"), 0, 1).to_pydict() == {
        "src": [4],
        "dst": [5],
    }
    with pytest.raises(ConfigError, match="expected a table of nodes, got pairs of ids"):
        TableSource(path, path)
    short = tmp_path / "short.npy"
    short.write_bytes((tmp_path / "e.npy").read_bytes()[:-8])
    with pytest.raises(GraphFormatError, match=r"short\.npy: expected 144 bytes, got 136"):
        datasets.read(str(short))
    short.write_bytes(b"\x93NUMPY")
    with pytest.raises(GraphFormatError, match=r"short\.npy: expected a readable table"):
        datasets.read(str(short))


def test_every_suffix_is_of_a_format():
    assert {files.suffix(f"a{ending}") for ending in files.SUFFIXES} == set(files.SUFFIXES)
    assert files.suffix("a.csv.gz") == ".csv"
