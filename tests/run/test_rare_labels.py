"""A run on a rare yes-or-no label: weights, metrics, threshold, report and predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import graphtheta as gt
from graphtheta.data.schema import matrix_column
from graphtheta.errors import ConfigError
from graphtheta.partition import Plan, make_store
from graphtheta.run.resolve import load_config, resolve
from graphtheta.run.run import predict_run, start_run

N = 200


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    rng = np.random.default_rng(5)
    is_fraud = np.arange(N) % 13 == 0
    features = rng.standard_normal((N, 4)) + is_fraud[:, None] * 1.5
    nodes = {
        "id": range(N),
        "features": matrix_column(features.astype(np.float32)),
        "label:fraud": is_fraud,
        "split:split": (np.arange(N) % 2 + 1).astype(np.int8),
        "amount": rng.random(N),
    }
    edges = {"src": rng.integers(0, N, 400), "dst": rng.integers(0, N, 400)}
    graph = gt.Graph(pa.table(nodes), pa.table(edges))
    path = tmp_path_factory.mktemp("rare") / "store"
    make_store(graph, path, Plan(1))
    return str(path)


def test_run_weighs_chooses_a_threshold_reports_and_predicts_by_it(
    store: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "input": store,
        "run_dir": tmp_path / "run",
        "class_weight": "true=5",
        "loss_weight": "amount",
        "loss": "focal",
        "focal_gamma": 1.0,
        "metrics": "auroc,recall@0.5precision",
        "epochs": 5,
    }
    trainer = start_run(resolve(options), gt.communicator())
    assert trainer.task.metric.name == "average_precision"
    summary = trainer.fit(5)
    assert {"val_auroc", "val_average_precision", "val_recall@0.5precision"} <= summary.keys()
    assert load_config(tmp_path / "run").class_weight == {"true": 5.0}
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["threshold"] == pytest.approx(summary["threshold"])
    assert np.sum(report["splits"]["val"]["confusion"]) == N // 2

    predict_run(tmp_path / "run", store, tmp_path / "out", gt.communicator())
    found = pq.read_table(tmp_path / "out").to_pydict()
    is_yes = np.array(found["probability"]) >= summary["threshold"]
    assert (np.array(found["prediction"]) == is_yes).mean() > 0.99  # probabilities are rounded
    assert is_yes.any()
    assert not is_yes.all()

    run = tmp_path / "run"
    done = predict_run(run, store, tmp_path / "all", gt.communicator(), threshold=0.0)
    assert (done.rows, done.label.threshold) == (N, 0.0)
    assert all(pq.read_table(tmp_path / "all")["prediction"].to_pylist())
    with pytest.raises(ConfigError, match="--threshold: expected a probability from 0 to 1"):
        predict_run(run, store, tmp_path / "none", gt.communicator(), threshold=1.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "hinge"}, "expected one of cross-entropy, focal"),
        ({"focal_gamma": 1.0}, "--focal-gamma: expected --loss focal"),
        ({"class_weight": "fraud:3"}, "expected balanced, or weights such as"),
        ({"class_weight": "maybe=3"}, "classes of the label .'false', 'true'., got 'maybe'"),
        ({"metrics": "f7"}, "those of a binary label"),
        ({"monitor": "confusion"}, "those of a binary label"),
        ({"task": "link", "positive": "true"}, "--positive: expected --task node or --task edge"),
    ],
)
def test_wrong_options_are_refused_in_one_line(
    store: str, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    options = {"input": store, "run_dir": tmp_path / "run", **values}
    with pytest.raises(ConfigError, match=message) as error:
        start_run(resolve(options), gt.communicator())
    assert "\n" not in str(error.value)
