"""Printing a report on a store: its parts, its traffic, its degrees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from graphtheta.cli.show import show_rows
from graphtheta.partition.analysis.report import degree_bounds

if TYPE_CHECKING:
    from graphtheta.partition.analysis.report import Report
    from graphtheta.partition.analysis.traffic import LayerBytes

__all__ = ["show_report"]

_SHOWN = 16


def show_report(found: Report, predicted: LayerBytes, what: str) -> None:
    """Print a report as tables.

    Args:
        found: The report.
        predicted: What layers would send.
        what: Describes these layers.
    """
    _show_parts(found)
    _show_pairs(found)
    _show_bytes(found, predicted, what)
    _show_degrees(found)


def _show_parts(found: Report) -> None:
    columns = {
        "masters": found.masters,
        "interior": found.interior,
        "mirrors": found.mirrors,
        "edges": found.edges,
        **{f"train ({name})": counts_P4[:, 1] for name, counts_P4 in found.splits.items()},
    }
    counts = np.stack(list(columns.values()))
    order = np.argsort(-found.edges, kind="stable")[:_SHOWN]
    rows = [[f"{part}", *(f"{n:,}" for n in counts[:, part])] for part in order]
    for name, value in (("mean", counts.mean(axis=1)), ("largest", counts.max(axis=1))):
        rows.append([name, *(f"{n:,.0f}" for n in value)])
    fewer = f"; the {_SHOWN} of {found.num_parts} with most edges" * (found.num_parts > _SHOWN)
    show_rows(rows, title=f"parts, most edges first{fewer}", head=("part", *columns))


def _show_pairs(found: Report) -> None:
    traffic = found.traffic
    order = np.argsort(-(traffic.sync + traffic.merge), kind="stable")[:_SHOWN]
    columns = (traffic.owner, traffic.holder, traffic.mirrors, traffic.sync, traffic.merge)
    pairs = len(traffic.owner)
    fewer = f"; the {_SHOWN} of {pairs:,} pairs with most" * (pairs > _SHOWN)
    show_rows(
        [[f"{column[pair]:,}" for column in columns] for pair in order],
        title=f"mirrors by owner and holder, most traffic first{fewer}",
        head=("owner", "holder", "mirrors", "sync", "merge"),
    )


def _show_bytes(found: Report, predicted: LayerBytes, what: str) -> None:
    each = (
        ("sync, masters to mirrors", predicted.sync),
        ("merge, mirrors to masters", predicted.merge),
        ("the busiest part sends", predicted.busiest),
        ("a layer, forward and backward", predicted.layer),
        ("an epoch of training", predicted.epoch),
    )
    rows = [
        (name, f"{num_bytes:,} bytes", f"{num_bytes / 2**20:,.2f} MiB") for name, num_bytes in each
    ]
    show_rows(rows, title=f"predicted traffic of {what}, a worker a part")


def _show_degrees(found: Report) -> None:
    bounds = degree_bounds(len(found.in_degrees)).tolist()
    rows = [
        (f"{low:,}" if high - low <= 1 else f"{low:,} to {high - 1:,}", f"{ins:,}", f"{outs:,}")
        for low, high, ins, outs in zip(
            bounds[:-1],
            bounds[1:],
            found.in_degrees.tolist(),
            found.out_degrees.tolist(),
            strict=True,
        )
    ]
    largest_in, largest_out = found.largest_degrees
    rows.append(("largest", f"{largest_in:,}", f"{largest_out:,}"))
    show_rows(rows, title="nodes by degree", head=("degree", "in", "out"))
