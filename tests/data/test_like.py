"""Later tables that are encoded by the recipe of earlier ones."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import xxhash

import graphtheta as gt
from graphtheta import datasets
from graphtheta.data.encode.recipe import Recipe
from graphtheta.datasets.tables import TableSource
from graphtheta.errors import ConfigError, GraphFormatError
from graphtheta.partition import Plan, make_store, read_recipe
from graphtheta.partition.store.recipe_file import RECIPE_FILE, recipe_text

START = datetime.datetime(2026, 1, 1, 6)
FEATURES = "age,zip,time,flag,amount:log,tags,city:embedding(4),vector,words,pairs"
PAIRS = pa.list_(pa.struct([("index", pa.int32()), ("value", pa.float32())]))
JANUARY: dict[str, Any] = {
    "id": [1, 2, 3, 4],
    "age": [20, 30, 40, 90],
    "zip": ["007", "008", "007", "x"],
    "time": [START, START + datetime.timedelta(days=1), None, START],
    "flag": [True, False, None, True],
    "amount": [1.0, 10.0, 100.0, None],
    "tags": [["a"], ["a", "b"], [], ["c"]],
    "city": ["u", "v", "u", "w"],
    "vector": [[0.5, 1.0]] * 4,
    "words": [[1], [0, 2], [], [2]],
    "pairs": pa.array([[{"index": 5, "value": 2.0}], [], [], []], PAIRS),
    "label:y": ["good", "bad", "good", None],
    "split:split": ["train", "train", "train", "test"],
}
FEBRUARY: dict[str, Any] = {**JANUARY, "age": [30, 25, 1000, 7], "city": ["w", "v", "u", None]}
EDGES = {"src": [1, 2, 3], "dst": [2, 3, 4], "kind": ["a", "b", "a"], "w": [0.5, None, 2.0]}
OF_EDGES = {"edge_features": "kind:onehot,w:minmax", "edge_type": "kind"}


def recipe_of(tmp_path: Path, nodes: Any = JANUARY) -> Recipe:
    graph = gt.Graph.from_arrow(nodes, EDGES, features=FEATURES, **OF_EDGES)
    return make_store(graph, tmp_path / "january", Plan(1)).manifest.recipe


def test_later_tables_are_encoded_alike(tmp_path):
    january = gt.Graph.from_arrow(JANUARY, EDGES, features=FEATURES, **OF_EDGES)
    recipe = recipe_of(tmp_path)
    assert read_recipe(tmp_path / "january") == recipe
    again = gt.Graph.from_arrow(JANUARY, EDGES, like=recipe, edge_type="kind")
    assert again.features.tolist() == january.features.tolist()
    assert again.column("attr").tolist() == january.column("attr").tolist()
    later = gt.Graph.from_arrow(
        {**FEBRUARY, "split:split": ["test"] * 4}, EDGES, like=recipe, edge_type="kind"
    )
    assert later.features[0, 0] == january.features[1, 0]  # 30 years
    assert later.features[:, 1:].tolist() == january.features[:, 1:].tolist()
    assert later.nodes["code:city"].to_pylist() == [0, 2, 1, 0]
    assert make_store(later, tmp_path / "february", Plan(2)).manifest.recipe == recipe


def test_classes_and_edge_types_keep_their_numbers(tmp_path):
    recipe = recipe_of(tmp_path)
    nodes = {**FEBRUARY, "label:y": ["good"] * 4}
    edges = {**EDGES, "kind": ["b", "b", "b"]}
    graph = gt.Graph.from_arrow(nodes, edges, like=recipe, edge_type="kind")
    assert graph.label().tolist() == [1] * 4
    assert graph.column("type").tolist() == [1] * 3
    assert make_store(graph, tmp_path / "one", Plan(1)).manifest.labels["y"].num_classes == 2
    with pytest.raises(GraphFormatError, match=r"the classes of the recipe .*, 'bad', 'good', got"):
        gt.Graph.from_arrow({**nodes, "label:y": ["odd"] * 4}, edges, like=recipe)


def test_text_files_are_read_as_the_types_of_the_recipe(tmp_path):
    columns = ("id", "age", "zip", "amount", "split:split")
    given = {"features": "age,zip,amount"}

    def source(name: str, nodes: dict[str, Any], **options: Any) -> TableSource:
        pyarrow.csv.write_csv(pa.table({n: nodes[n] for n in columns}), tmp_path / f"{name}.csv")
        return TableSource(str(tmp_path / f"{name}.csv"), str(tmp_path / "edges.csv"), **options)

    pyarrow.csv.write_csv(pa.table({"src": [1], "dst": [2]}), tmp_path / "edges.csv")
    january = source("january", JANUARY, **given)
    first = gt.Graph.from_source(january)
    recipe = make_store(january, tmp_path / "store", Plan(1)).manifest.recipe
    # All codes are numbers now, and all amounts are missing.
    later = {**JANUARY, "zip": [8, 8, 8, 8], "amount": pa.nulls(4)}
    second = gt.Graph.from_source(source("february", later, like=recipe))
    assert second.features[:, 1:3].tolist() == [[0, 0]] * 4
    exact = {**JANUARY, "zip": ["007", "007", "008", "007"]}
    third = gt.Graph.from_source(source("march", exact, like=recipe))
    assert third.features[:, 1:3].tolist() == [[1, 0], [1, 0], [0, 1], [1, 0]]
    assert third.features[:, 0].tolist() == first.features[:, 0].tolist()


BAD = {
    "missing": ({"age": None}, r"nodes: expected a column 'age', which the recipe .* encodes, got"),
    "type": (
        {"age": ["a", "b", "c", "d"]},
        "column age: expected numbers, .* for standard, got string",
    ),
    "integers": (
        {"zip": [7, 8, 7, 8]},
        "column zip: expected texts, as when it was fitted, for onehot, got",
    ),
    "length": ({"vector": [[0.5]] * 4}, "column vector: expected lists of length 2 .*got length 1"),
    "range": (
        {"pairs": pa.array([[{"index": 6, "value": 2.0}]] * 4, PAIRS)},
        "column pairs: expected indices from 0 to 5, got 6",
    ),
    "number": ({"vector": [1.0] * 4}, "column vector: expected lists of 2 numbers for number, got"),
    "zone": (
        {"time": pa.array([START] * 4, pa.timestamp("us", "UTC"))},
        "column time: expected times without a time zone, .* got times of the time zone UTC",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_tables_that_do_not_fit_are_refused_in_one_line(case, tmp_path):
    changed, message = BAD[case]
    nodes = {n: column for n, column in {**JANUARY, **changed}.items() if column is not None}
    with pytest.raises((ConfigError, GraphFormatError), match=message) as caught:
        gt.Graph.from_arrow(nodes, EDGES, like=recipe_of(tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"features .*: expected none with like"):
        gt.Graph.from_arrow(JANUARY, EDGES, like=recipe_of(tmp_path / "b"), features="age")


def test_recipes_of_runs_are_files_with_a_checksum(tmp_path):
    recipe = recipe_of(tmp_path)
    (tmp_path / RECIPE_FILE).write_text(text := recipe_text(recipe))
    assert read_recipe(tmp_path) == recipe
    for broken in (text.replace('"mean"', '"men"'), text.replace("007", "009"), text[:-9], "{}"):
        (tmp_path / RECIPE_FILE).write_text(broken)
        with pytest.raises(ConfigError, match=r"recipe\.json: expected the recipe that the run"):
            read_recipe(tmp_path)
    with pytest.raises(ConfigError, match=r"expected a store, or a run .*, got no directory"):
        read_recipe(tmp_path / "none")


def test_recipes_of_runs_of_other_versions_are_read_or_named(tmp_path):
    """Earlier versions hashed the same text of the recipe, with the fields that it had then."""
    (tmp_path / "run").mkdir()
    file, recipe = tmp_path / "run" / RECIPE_FILE, recipe_of(tmp_path)

    def write(content: dict[str, Any]) -> None:
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        checksum = xxhash.xxh3_128_hexdigest(text.encode())
        file.write_text(json.dumps({"recipe": content, "checksum": checksum}))

    earlier = recipe.model_dump(mode="json")
    for table in (*earlier["node_types"].values(), *earlier["relations"].values()):
        del table["inputs"]
        for column in table["encodings"]:
            del column["entries"]
    write(earlier)
    assert not read_recipe(tmp_path / "run").differences(recipe)
    for column in earlier["node_types"]["node"]["encodings"]:
        column["encoder"]["name"] = "later"
    write(earlier)
    with pytest.raises(ConfigError, match=r"recipe\.json: .* that another version has written"):
        read_recipe(tmp_path / "run")


def test_recipes_are_compared_by_what_they_encode(tmp_path):
    recipe = recipe_of(tmp_path)
    assert not recipe.differences(recipe)
    columns = {**JANUARY, "age": [1, 2, 3, 4], "flag": [True, True, None, True]}
    other = recipe_of(tmp_path / "other", columns)
    assert recipe.differences(other) == ["age"]  # flag: only its filler differs


def typed(folder: Path, **options: Any) -> gt.Graph:
    folder.mkdir(exist_ok=True)
    people = {"id": [1, 2], "born": [1970, 1980], "split:split": ["train", "train"]}
    pq.write_table(pa.table(people), folder / "nodes-author.parquet")
    papers = {"id": [5, 6], "size": [1.0, 3.0], "born": [2001, 2003], "topic": ["x", "y"]}
    pq.write_table(pa.table(papers), folder / "nodes-paper.parquet")
    writes = {"src": [1, 2], "dst": [5, 6], "share": [0, 100]}
    pq.write_table(pa.table(writes), folder / "edges-author-writes-paper.parquet")
    cites = {"src": [5], "dst": [6], "share": [7]}
    pq.write_table(pa.table(cites), folder / "edges-paper-cites-paper.parquet")
    return gt.Graph.from_source(datasets.read(str(folder), **options))


def test_each_type_has_its_recipe(tmp_path):
    features = {"paper.size": "log", "born": "minmax", "paper.topic": gt.encode.OneHot()}
    edge_features = ["author-writes-paper.share:minmax"]
    graph = typed(tmp_path / "a", features=features, edge_features=edge_features)
    assert graph.node_table("author")["features"].to_pylist() == [[0], [1]]
    assert graph.node_table("paper")["features"].to_pylist() == [[-1, 0, 1, 0], [1, 1, 0, 1]]
    assert graph.edge_table("author-writes-paper")["attr"].to_pylist() == [[0], [1]]
    assert "attr" not in graph.edge_table("paper-cites-paper").column_names
    store = make_store(graph, tmp_path / "store", Plan(1))
    again = typed(tmp_path / "a", like=store.manifest.recipe)
    assert again.digest() == graph.digest()
    shard = gt.open_shard(store)
    assert shard.feature_names_of("paper") == ("size", "born", "topic=x", "topic=y")
    recipe = store.manifest.recipe
    only = recipe.model_copy(update={"node_types": {"paper": recipe.node_types["paper"]}})
    with pytest.raises(ConfigError, match="expected a table of paper, as in the recipe"):
        typed(tmp_path / "a", like=only)


def test_text_options_and_graph_toml_name_encodings_of_types(tmp_path):
    expected = typed(tmp_path / "a", features={"paper.size": "log", "born": "minmax"})
    assert (
        typed(tmp_path / "a", features="paper.size:log,born:minmax").digest() == expected.digest()
    )
    toml = '[nodes.author]\nfeatures = ["born:minmax"]\n'
    toml += '[nodes.paper]\nfeatures = {size = "log", born = "minmax"}\n'
    (tmp_path / "a" / "graph.toml").write_text(toml)
    assert typed(tmp_path / "a").digest() == expected.digest()


@pytest.mark.parametrize("workers", [1, 3])
def test_embedded_columns_are_trained_alike_on_any_number_of_workers(workers, tmp_path):
    rng = np.random.default_rng(0)
    city = rng.integers(0, 6, 60)
    nodes = {
        "id": list(range(60)),
        "city": [f"c{c}" for c in city],
        "label:y": (city % 2).tolist(),
        "split:split": (["train", "val", "test"] * 20),
    }
    edges = {"src": rng.integers(0, 60, 200), "dst": rng.integers(0, 60, 200)}
    graph = gt.Graph.from_arrow(nodes, edges, features="city:embedding(4)")

    def train(comm: Any) -> tuple[float, Any]:
        shard = gt.open_shard(graph, comm)
        assert shard.num_features == 0
        model = gt.nn.GCN(shard.embedding_channels(), 8, 2, dropout=0.0)
        trainer = gt.Trainer(gt.nn.ColumnEmbedding(shard, model), shard, lr=0.05)
        trainer.fit(epochs=3)
        return trainer.predict()

    found = gt.run_local(train, workers=workers)
    if workers == 1:
        BASELINE.append(found)
    np.testing.assert_allclose(found, BASELINE[0], rtol=1e-4, atol=1e-5)


BASELINE: list[Any] = []


@pytest.mark.slow
def test_embedded_columns_of_types_are_trained_alike_on_any_number_of_workers():
    rng = np.random.default_rng(0)
    city = rng.integers(0, 6, 60)
    papers = {
        "id": list(range(60)),
        "city": [f"c{c}" for c in city],
        "x": rng.normal(size=60),
        "label:y": (city % 2).tolist(),
        "split:split": ["train", "val", "test"] * 20,
    }
    authors = {"id": list(range(20)), "zip": [f"z{i % 5}" for i in range(20)]}
    writes = {"src": rng.integers(0, 20, 100), "dst": rng.integers(0, 60, 100)}
    cites = {"src": rng.integers(0, 60, 100), "dst": rng.integers(0, 60, 100)}
    graph = gt.Graph.from_arrow(
        {"paper": pa.table(papers), "author": pa.table(authors)},
        {"author-writes-paper": pa.table(writes), "paper-cites-paper": pa.table(cites)},
        columns={
            "paper": {"features": "x,city:embedding(4)"},
            "author": {"features": "zip:embedding(3)"},
        },
    )

    def train(comm: Any) -> Any:
        shard = gt.open_shard(graph, comm)
        model = gt.nn.RGCN(8, 8, 2, num_relations=2, dropout=0.0)
        typed_input = gt.nn.TypedInput(shard, 8, model)
        trainer = gt.Trainer(typed_input, shard, strategy=gt.MiniBatch(16, None), lr=0.05)
        trainer.fit(epochs=5)
        return trainer.predict()

    one, three = (gt.run_local(train, workers=workers) for workers in (1, 3))
    np.testing.assert_allclose(three, one, rtol=1e-4, atol=1e-5)
