"""Hash of original ids: fixed, because existing stores depend on it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from graphtheta.partition.store.id_hash import hash_ids

KNOWN_INT = [18009075871228960693, 11160282174334478822, 762039950637962496]
KNOWN_TEXT = [3596927671189477613, 9741258150541920529, 17997059570441677365]


def test_hash_ids_known_answers() -> None:
    assert hash_ids(pa.array([0, 1, -1])).tolist() == KNOWN_INT
    assert hash_ids(pa.array(["", "a", "node-é"])).tolist() == KNOWN_TEXT


def test_hash_ids_ignores_slicing_and_spreads() -> None:
    ids = pa.array([f"node-{i}" for i in range(10_000)])
    np.testing.assert_array_equal(hash_ids(ids.slice(17)), hash_ids(ids)[17:])
    for hashes in (hash_ids(ids), hash_ids(pa.array(np.arange(10_000)))):
        assert np.bincount((hashes % np.uint64(8)).astype(int)).max() < 1.1 * 10_000 / 8
