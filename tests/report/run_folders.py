"""Folders of runs that no training has written: small, and of every kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w

QUALITY = {
    "replication_factor": 1.5,
    "edge_cut": 0.25,
    "node_balance": 1.1,
    "edge_balance": 1.2,
    "mirrors": 50,
}
STORE = {"num_nodes": 100, "num_edges": 900, "num_parts": 2, "method": "dbh", "cut": "vertex"}
BINS = [
    {"from": 0.0, "to": 0.5, "count": 6, "mean_probability": 0.2, "positive_share": 0.1},
    {"from": 0.5, "to": 1.0, "count": 0, "mean_probability": None, "positive_share": None},
]
EVIL = "<script>alert(1)</script>&$x^$"


def write_run(
    folder: Path,
    *,
    metric: str = "accuracy",
    values: tuple[float, ...] = (0.2, 0.6, 0.5),
    higher: bool = True,
    finished: bool = True,
    evaluated: bool = True,
    report: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Write the folder of a run with a value of the metric for each epoch."""
    folder.mkdir(parents=True)
    options = {"input": "store", "model": "gcn", "lr": 0.01, "epochs": 3, **config}
    (folder / "config.toml").write_text(tomli_w.dumps(options))
    records = []
    for epoch, value in enumerate(values):
        record: dict[str, Any] = {"epoch": epoch, "loss": 2.0 - epoch / 2, "seconds": 0.5}
        record["lr"] = 0.01
        if evaluated:
            for split in ("train", "val", "test"):
                record |= {f"{split}_loss": 1.9, f"{split}_{metric}": value}
        records.append(record)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(text)
    if finished:
        sign = 1 if higher else -1
        best = max(range(len(values)), key=lambda epoch: sign * values[epoch])
        known = {n: v for n, v in records[best].items() if "_" in n}
        summary = {
            **known,
            "best_epoch": best,
            "epochs": len(values),
            "stop_reason": "patience",
            "metric": metric,
            "higher_is_better": higher,
            "phase_seconds": {"forward prepare": 0.2, "forward layer 0 sync": 1.0},
            "bytes_sent": 5000,
            "bytes_sent_by_stage": {"forward layer 0 sync": 2000},
            "peak_rss_bytes": 10**8,
            "workers": 2,
            "versions": {"python": "3.11", "torch": "2.13"},
            "store": {**STORE, "quality": QUALITY},
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
    return folder


def report_json(kind: str) -> dict[str, Any]:
    """Return the content of `report.json` for a kind of label."""
    tables: dict[str, Any] = {
        "binary": [[5, 1], [0, 0]],
        "multiclass": [[3, 1, 0], [0, 2, 0], [0, 0, 0]],
        "multilabel": [[[3, 1], [1, 1]], [[0, 0], [0, 6]]],
    }
    names = {"binary": ["ok", EVIL], "multiclass": None, "multilabel": [EVIL, "b"]}
    split = {"rows": 6, "confusion": tables[kind], "calibration": BINS}
    found: dict[str, Any] = {"kind": kind, "classes": names[kind], "splits": {"test": split}}
    if kind == "binary":
        found |= {"positive": 1, "threshold": 0.25}
        split["confusion_at_threshold"] = [[4, 2], [0, 0]]
    return found
