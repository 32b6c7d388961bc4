"""`graphtheta bench` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphtheta.bench.record import append, load
from tests.integration.cli import (  # noqa: F401
    Run,
    assert_one_line,
    command,
    cora,
    elsewhere,
    job,
)

RMAT = ("--scale", 6, "--edge-factor", 4)


@pytest.mark.parametrize("name", ["", "kernels", "epoch", "partition", "scaling", "compare"])
def test_help_has_an_example(command: Run, name: str) -> None:
    result = command("bench", *name.split(), "--help")
    assert result.code == 0
    assert "graphtheta bench" in result.out.partition("Example:")[2]


def test_kernels_then_compare(command: Run) -> None:
    words = ("bench", "kernels", *RMAT, "--kernels", "sum,gat-e", "--widths", 4, "--runs", 2)
    for file in ("a.jsonl", "b.jsonl"):
        result = command(*words, "--allow-chunked", "--json", file)
        assert result.code == 0, result
        assert all(word in result.out for word in ("memory (triad)", "sum", "gat-e", "backward"))
    result = command("bench", "compare", "a.jsonl", "b.jsonl")
    assert result.code == 0, result
    assert result.out.count("kernels: gat-e") == 4


def test_compare_fails_when_asked(command: Run) -> None:
    words = ("bench", "epoch", *RMAT, "--features", 4, "--hidden", 4, "--runs", 2)
    assert command(*words, "--json", "a.jsonl").code == 0
    (record,) = load("a.jsonl")
    times = ("median", "p10", "p90")
    slower = dict.fromkeys(times, 100 * (record["p90"] + record["median"]))
    append("b.jsonl", [record | slower])
    result = command("bench", "compare", "a.jsonl", "b.jsonl")
    assert (result.code, "slower" in result.out) == (0, True), result
    assert command("bench", "compare", "a.jsonl", "b.jsonl", "--fail").code == 1
    result = command("bench", "compare", "b.jsonl", "a.jsonl", "--fail")
    assert (result.code, "faster" in result.out) == (0, True), result


def test_epoch_of_a_store(command: Run, cora: Path) -> None:
    result = command("bench", "epoch", cora, "--model", "gat", "--runs", 2, "--json", "a.jsonl")
    assert result.code == 0, result
    assert "gather_sum" in result.out
    (record,) = load("a.jsonl")
    assert (record["case"]["model"], record["case"]["nodes"]) == ("gat", 2708)


@pytest.mark.spawn
def test_partition(command: Run) -> None:
    words = ("bench", "partition", *RMAT, "--methods", "dbh,node-hash", "--parts", "2")
    result = command(*words, "--json", "a.jsonl")
    assert result.code == 0, result
    assert [record["case"]["method"] for record in load("a.jsonl")] == ["dbh", "node-hash"]
    assert result.out.count("rmat 6 x 4") == 1


@pytest.mark.slow  # it starts jobs as the next test does
@pytest.mark.spawn
def test_scaling(command: Run) -> None:
    words = ("bench", "scaling", *RMAT, "--features", 4, "--hidden", 4, "--runs", 2)
    result = command(*words, "--threads", 1, "--json", "a.jsonl")
    if "expected mpiexec" in result.err:
        pytest.skip("no mpiexec")
    assert result.code == 0, result
    assert all(word in result.out for word in ("speed-up", "efficiency", "sync", "sent per epoch"))
    assert [record["case"]["workers"] for record in load("a.jsonl")] == [1, 2]


@pytest.mark.spawn
def test_epoch_under_mpiexec(tmp_path: Path, cora: Path) -> None:
    written = tmp_path / "a.jsonl"
    output = job(2, "bench", "epoch", cora, "--runs", 2, "--json", written)
    assert output.count("2 workers") == 1
    assert load(written)[0]["bytes_sent"] > 0


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (("kernels", "--kernels", "sort"), "expected one of gat, gat-e, .* got 'sort'"),
        (("kernels", "--widths", "16,x"), "--widths: .*'16,x'"),
        (("epoch", "--model", "mlp", *RMAT), "expected one of appnp, gat, gat-e, "),
        (("epoch", "nowhere"), "nowhere"),
        (("epoch", "--runs", 0), "--runs"),
        (("partition", "--methods", "magic"), "expected one of 2ps-l, .*, got 'magic'"),
        (("scaling", "--ranks", "0"), "--ranks"),
        (("compare", "nowhere.jsonl", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_mistake_is_one_line(command: Run, words: tuple[object, ...], pattern: str) -> None:
    result = command("bench", *words)
    assert_one_line(result, pattern)
