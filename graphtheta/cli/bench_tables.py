"""Tables of `graphtheta bench`: records as rows of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from graphtheta.bench.compare import Comparison
from graphtheta.bench.record import Record
from graphtheta.bench.scaling import efficiency
from graphtheta.partition import PARTITIONERS
from graphtheta.partition.core.edge_rule import EdgeRule
from graphtheta.wording import format_bytes

__all__ = [
    "KERNELS_HEAD",
    "PARTITION_HEAD",
    "comparison_row",
    "epoch_rows",
    "graph_title",
    "kernel_rows",
    "partition_row",
    "scaling_head",
    "scaling_rows",
]

KERNELS_HEAD = (
    *("kernel", "width", "dropout", "direction", "ms", "p10 to p90", "GB/s", "of bandwidth"),
    *("torch CSR ms", "ratio"),
)
PARTITION_HEAD = (
    *("method", "parts", "seconds", "M edges/s", "M edges/s to assign", "replication factor"),
    *("edge cut", "balance nodes / edges", "peak GB"),
)


def graph_title(graph: dict[str, Any]) -> str:
    """Return the name and size of the graph of a case."""
    return f"{graph['graph']} ({graph['nodes']:,} nodes, {graph['edges']:,} edges)"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _spread(record: Record) -> str:
    return f"{1000 * record['p10']:.1f} to {1000 * record['p90']:.1f}"


def _value(record: Record) -> str:
    if record["unit"] == "bytes":
        return format_bytes(record["median"])
    return _ms(record["median"])


def epoch_rows(record: Record) -> Iterator[tuple[str, ...]]:
    """Yield rows of the time of an epoch and of its stages, longest first, and of memory."""
    yield "epoch", f"{_ms(record['median'])} ({_spread(record)} from p10 to p90)"
    for name, spent in sorted(record["stages"].items(), key=lambda item: -item[1]):
        yield name, _ms(spent)
    yield "peak memory per worker", format_bytes(record["peak_bytes"])
    yield "of which for training", format_bytes(record["epoch_bytes"])
    yield "sent per epoch", format_bytes(record["bytes_sent"])
    yield "executor", ", ".join(record["executors"])
    for layer in record["chunked"]:
        yield "not fused", layer


def comparison_row(pair: Comparison) -> tuple[str, ...]:
    """Return the row of a measurement that is in both files."""
    values = (_value(record) for record in (pair.before, pair.after))
    return pair.name, *values, f"{pair.ratio:.3f} ± {pair.noise:.3f}", pair.verdict


def kernel_rows(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    """Yield a row for memory bandwidth, the first record, and for each kernel."""
    triad, rest = records[0], records[1:]
    bandwidth = triad["moved_bytes"] / triad["median"]
    others = {_without_library(r): r for r in rest if r["case"]["library"] != "graphtheta"}
    blank = [""] * 4
    yield (
        "memory (triad)",
        *blank[:3],
        f"{1000 * triad['median']:.2f}",
        _spread(triad),
        f"{bandwidth / 1e9:.1f}",
        "100 %",
        *blank[:2],
    )
    for record in rest:
        case = record["case"]
        if case["library"] != "graphtheta":
            continue
        gathered, other = record["gathered_bytes"], others.get(_without_library(record))
        rate = gathered / record["median"] if gathered else 0.0
        yield (
            case["kernel"],
            str(case["width"]),
            f"{case['dropout']:g}",
            case["direction"],
            f"{1000 * record['median']:.2f}",
            _spread(record),
            f"{rate / 1e9:.1f}" if rate else "",
            f"{100 * rate / bandwidth:.0f} %" if rate else "",
            f"{1000 * other['median']:.2f}" if other else "",
            f"{other['median'] / record['median']:.2f}" if other else "",
        )


def _without_library(record: Record) -> tuple[Any, ...]:
    return tuple(value for name, value in record["case"].items() if name != "library")


def partition_row(record: Record) -> tuple[str, ...]:
    """Return the row of a partitioned graph."""
    case = record["case"]
    if "refused" in record:
        return case["method"], str(case["parts"]), record["refused"], *[""] * 6
    edges, quality = record["num_edges"], record["quality"]
    # An edge rule places edges while they are moved, in no time of its own.
    rule = isinstance(PARTITIONERS[case["method"]], EdgeRule)
    return (
        case["method"],
        str(case["parts"]),
        f"{record['median']:.2f}",
        f"{edges / record['median'] / 1e6:.2f}",
        "-" if rule else f"{edges / record['phases']['assign'] / 1e6:.2f}",
        f"{quality['replication_factor']:.3f}",
        f"{quality['edge_cut']:.3f}",
        f"{quality['node_balance']:.3f} / {quality['edge_balance']:.3f}",
        f"{record['peak_bytes'] / 1e9:.2f}",
    )


def scaling_head(records: Sequence[Record]) -> list[str]:
    """Return the head of `scaling_rows`."""
    return ["", *(f"{r['case']['workers']} x {r['case']['threads']} threads" for r in records)]


def scaling_rows(records: Sequence[Record]) -> Iterator[tuple[str, ...]]:
    """Yield rows with a column for each number of workers, in the order of the records."""
    gained = [efficiency(records[0], record) for record in records]
    yield "epoch", *(_ms(record["median"]) for record in records)
    yield "p10 to p90", *(_spread(record) for record in records)
    yield "speed-up", *(f"{speed_up:.2f}" for speed_up, _ in gained)
    yield "efficiency", *(f"{share:.2f}" for _, share in gained)
    yield "sent per epoch", *(format_bytes(record["bytes_sent"]) for record in records)
    yield "executor", *(", ".join(record["executors"]) for record in records)
    yield "peak memory per worker", *(format_bytes(record["peak_bytes"]) for record in records)
    names = sorted({name for record in records for name in record["stages"]})
    for name in sorted(names, key=lambda n: -max(r["stages"].get(n, 0.0) for r in records)):
        yield name, *(_ms(record["stages"].get(name, 0.0)) for record in records)
