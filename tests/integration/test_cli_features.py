"""Columns to features on the command line: encodings, recipes of stores and runs, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq

from tests.integration.cli import (  # noqa: F401
    EDGES,
    Run,
    assert_one_line,
    command,
    elsewhere,
    write_tables,
)

NAMES = "--id name --src from --dst to".split()
TABLES = ["--nodes", "nodes.parquet", "--edges", "edges.parquet", *NAMES, "--parts", 1]
COLUMNS = {"age": [20, 30, 40, 50], "country": ["de", "fr", None, "it"]}


def test_the_next_month_is_encoded_by_the_recipe_of_the_run(command: Run) -> None:
    write_tables(COLUMNS, {**EDGES, "amount": [1.0, 2.0, 3.0, 4.0]})
    Path("features.toml").write_text('age = "standard"\ncountry = "embedding(3)"\nf_0 = "minmax"\n')
    given = ["--label", "y", "--split", "split=part", "--edge-features", "amount:log"]
    given += ["--drop-duplicates"]
    made = command("partition", *TABLES, "store", "--features", "features.toml", *given)
    assert made.code == 0, made.err
    trained = command("train", "store", "--run-dir", "run", "--epochs", 1, "--hidden", 4)
    assert trained.code == 0, trained.err
    later = {"name": ["e", "f", "g", "h"], "age": [30] * 4, "country": ["xx", "fr", None, "de"]}
    write_tables(later, {"from": ["e"] * 2, "to": ["f"] * 2, "amount": [2.0, 3.0]})
    # The recipe names the columns of ids, too.
    unnamed = [word for word in TABLES if word not in NAMES]
    assert command("partition", *unnamed, "other", "--like", "run").code == 0
    assert_one_line(
        command("predict", "run", "other", "--out", "scores"), "store made with --drop-duplicates"
    )
    assert command("partition", *unnamed, "next", "--like", "run", "--drop-duplicates").code == 0
    recipes = [json.loads(command("info", path, "--json").out) for path in ("store", "next")]
    one, other = (found["node_types"][0]["encodings"] for found in recipes)
    assert one == other
    assert [encoded["column"] for encoded in one] == ["age", "f_0", "country"]
    assert command("predict", "run", "next", "--out", "scores").code == 0
    month = Path("february")
    month.mkdir()
    for name, other in (("nodes", "people"), ("edges", "payments")):
        Path(f"{name}.parquet").rename(month / f"{other}.parquet")
    Path(month, "ids.csv").write_text("name,other\ne,1\n")  # with the column of ids only
    assert command("predict", "run", month, "--out", "scores-of-tables").code == 0
    scores = [pq.read_table(path).sort_by("id") for path in ("scores", "scores-of-tables")]
    assert scores[0].num_rows == 4
    assert scores[0].equals(scores[1])
    Path(month, "copy.parquet").symlink_to("people.parquet")
    for out, message in (
        ("a", "february: expected one table of nodes, .* got .*copy.parquet.*people.parquet"),
        ("b", "february: expected one table of edges, .*'from', 'to', 'amount' .*, got none. Add"),
    ):
        assert_one_line(command("predict", "run", month, "--out", out), message)
        Path(month, "payments.parquet").unlink(missing_ok=True)
    write_tables(later, {"from": ["e"], "to": ["f"], "amount": [2.0]})
    features = ["--features", "features.toml", "--drop-duplicates"]
    refitted = command("partition", *TABLES, "refitted", *features)
    assert refitted.code == 0, refitted.err
    assert_one_line(
        command("predict", "run", "refitted", "--out", "others"),
        "other encodings of 'age', 'f_0', 'country', .*--like run",
    )


def test_wrong_encodings_are_one_line(command: Run) -> None:
    write_tables(COLUMNS)
    for features, message in (
        ("age:onehott", "expected an encoding among number, .*, got 'onehott'"),
        ("country:standard", "expected numbers, .* for standard, got string"),
        ("none.toml", "none.toml: expected a TOML file of columns and encodings"),
    ):
        assert_one_line(command("partition", *TABLES, "store", "--features", features), message)
    Path("a.toml").write_text("age = 3")
    assert_one_line(
        command("partition", *TABLES, "store", "--features", "a.toml"),
        "expected the name of an encoding for age, .*, got 3",
    )
    assert_one_line(
        command("partition", *TABLES, "store", "--like", "none"), "expected a store, or"
    )
