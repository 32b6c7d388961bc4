"""Records: their shape, their files, and times taken in turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphtheta.bench.memory import peak_bytes, reset_peak, resident_bytes
from graphtheta.bench.record import append, load, new_record, spread
from graphtheta.bench.timing import Clock, alternate
from graphtheta.errors import ConfigError

CASE = {"kernel": "sum", "width": 16, "threads": 2, "workers": 1}


def test_record_says_what_how_long_and_on_what() -> None:
    record = new_record("kernels", CASE, [3.0, 1.0, 2.0], moved_bytes=12)
    assert record["benchmark"] == "kernels"
    assert record["case"] == CASE
    assert (record["unit"], record["median"], record["samples"]) == ("seconds", 2.0, [3, 1, 2])
    assert record["moved_bytes"] == 12
    assert record["threads"] == 2
    provenance = {"commit", "dirty", "versions", "cpu", "cores", "time"}
    assert record.keys() >= provenance
    assert {"python", "torch", "numba"} <= record["versions"].keys()
    assert json.loads(json.dumps(record)) == record


def test_spread_interpolates() -> None:
    found = spread([float(i) for i in range(11)])
    assert (found["p10"], found["median"], found["p90"]) == (1.0, 5.0, 9.0)


def test_files_grow_and_other_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "new" / "records.jsonl"
    records = [new_record("kernels", CASE | {"width": w}, [1.0]) for w in (16, 64)]
    for record in records:
        append(path, [record])
    with path.open("a") as file:
        file.write('{"benchmark": "of another time"}\n\n')
    assert load(path) == records
    append(None, records)


@pytest.mark.parametrize("content", [None, "", "no JSON\n", '{"benchmark": "partition"}\n'])
def test_file_without_records_is_refused_in_one_line(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "records.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_functions_take_turns_and_warm_up() -> None:
    turns: list[str] = []

    def run(name: str) -> dict[str, float]:
        turns.append(name)
        return {"forward": float(len(turns))}

    found = alternate({"a": lambda: run("a"), "b": lambda: run("b")}, runs=2, warmup=1)
    assert turns == list("ababab")
    assert found == {"a": {"forward": [3.0, 5.0]}, "b": {"forward": [4.0, 6.0]}}


def test_clock_keeps_stages_apart() -> None:
    clock = Clock()
    with clock.measure("one"), clock.measure("two"):
        pass
    assert clock.seconds["one"] >= clock.seconds["two"] >= 0


def test_peak_remembers_what_is_gone() -> None:
    before = resident_bytes()
    reset_peak()
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    del held
    assert peak_bytes() - before > 48 << 20
