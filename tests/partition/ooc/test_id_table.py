"""Hash tables of integer and text ids, compared with sets and lists of Python."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from graphtheta.partition.ooc.id_table import id_map, id_set

INTS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=60)
TEXTS = st.lists(st.text(max_size=6), max_size=60)
COLUMNS = st.one_of(
    INTS.map(lambda values: pa.array(values, pa.int64())),
    TEXTS.map(lambda values: pa.array(values, pa.string())),
)


@settings(max_examples=80, deadline=None)
@given(column=COLUMNS, num_slices=st.integers(1, 3), cut=st.integers(0, 60))
def test_id_sets_and_maps_agree_with_python(column: pa.Array, num_slices: int, cut: int) -> None:
    batches = [column.slice(0, cut), column.slice(cut)]
    members, found = [], np.full(len(column), -7, np.int64)
    duplicates = 0
    for index in range(num_slices):
        one, table = (
            id_set(column.type, index, num_slices),
            id_map(column.type, index, num_slices, 9),
        )
        first = 0
        for batch in batches:
            one.add(batch)
            duplicates += len(table.insert(batch, first))
            first += len(batch)
        members += one.ids().to_pylist()
        table.find(column, found)
    values = column.to_pylist()
    assert sorted(members) == sorted(set(values))
    assert found.tolist() == [values.index(value) for value in values]
    assert duplicates == len(values) - len(set(values))


def test_id_map_returns_minus_one_for_unknown_ids() -> None:
    for known, other in (([1, 2], [3, 1]), (["a", ""], ["b", "a"])):
        column = pa.array(known)
        table = id_map(column.type, 0, 1, 2)
        table.insert(column, 5)
        keys = np.empty(2, np.int64)
        table.find(pa.array(other), keys)
        assert keys.tolist() == [-1, 5]
