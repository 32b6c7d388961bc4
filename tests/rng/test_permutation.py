import numpy as np
import pytest

from graphtheta.rng.permutation import Permutation
from graphtheta.rng.philox import Purpose


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 100, 1023, 1024, 1025, 65537])
def test_is_a_bijection_with_an_inverse(size):
    x = np.arange(size)
    for seed in range(5):
        permutation = Permutation(size, seed, Purpose.GENERATE)
        y = permutation.forward(x)
        assert np.array_equal(np.sort(y), x)
        assert np.array_equal(permutation.inverse(y), x)


def test_reaches_63_bits():
    permutation = Permutation(1 << 63, 1, Purpose.GENERATE)
    x = np.arange(1000) * 2**53
    y = permutation.forward(x)
    assert y.min() >= 0
    assert y.max() > 2**62
    assert np.array_equal(permutation.inverse(y), x)


def test_seeds_purposes_and_steps_differ():
    x = np.arange(1000)
    several = [
        Permutation(1000, *key, step=step).forward(x).tolist()
        for key in [(0, Purpose.GENERATE), (1, Purpose.GENERATE), (0, Purpose.BATCH)]
        for step in (0, 1)
    ]
    assert len({tuple(order) for order in several}) == 6
    assert several[0] == Permutation(1000, 0, Purpose.GENERATE).forward(x).tolist()


@pytest.mark.parametrize("size", [4096, 50_000])
def test_shuffles(size):
    y = np.concatenate(
        [Permutation(size, s, Purpose.GENERATE).forward(np.arange(size)) for s in range(8)]
    )
    x = np.tile(np.arange(size), 8)
    # A 16 x 16 table of (from, to): chi-square of 225 degrees of freedom, 5 sigma above its mean.
    cells = np.bincount(x * 16 // size * 16 + y * 16 // size, minlength=256)
    expected = 8 * size / 256
    assert ((cells - expected) ** 2 / expected).sum() < 225 + 5 * np.sqrt(450)
    # Neighbours do not stay neighbours, and fixed points are as rare as by chance.
    assert (np.abs(np.diff(y)) < size / 64).mean() < 0.05
    assert (x == y).sum() < 40
