"""Bit maps and positions of their members, compared with sorted lists of Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphtheta.partition.ooc.bitmap import (
    BitMap,
    MemberPositions,
    positions_in_sorted_groups,
)


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.integers(0, 500), max_size=50))
def test_members_of_a_bit_map_have_positions(values: list[int]) -> None:
    bits = BitMap(10)
    bits.reach(500)
    bits.add(np.array(values, np.int64))
    assert bits.members().tolist() == sorted(set(values))
    positions = MemberPositions(bits)
    assert positions.count == len(set(values))
    assert positions.find(np.array(values, np.int32)).tolist() == [
        sorted(set(values)).index(value) for value in values
    ]


@settings(max_examples=50, deadline=None)
@given(groups=st.lists(st.sets(st.integers(0, 200)), max_size=5))
def test_positions_in_sorted_groups_sort_every_group(groups: list[set[int]]) -> None:
    values = np.array([value for group in groups for value in group], np.int32)
    starts = np.cumsum([0, *map(len, groups)])
    placed = np.empty_like(values)
    placed[positions_in_sorted_groups(values, starts, 201)] = values
    assert placed.tolist() == [value for group in groups for value in sorted(group)]
