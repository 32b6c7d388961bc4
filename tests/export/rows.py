"""Comparison of exported columns with the rows of the graph, value by value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["check_edges", "check_nodes"]

MASKS = ("train_mask", "val_mask", "test_mask")
NODE_PARQUET = {"day", "holes"}  # as tests/export/graphs.py makes them


def check_nodes(
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    parquet: Mapping[str, Any],
    *,
    features: str,
    label: str,
) -> None:
    """Assert that the tensors and the Parquet row of a node have all values of its row."""
    assert found[features] == expected["features"]
    _same(found[label], expected["label:y"], -1)
    _same(found["label_score"], expected["label:score"], math.nan)
    _same(found["label_flag"], expected["label:flag"], -1)
    _same(found["label_many"], expected["label:many"], [math.nan, math.nan])
    assert [bool(found[mask]) for mask in MASKS] == [
        expected["split:split"] == value for value in (1, 2, 3)
    ]
    assert found["split_other"] == expected["split:other"]
    assert found["count"] == expected["count"]
    text_id = isinstance(expected["id"], str)
    assert (parquet if text_id else found)["original_id"] == expected["id"]
    assert parquet["day"] == expected["day"]
    assert parquet["holes"] == expected["holes"]


def check_edges(
    expected: Mapping[str, Any],
    found: Mapping[str, Any],
    parquet: Mapping[str, Any],
    *,
    attr: str,
    type: str,
    weight: str,
    label: str,
) -> None:
    """Assert that the tensors and the Parquet row of an edge have all values of its row."""
    assert found[attr] == expected["attr"]
    assert found[type] == expected["type"]
    assert found[weight] == expected["weight"]
    assert found[label] == expected["label:good"]
    assert [bool(found[mask]) for mask in MASKS] == [
        expected["split:split"] == value for value in (1, 2, 3)
    ]
    assert parquet["note"] == expected["note"]


def _same(found: Any, expected: Any, missing: Any) -> None:
    wanted = missing if expected is None else expected
    for a, b in zip(_flat(found), _flat(wanted), strict=True):
        assert a == b or (math.isnan(a) and math.isnan(b)), (found, expected)


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
