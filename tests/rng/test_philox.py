from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from graphtheta.rng.philox import (
    Purpose,
    dropout,
    hash_keys,
    keep_mask,
    philox4x32,
    step_key,
    stream_id,
)

KEY = step_key(7, 11)
STREAM = stream_id(Purpose.NODE_DROPOUT, layer=2)


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as the paper has it, in Python's whole numbers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [
            (p1 >> 32) ^ c[1] ^ k[0],
            p1 & 0xFFFFFFFF,
            (p0 >> 32) ^ c[3] ^ k[1],
            p0 & 0xFFFFFFFF,
        ]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    # From Random123's kat_vectors.
    got = philox4x32(np.array([words(counter)], np.uint32), np.array(words(key), np.uint32))
    assert got[0].tolist() == words(expected)
    assert plain_philox(words(counter), words(key)) == words(expected)


@pytest.mark.parametrize("width", [1, 3, 4, 5, 8, 13])
def test_column_is_a_lane_of_a_block(width: int) -> None:
    keys = np.array([0, 5, 2**31, 2**40 + 3, -1, -(2**35)], np.int64)
    p, quarter = 0.4, -(-width // 4)
    want = np.empty((len(keys), width), np.bool_)
    for row, column in itertools.product(range(len(keys)), range(width)):
        unsigned = int(keys[row]) % 2**64
        counter = [column % quarter, unsigned % 2**32, unsigned >> 32, int(STREAM)]
        draw = plain_philox(counter, KEY.tolist())[column // quarter]
        want[row, column] = draw >= int(p * 2**32)
    np.testing.assert_array_equal(keep_mask(keys, width, p, KEY, STREAM), want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [0, 1, 6, 64])
def test_dropout_is_the_mask_times_the_scale(dtype: type, width: int) -> None:
    keys = np.arange(50, dtype=np.int64)
    x = np.random.default_rng(0).standard_normal((50, width)).astype(dtype)
    out = np.empty_like(x)
    dropout(x, keys, 0.3, KEY, STREAM, out)
    kept = keep_mask(keys, width, 0.3, KEY, STREAM)  # one mask for both types
    np.testing.assert_array_equal(out, np.where(kept, x * dtype(1 / 0.7), dtype(0)))
    dropout(x, keys, 0.3, KEY, STREAM, x)
    np.testing.assert_array_equal(x, out)


def test_draws_depend_on_the_key_alone() -> None:
    keys = np.random.default_rng(1).permutation(1000)[:400] * 2**33
    whole = keep_mask(keys, 10, 0.5, KEY, STREAM)
    pick = np.array([7, 3, 3, 399, 0])
    np.testing.assert_array_equal(keep_mask(keys[pick], 10, 0.5, KEY, STREAM), whole[pick])
    np.testing.assert_array_equal(
        hash_keys(keys[pick], 1, Purpose.SPLIT), hash_keys(keys, 1, Purpose.SPLIT)[pick]
    )


def test_draws_take_read_only_keys() -> None:
    keys = np.arange(10, dtype=np.int64)
    want = keep_mask(keys.copy(), 3, 0.5, KEY, STREAM)
    keys.flags.writeable = False
    np.testing.assert_array_equal(keep_mask(keys, 3, 0.5, KEY, STREAM), want)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9])
def test_keep_rate(p: float) -> None:
    kept = keep_mask(np.arange(20_000, dtype=np.int64), 16, p, KEY, STREAM)
    deviation = np.sqrt(p * (1 - p))
    assert abs(kept.mean() - (1 - p)) <= 4 * deviation / np.sqrt(kept.size)
    # No column and no row is special.
    assert np.abs(kept.mean(0) - (1 - p)).max() <= 5 * deviation / np.sqrt(len(kept))
    assert np.abs(kept.mean(1).std() - deviation / 4) < 0.01


def agreement(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(abs((a == b).mean() - 0.5) * 2 * np.sqrt(a.size))


def test_streams_are_independent() -> None:
    keys = np.arange(10_000, dtype=np.int64)
    streams = [
        (step_key(seed, step), stream_id(purpose, layer, call))
        for seed, step, purpose, layer, call in [
            (0, 0, Purpose.NODE_DROPOUT, 0, 0),
            (1, 0, Purpose.NODE_DROPOUT, 0, 0),
            (0, 1, Purpose.NODE_DROPOUT, 0, 0),
            (1, 1, Purpose.NODE_DROPOUT, 0, 0),
            (0, 0, Purpose.EDGE_DROPOUT, 0, 0),
            (0, 0, Purpose.NODE_DROPOUT, 1, 0),
            (0, 0, Purpose.NODE_DROPOUT, 0, 1),
        ]
    ]
    masks = [keep_mask(keys, 8, 0.5, key, stream) for key, stream in streams]
    for a, b in itertools.combinations(masks, 2):
        assert agreement(a, b) < 5  # standard deviations
    # Columns, neighbouring keys and a key's negative are as independent.
    for a, b in itertools.combinations(masks[0].T, 2):
        assert agreement(a, b) < 5
    assert agreement(masks[0][:-1], masks[0][1:]) < 5
    assert agreement(masks[0], keep_mask(-1 - keys, 8, 0.5, *streams[0])) < 5


def test_stream_ids_are_distinct() -> None:
    ids = {
        int(stream_id(purpose, layer, call))
        for purpose, layer, call in itertools.product(Purpose, range(20), [*range(20), 256, 4095])
    }
    assert len(ids) == len(Purpose) * 440


def test_step_keys_are_distinct() -> None:
    # Neither (seed, step) nor (step, seed) nor any sum of the two coincide.
    keys = {tuple(step_key(seed, step)) for seed in range(60) for step in range(60)}
    assert len(keys) == 3600
    assert (step_key(-1, 0) == step_key(2**64 - 1, 0)).all()


def test_hash_keys_are_uniform_in_every_bit() -> None:
    bits = hash_keys(np.arange(20_000, dtype=np.int64), 3, Purpose.PLACEMENT)
    ones = [((bits >> np.uint64(b)) & np.uint64(1)).mean() for b in range(64)]
    assert np.abs(np.array(ones) - 0.5).max() < 5 * 0.5 / np.sqrt(len(bits))
    assert len(np.unique(bits)) == len(bits)
