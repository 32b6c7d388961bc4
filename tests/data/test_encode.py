"""Columns as features: each encoder by its formula, fits in chunks, defaults and bad input."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphtheta as gt
from graphtheta.data.encode.fit import Fit
from graphtheta.data.encode.recipe import EncodedColumn, encoding_of, feature_names, with_encoding
from graphtheta.data.encode.registry import encoder_of
from graphtheta.data.encode.statistics import Moments
from graphtheta.data.encode.text_hash import hash_texts
from graphtheta.errors import ConfigError, GraphFormatError, StoreError
from graphtheta.partition import Plan, make_store

DAY = datetime.timedelta(days=1)
START = datetime.datetime(2026, 1, 1, 6)


def graph_of(columns, features, split=None, **options):
    num_rows = len(next(iter(columns.values())))
    nodes = {"id": list(range(num_rows)), **columns}
    if split is not None:
        nodes["split:split"] = split
    edges = pa.table({"src": [0, 1], "dst": [1, 0]})
    return gt.Graph.from_arrow(pa.table(nodes), edges, features=features, **options)


def encodings(graph):
    return encoding_of(graph.nodes.schema.field("features"))


def names(graph):
    return feature_names(encodings(graph))


TRAIN = ["train", "train", "train", "test"]

# The column, its encoding, names of the features without the column's, and their values.
CASES = {
    "number": (
        [1.5, None, 2.5, 9.0],
        "number",
        ["", "=missing"],
        [[1.5, 0], [2, 1], [2.5, 0], [9, 0]],
    ),
    "float": ([1.5, 3.0, 2.5, None], None, [""], [[1.5], [3], [2.5], [7 / 3]]),
    "flag": ([True, False, True, None], None, [""], [[1], [0], [1], [2 / 3]]),
    "binary_integers": ([1, 0, 1, 5], None, [""], [[1], [0], [1], [5]]),
    "integers": (
        [1, 2, 3, 5],
        None,
        [""],
        [[-math.sqrt(1.5)], [0], [math.sqrt(1.5)], [3 * math.sqrt(1.5)]],
    ),
    "constant": ([4, 4, 4, 5], "standard", [""], [[0], [0], [0], [1]]),
    "minmax": (
        [1.0, None, 5.0, 9.0],
        "minmax",
        ["", "=missing"],
        [[0, 0], [0.5, 1], [1, 0], [2, 0]],
    ),
    "log": (
        [0.0, math.e**2 - 1, 0.0, 1 - math.e**2],
        "log",
        [""],
        [[-math.sqrt(0.5)], [math.sqrt(2)], [-math.sqrt(0.5)], [0]],
    ),
    "quantile": ([0, 10, 1, 7], "quantile(2)", [""], [[0], [1], [0.5], [0.5 + 0.5 * 6 / 9]]),
    "quantile_ties": ([1.5, 1.5, 3.5, None], "quantile(2)", [""], [[0.25], [0.25], [1], [0.5]]),
    "quantile_outside": (
        [1, None, 3, 100],
        "quantile",
        ["", "=missing"],
        [[0, 0], [0.5, 1], [1, 0], [1, 0]],
    ),
    "count": (
        ["b", "a", "b", "c"],
        "count",
        ["=count"],
        [
            [math.sqrt(0.5)],
            [-math.sqrt(2)],
            [math.sqrt(0.5)],
            [-math.log(18) / 3 / (math.log(1.5) * math.sqrt(2) / 3)],
        ],
    ),
    "count_missing": (
        ["b", None, "a", None],
        "count(1)",
        ["=count", "=missing"],
        [[-1, 0], [0, 1], [1, 0], [0, 1]],
    ),
    "onehot": (
        ["b", None, "a", "c"],
        None,
        ["=a", "=b", "=missing"],
        [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]],
    ),
    "onehot_limit": (
        ["b", "b", "a", "c"],
        "onehot(1)",
        ["=b", "=other"],
        [[1, 0], [1, 0], [0, 1], [0, 1]],
    ),
    "onehot_integers": ([7, 7, 3, 9], "onehot", ["=3", "=7"], [[0, 1], [0, 1], [1, 0], [0, 0]]),
    "lists": (
        [["x", "y"], [], ["y", "y"], ["z"]],
        None,
        ["=x", "=y"],
        [[1, 1], [0, 0], [0, 1], [0, 0]],
    ),
    "missing_lists": (
        [["x"], None, [], ["x"]],
        "onehot",
        ["=x", "=missing"],
        [[1, 0], [0, 1], [0, 0], [1, 0]],
    ),
    "indices": ([[1], [], [0, 1], []], "indices", ["[0]", "[1]"], [[0, 1], [0, 0], [1, 1], [0, 0]]),
    "dates": (
        [datetime.date(2026, 1, d) for d in (1, 2, 3, 5)],
        "age",
        [""],
        [[math.sqrt(1.5)], [0], [-math.sqrt(1.5)], [-3 * math.sqrt(1.5)]],
    ),
    "hours": (
        [START, START + DAY / 2, None, START - DAY / 4],
        "cyclic(hour)",
        [":sin(hour)", ":cos(hour)"],
        [[1, 0], [-1, 0], [0, 0], [0, 1]],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_encodings_follow_their_formulas(case):
    column, encoding, expected_names, expected = CASES[case]
    graph = graph_of({"x": column}, {"x": encoding}, TRAIN)
    if case == "log":  # of mean 2/3 and deviation sqrt(8/9)
        expected[3] = [(-2 - 2 / 3) / math.sqrt(8 / 9)]
    assert names(graph) == tuple(f"x{name}" for name in expected_names)
    np.testing.assert_allclose(graph.features, expected, rtol=1e-6, atol=1e-6)


def test_times_are_ages_and_cyclic_by_default():
    graph = graph_of({"t": [START, START + DAY, START + 2 * DAY, None]}, "t", TRAIN)
    assert names(graph) == (
        "t",
        *(f"t:{wave}({part})" for part in ("hour", "weekday", "year") for wave in ("sin", "cos")),
    )
    np.testing.assert_allclose(
        graph.features[:, 0], [math.sqrt(1.5), 0, -math.sqrt(1.5), 0], atol=1e-6
    )
    assert encodings(graph)[0].encoder.summary() == (
        "days before 2026-01-03 06:00:00.000000, mean 1, standard deviation 0.816497"
    )
    assert graph.features[3].tolist() == [0] * 7


@pytest.mark.parametrize(
    ("kind", "step"), [(pa.int64(), 1), (pa.uint64(), 1), (pa.timestamp("ns"), 1)], ids=str
)
def test_large_integers_and_nanoseconds_keep_their_digits(kind, step):
    large = (1 << 62) + 12345
    column = pa.array([large, large + step, large + 2 * step, large - step], pa.int64()).cast(kind)
    graph = graph_of({"x": column}, "x:age" if pa.types.is_timestamp(kind) else "x", TRAIN)
    expected = (
        np.array([-1, 0, 1, -2]) * math.sqrt(1.5) * (-1 if pa.types.is_timestamp(kind) else 1)
    )
    np.testing.assert_allclose(graph.features[:, 0], expected, rtol=1e-6)


def test_integers_of_the_whole_range_are_scaled():
    low, high = -(1 << 63), (1 << 63) - 1
    graph = graph_of({"x": [low, high]}, "x:minmax")
    assert graph.features.tolist() == [[0], [1]]


def test_local_time_counts_and_later_tables_may_have_another_zone():
    times = pa.array([START, START + DAY], pa.timestamp("us", "UTC")).cast(
        pa.timestamp("us", "Asia/Tokyo")
    )
    encoder = gt.encode.Cyclic("hour").fit(None, times.type, "t")
    encoded = encoder.encode(times, pa.float32(), "t", 0)
    np.testing.assert_allclose(
        encoded[0], [math.sin(math.tau * 15 / 24), math.cos(math.tau * 15 / 24)]
    )
    again = encoder.encode(times.cast(pa.timestamp("ns", "Europe/Berlin")), pa.float32(), "t", 0)
    np.testing.assert_array_equal(again, encoded)
    with pytest.raises(
        GraphFormatError,
        match=r"t: expected times of the time zone Asia/Tokyo, .*got times without",
    ):
        encoder.encode(pa.array([START], pa.timestamp("us")), pa.float32(), "t", 0)


def test_hashes_are_those_of_each_text_and_stay():
    texts = pa.array(["", "a", "foobar", "äöü"])
    assert hash_texts(texts).tolist() == hash_texts(texts.slice(0)).tolist()
    assert hash_texts(texts.slice(2)).tolist() == hash_texts(texts)[2:].tolist()
    assert hash_texts(pa.array(["foobar"])).tolist() == [HASH_OF_FOOBAR]
    graph = graph_of({"x": [f"c{i}" for i in range(100)]}, "x")  # too many for one-hot
    assert names(graph)[:2] == ("x#0", "x#1")
    assert graph.features.sum(axis=1).tolist() == [1] * 100
    bucket = hash_texts(pa.array(["c7"]))[0] % 64
    assert graph.features[7, bucket] == 1


# FNV-1a of "foobar" is published as 0x85944171F73967E8.
MASK = (1 << 64) - 1
HASH_OF_FOOBAR = 0x85944171F73967E8
HASH_OF_FOOBAR = (HASH_OF_FOOBAR ^ HASH_OF_FOOBAR >> 30) * 0xBF58476D1CE4E5B9 & MASK
HASH_OF_FOOBAR = (HASH_OF_FOOBAR ^ HASH_OF_FOOBAR >> 27) * 0x94D049BB133111EB & MASK
HASH_OF_FOOBAR ^= HASH_OF_FOOBAR >> 31


def test_rare_and_unseen_categories_share_the_code_0():
    columns = {"x": ["b", "a", "b", "d"], "f": [0.5] * 4}
    graph = graph_of(columns, {"x": gt.encode.Embedding(8, limit=1), "f": None}, TRAIN)
    assert graph.nodes["code:x"].to_pylist() == [1, 0, 1, 0]
    (encoded,) = encoding_of(graph.nodes.schema.field("code:x"))
    assert (encoded.encoder.num_codes, encoded.encoder.channels) == (2, 8)
    assert graph.num_features == 1


KINDS = {
    "standard": (st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(math.nan)), pa.float64()),
    "minmax": (st.one_of(st.none(), st.integers(-(1 << 63), (1 << 63) - 1)), pa.int64()),
    "log": (st.one_of(st.none(), st.integers(-1000, 1000)), pa.int32()),
    "age": (st.one_of(st.none(), st.integers(-(1 << 60), 1 << 60)), pa.timestamp("ns")),
    "onehot(2)": (st.one_of(st.none(), st.sampled_from("abcd")), pa.string()),
    "count(2)": (st.one_of(st.none(), st.sampled_from("abcd")), pa.string()),
    "quantile(3)": (st.one_of(st.none(), st.integers(-(1 << 60), 1 << 60)), pa.int64()),
    "embedding(4, 2)": (st.one_of(st.none(), st.sampled_from("abcd")), pa.string()),
    "number": (st.one_of(st.none(), st.floats(-1e6, 1e6)), pa.float64()),
}


@settings(max_examples=15, deadline=None)
@given(st.data())
@pytest.mark.parametrize("encoding", KINDS)
def test_a_fit_in_chunks_is_that_of_the_whole(encoding, data):
    values, kind = KINDS[encoding]
    column = data.draw(st.lists(values, min_size=1, max_size=60))
    bounds = sorted(data.draw(st.lists(st.integers(0, len(column)), max_size=5)))
    column = pa.array(column, kind)
    is_train = pa.array(
        data.draw(st.lists(st.booleans(), min_size=len(column), max_size=len(column)))
    )

    def fitted(bounds):
        fit = Fit("x", encoder_of(encoding, "x"), kind, "x", text=False)
        for start, stop in zip([0, *bounds], [*bounds, len(column)], strict=True):
            fit.update(column.slice(start, stop - start), is_train.slice(start, stop - start))
        try:
            return fit.fitted()
        except GraphFormatError as error:
            return str(error)

    assert fitted(bounds) == fitted([])


def test_moments_of_many_blocks_are_those_of_numpy():
    values = np.random.default_rng(0).normal(1e9, 3, 300_000)
    fit = Fit("x", gt.encode.Standard(), pa.float64(), "x", text=False)
    for chunk in np.array_split(values, 7):
        fit.update(pa.array(chunk), None)
    (found,) = fit.fitted()
    assert found.encoder.centre == pytest.approx(values.mean(), rel=1e-15)
    assert found.encoder.scale == pytest.approx(values.std(), rel=1e-12)
    assert (found.rows, found.missing, found.low, found.high) == (
        300_000,
        0,
        values.min(),
        values.max(),
    )


def test_quantiles_of_many_rows_are_those_of_a_sample(monkeypatch):
    monkeypatch.setattr("graphtheta.data.encode.quantile._SAMPLE", 4096)
    values = np.random.default_rng(0).lognormal(0, 2, 100_000)
    found = []
    for number in (1, 13):
        fit = Fit("x", gt.encode.Quantile(), pa.float64(), "x", text=False)
        for chunk in np.array_split(values, number):
            fit.update(pa.array(chunk), None)
        found.append(fit.fitted()[0])
    assert found[0] == found[1]
    encoded = found[0].encoder.encode(pa.array(values), pa.float64(), "x", 0)[:, 0]
    shares = np.argsort(np.argsort(values)) / len(values)
    assert np.abs(encoded - shares).max() < 0.04
    assert (found[0].low, found[0].high) == (values.min(), values.max())


@pytest.mark.parametrize("name", gt.encode.ENCODERS)
def test_recipes_are_read_as_they_were_written(name):
    encoder = encoder_of(name, "x")
    field = with_encoding(pa.field("y", pa.float32()), [EncodedColumn(column="x", encoder=encoder)])
    assert encoding_of(field)[0].encoder == encoder


BAD = {
    "no encoding": ("x:foo", r"features x: expected an encoding among number, .*, got 'foo'"),
    "no column": ("z:onehot", "expected a column 'z'"),
    "brackets": ("x:hash(a)", r"expected whole numbers in the brackets of hash, got 'hash\(a\)'"),
    "range": ("x:hash(0)", "expected a number greater than or equal to 1 in the brackets of hash"),
    "part": ("t:cyclic(minute)", "expected parts among hour, weekday, month, year in the brackets"),
    "number": ("x:hash(1,2)", "expected at most 1 number in the brackets"),
    "no arguments": ("t:age(1)", "expected no arguments in the brackets of age"),
    "type": ("x:standard", "column x: expected numbers, .* for standard, got string"),
    "floats": ("f:onehot", "column f: expected texts, .* for onehot, got double"),
    "empty": ("n", "column n: expected a value in some row, got none"),
    "no training value": (
        "m:onehot",
        "column m: expected a value in some training rows, got only mis",
    ),
    "infinite": ("i:standard", "column i: expected finite numbers, got inf in row 1"),
    "twice": ("x:hash,x:hash(2)", "expected each column once for features, .*got 'x' 2 times"),
    "struct": ("s", "column s: expected numbers, texts, times or lists of these, got struct"),
}
COLUMNS = {
    "x": ["a", "b"],
    "t": [START, START],
    "f": [0.5, 1.5],
    "n": pa.nulls(2),
    "m": pa.array([None, "a"]),
    "i": [0.5, math.inf],
    "s": [{"a": 1}, {"a": 2}],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_encodings_are_refused_in_one_line(case):
    features, message = BAD[case]
    with pytest.raises((ConfigError, GraphFormatError), match=message) as caught:
        graph_of(
            COLUMNS, f"f,{features}" if features[0] != "f" else features + ",x", ["train", "val"]
        )
    assert "\n" not in str(caught.value)


def test_embeddings_of_edges_are_refused():
    edges = pa.table({"src": [0], "dst": [1], "kind": ["a"]})
    with pytest.raises(ConfigError, match=r"expected no embedding for attr.*Use hash"):
        gt.Graph.from_arrow(None, edges, edge_features="kind:embedding(4)")
    graph = gt.Graph.from_arrow(None, edges, edge_features="kind")
    assert graph.column("attr").tolist() == [[1]]


def test_tables_without_rows_are_encoded():
    kinds = {"a": pa.int64(), "b": pa.float64(), "c": pa.string(), "t": pa.timestamp("us")}
    edges = pa.table({"src": [0], "dst": [1], **{n: pa.array([None], k) for n, k in kinds.items()}})
    nodes = pa.table({"id": [0, 1]})
    for features in ("a,b,c,t", "a:minmax,b:log,c:hash", "c:onehot(3)"):
        graph = gt.Graph.from_arrow(nodes, edges.slice(1), edge_features=features)
        assert graph.column("attr").shape[0] == 0


LETTERS = pa.array(["b", None, "a", "c"])
IN_LISTS = pa.array(["b", "a", "c"]).dictionary_encode()
TEXTS = {
    "dictionary": LETTERS.dictionary_encode(),
    "large": LETTERS.cast(pa.large_string()),
    "view": LETTERS.cast(pa.string_view()),
    "lists": pa.ListArray.from_arrays([0, 1, 1, 2, 3], IN_LISTS),
}
NUMBERS = {
    "float16": pa.array(np.array([1, 2, 3, 5], np.float16)),
    "uint8": pa.array([1, 2, 3, 5], pa.uint8()),
    "decimal": pa.array([1, 2, 3, 5], pa.decimal128(9, 2)),
    "duration": pa.array([1, 2, 3, 5], pa.duration("s")),
    "time of day": pa.array([1, 2, 3, 5], pa.time32("s")),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_every_type_are_categories(kind):
    graph = graph_of({"x": TEXTS[kind]}, "x", TRAIN)
    assert names(graph)[:2] == ("x=a", "x=b")
    assert graph.features[:, :2].tolist() == [[0, 1], [0, 0], [1, 0], [0, 0]]


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_every_type_are_scaled(kind):
    graph = graph_of({"x": NUMBERS[kind]}, "x:standard", TRAIN)
    expected = np.array([-1, 0, 1, 3]) * math.sqrt(1.5)
    np.testing.assert_allclose(graph.features[:, 0], expected, rtol=1e-6)


def test_streamed_tables_are_encoded_as_tables_in_memory(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    nodes = {
        "id": np.arange(200),
        "a": rng.integers(-(1 << 60), 1 << 60, 200),
        "b": pa.array(rng.normal(size=200), mask=rng.random(200) < 0.1),
        "c": pa.array(rng.choice(["x", "y", "z"], 200), mask=rng.random(200) < 0.1),
        "t": pa.array(rng.integers(0, 1 << 60, 200), pa.timestamp("ns", "UTC")),
        "d": rng.integers(0, 40, 200),
        "split:split": rng.choice(["train", "test"], 200),
    }
    edges = {"src": np.arange(100), "dst": np.arange(100, 200), "w": rng.lognormal(size=100)}
    options = {"features": "a,b,c,t,d:onehot(20),d:embedding(3)", "edge_features": "w:log"}
    expected = gt.Graph.from_arrow(nodes, edges, **options)
    for name, table in (("nodes", nodes), ("edges", edges)):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet", row_group_size=7)
    monkeypatch.setattr("graphtheta.data.batches.CHUNK_ROWS", 11)
    source = gt.datasets.read(str(tmp_path), **options)
    assert gt.Graph.from_source(source).digest() == expected.digest()
    stores = [make_store(g, tmp_path / str(i), Plan(3)) for i, g in enumerate((source, expected))]
    assert stores[0].checksum == stores[1].checksum


class Square(gt.encode.Encoder):
    """The square of a number, divided by the largest one of the training rows."""

    name = "square"
    takes = "numbers"
    largest: float | None = None

    def accepts(self, kind):
        return pa.types.is_floating(kind)

    def statistics(self):
        return Moments()

    def fit(self, found, kind, where):
        return self.model_copy(update={"largest": max(found.high, -found.low) ** 2})

    def features(self, column):
        return (f"{column}^2",)

    def encode(self, array, value, where, first_row):
        return array.to_numpy()[:, None] ** 2 / self.largest

    def summary(self):
        return f"squares up to {self.largest:g}"


def test_an_encoder_of_your_own_is_fitted_stored_and_applied_again(tmp_path, monkeypatch):
    monkeypatch.setitem(gt.encode.ENCODERS, "square", Square)
    graph = graph_of({"x": [1.0, -2.0, 1.0, 4.0]}, {"x": Square()}, TRAIN)
    assert graph.features.tolist() == [[0.25], [1], [0.25], [4]]
    assert graph_of({"x": [1.0, -2.0, 1.0, 4.0]}, "x:square", TRAIN).digest() == graph.digest()
    make_store(graph, tmp_path / "store", Plan(1))
    recipe = gt.partition.read_recipe(tmp_path / "store")
    assert graph_of({"x": [8.0, 0.0]}, None, like=recipe).features.tolist() == [[16], [0]]
    assert gt.open_shard(str(tmp_path / "store")).feature_names == ("x^2",)
    monkeypatch.delitem(gt.encode.ENCODERS, "square")
    with pytest.raises(StoreError, match=r"an encoder among number, .*, got 'square'"):
        gt.partition.read_recipe(tmp_path / "store")


def test_another_time_than_the_only_one_is_days_away():
    graph = graph_of({"t": [START, START, START, START + 3 * DAY]}, "t:age", TRAIN)
    assert graph.features[:, 0].tolist() == [0, 0, 0, -3]


def test_a_label_among_the_features_is_warned_about(caplog):
    graph_of({"x": [0.5, 1.5], "y": [0, 1]}, "x,y", labels="y")
    assert "nodes: 'y' is a label and a feature" in caplog.text
