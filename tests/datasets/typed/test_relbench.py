"""Relational databases in RelBench's form."""

from __future__ import annotations

import datetime
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graphtheta import datasets
from graphtheta.data.graph import Graph
from graphtheta.datasets.typed import relbench
from graphtheta.errors import ConfigError, GraphFormatError
from tests.datasets.test_published import DATA

FOREIGN = {"customer": "customers", "product": "products"}
DAY = datetime.datetime(1970, 1, 2)


def write(path: Path, key: Any, foreign: Any, time: Any = None, **columns: Any) -> None:
    metadata = {"pkey_col": key, "fkey_col_to_pkey_table": foreign, "time_col": time}
    table = pa.table(columns)
    pq.write_table(
        table.replace_schema_metadata({n: json.dumps(value) for n, value in metadata.items()}), path
    )


def database(folder: Path, foreign: dict[str, str] = FOREIGN, key: str = "id") -> str:
    """Write a shop, whose reviews have no primary key, and return the path."""
    write(folder / "customers.parquet", key, {}, id=[7, 8, 9], age=[20, 30, 40])
    write(folder / "products.parquet", "name", {}, name=["pen", "cup"], price=[1.5, 2.5])
    write(
        folder / "reviews.parquet",
        None,
        foreign,
        "written",
        customer=[9.0, float("nan"), 7.0, 5.0],  # as pandas writes integers with missing values
        product=["cup", "cup", None, "pen"],
        stars=[1, 2, 3, 2],
        written=[DAY, DAY, None, DAY],
    )
    return str(folder)


def test_a_foreign_key_is_a_relation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    source = datasets.read(database(tmp_path), features=["age", "products.price"], labels="stars")
    graph = Graph.from_source(source)
    assert graph.node_types == ("customers", "products", "reviews")
    assert [relation.text for relation in graph.relations] == [
        "reviews-f2p_customer-customers",
        "reviews-f2p_product-products",
    ]
    customer, product = (graph.edge_table(relation) for relation in graph.relations)
    assert customer.to_pydict() == {"src": [5, 7], "dst": [2, 0]}
    assert product.to_pydict() == {"src": [5, 6, 8], "dst": [4, 4, 3]}
    reviews = graph.node_table("reviews")
    assert reviews.column_names == ["id", "label:stars", "time"]
    assert reviews["time"].to_pylist() == [86400, 86400, None, 86400]
    assert graph.node_table("products")["id"].to_pylist() == ["pen", "cup"]
    (record,) = caplog.records
    assert "customer: dropped 1 value that" in record.getMessage()


def test_encoders_are_fitted_to_training_rows(tmp_path: Path) -> None:
    path, part = database(tmp_path), ["train", "test", "train", "val"]
    table = pq.read_table(tmp_path / "reviews.parquet").append_column("part", pa.array(part))
    pq.write_table(table, tmp_path / "reviews.parquet")
    source = datasets.read(path, features="stars:standard", splits={"split": "part"})
    stars = Graph.from_source(source).node_table("reviews")["features"].to_pylist()
    assert np.ravel(stars).tolist() == [-1, 0, 1, 0]  # of a mean of 1 and 3


def test_rows_are_read_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relbench, "_BLOCK", 8)
    draw = np.random.default_rng(0)
    children = draw.choice([0.0, 1.0, 2.0, 9.0, float("nan")], 50)
    write(tmp_path / "parents.parquet", "id", {}, id=["0", "2", "1"])
    write(tmp_path / "some.parquet", None, {"up": "parents"}, up=[f"{c:g}" for c in children])
    write(tmp_path / "none.parquet", None, {"up": "parents"}, up=pa.array([], pa.string()))
    source = datasets.read(str(tmp_path))
    of_none, of_children = source.edge_tables
    rows = np.flatnonzero(children < 3)
    parents = [f"{parent:g}" for parent in children[rows]]

    def read(*of_rows: Any) -> pa.Table:
        return pa.concat_tables(of_children.table.chunks(*of_rows))

    assert read(0, len(rows)).to_pydict() == {"src": rows.tolist(), "dst": parents}
    for start in range(0, len(rows), 7):
        for stop in (start, start + 1, len(rows)):
            assert read(start, stop, ["src"])["src"].to_pylist() == rows[start:stop].tolist()
    assert of_none.num_rows == 0
    assert Graph.from_source(source).num_edges == len(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"foreign": {"customer": "people"}}, "expected a table 'people' with a primary key"),
        ({"foreign": {"customer": "reviews"}}, "expected a table 'reviews' with a primary key"),
        ({"foreign": {"customers": "customers"}}, "expected columns among customer, product"),
        ({"foreign": {"product": "customers"}}, "product: expected int64 keys, got string"),
        ({"foreign": {}}, "expected a foreign key in a table, got none"),
        ({"foreign": ["customer"]}, "expected names of tables by column, got"),
        ({"key": "number"}, "expected columns among id, age, got 'number'"),
        ({"key": "age", "foreign": {"stars": "customers"}}, ""),
    ],
)
def test_wrong_keys_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = database(tmp_path, **change)
    if message:
        with pytest.raises(GraphFormatError, match=message):
            datasets.read(path)
    else:  # no key of a row exists: a relation without edges
        assert datasets.read(path).num_edges == 0


def test_wrong_columns_are_refused(tmp_path: Path) -> None:
    path = database(tmp_path)
    with pytest.raises(ConfigError, match="options among features, labels, splits, label_kinds"):
        datasets.read(path, id="id")
    with pytest.raises(ConfigError, match="expected a column of customers, products, reviews"):
        datasets.read(path, labels="size")


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "nycflights13").exists(), reason="needs the flights")
def test_flights() -> None:
    graph = datasets.read(
        str(DATA / "nycflights13"),
        labels="flights.arr_delay",
        label_kinds={"arr_delay": "regression"},
        add_reverse=True,
    )
    assert (graph.num_nodes, graph.num_edges) == (367_687, 2 * 1_648_231)
    assert {relation.name for relation in Graph.from_source(graph).relations} == {
        f"{way}f2p_{key}"
        for way in ("", "rev_")
        for key in ("carrier", "tailnum", "origin", "dest", "weather_id")
    }
