import numpy as np
import pytest

from graphtheta.datasets.splits import random_split
from graphtheta.errors import ConfigError


def counts(split, labels=None):
    if labels is None:
        return np.bincount(split, minlength=4).tolist()
    return [counts(split[labels == label]) for label in np.unique(labels)]


def test_counts_of_all_nodes():
    assert counts(random_split(100, train=20, val=30, seed=0)) == [0, 20, 30, 50]
    assert counts(random_split(100, train=0.6, val=0.2, seed=0)) == [0, 60, 20, 20]


def test_counts_per_class_and_unlabelled_nodes():
    labels = np.repeat([-1, 0, 2], [10, 50, 100])
    split = random_split(160, labels, train=20, val=10, seed=0, per_class=True)
    assert counts(split, labels) == [[10, 0, 0, 0], [0, 20, 10, 20], [0, 20, 10, 70]]
    split = random_split(160, labels, train=0.5, val=0.1, seed=0, per_class=True)
    assert counts(split, labels) == [[10, 0, 0, 0], [0, 25, 5, 20], [0, 50, 10, 40]]


def test_a_class_too_small_fills_training_first():
    labels = np.zeros(5, np.int64)
    assert counts(random_split(5, labels, train=3, val=3, seed=0, per_class=True)) == [0, 3, 2, 0]


def test_split_depends_on_the_seed_and_on_nothing_else_of_the_graph():
    labels = np.arange(200) % 2
    one = random_split(200, labels, train=20, val=20, seed=1, per_class=True)
    assert np.array_equal(one, random_split(200, labels, train=20, val=20, seed=1, per_class=True))
    other = random_split(200, labels, train=20, val=20, seed=2, per_class=True)
    assert not np.array_equal(one, other)
    # The order of one class does not depend on other classes.
    fewer = np.where(labels == 1, -1, 0)
    alone = random_split(200, fewer, train=20, val=20, seed=1, per_class=True)
    assert np.array_equal(alone[labels == 0], one[labels == 0])


@pytest.mark.parametrize(("train", "val"), [(-1, 5), (0.7, 0.5)])
def test_wrong_shares_are_refused(train, val):
    with pytest.raises(ConfigError, match="expected counts from 0 or fractions"):
        random_split(10, train=train, val=val, seed=0)
