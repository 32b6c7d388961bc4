"""Tensor pool: live memory is never reused, and the pool holds no more than was in use."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphtheta.runtime import tensor_pool as buffers
from graphtheta.runtime.tensor_pool import Pool, empty

SHAPE = (1 << 11, 1 << 10)  # of float32: 8 MiB


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    fresh = Pool()
    monkeypatch.setattr(buffers, "_pool", fresh)
    monkeypatch.delenv("GRAPHTHETA_MALLOC", raising=False)
    return fresh


def test_freed_memory_is_used_again(pool: Pool) -> None:
    x = empty(SHAPE, torch.float32)
    assert x.shape == SHAPE
    assert x.is_contiguous()
    where, view = x.data_ptr(), x[5:, :3]
    view.fill_(7.0)
    del x  # the view still needs it
    other = empty(SHAPE, torch.float32)
    assert other.data_ptr() != where
    other.zero_()
    assert (view == 7).all()
    del view
    again = empty((1 << 10, 1 << 10), torch.int64)  # as many bytes
    assert again.data_ptr() == where
    assert pool.held == pool.used == 2 * again.nbytes


def test_autograd_keeps_what_it_saved(pool: Pool) -> None:
    x = empty(SHAPE, torch.float32).normal_().requires_grad_()
    y = x.exp()
    saved = y.detach().clone()
    loss = y.sum()
    del y
    for _ in range(4):
        empty(SHAPE, torch.float32).zero_()
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, saved)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), max_size=60))
def test_no_more_is_held_than_was_in_use(steps: list[tuple[int, int]]) -> None:
    """Each step frees one of six tensors, and makes another in its place."""
    pool, alive, most = Pool(), {}, 0
    for place, pages in steps:
        if place in alive:
            pool.returned.append(alive.pop(place)[0])
        block = pool.take(4096 * pages)
        block[:] = place + 10 * pages
        alive[place] = block, place + 10 * pages
        used = sum(b.nbytes for b, _ in alive.values())
        most = max(most, used)
        assert pool.used == used <= pool.held <= most
        assert all((b == value).all() for b, value in alive.values())


def test_threads(pool: Pool) -> None:
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            x, y = empty(SHAPE, torch.float32), empty(SHAPE, torch.float32)
            x.fill_(number)
            y.fill_(-number)
            if not ((x == number).all() and (y == -number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    # A thread has four at most: two, and two that take their names.
    assert pool.held <= 16 * np.prod(SHAPE) * 4


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((3, 2), torch.float32),
        ((0, 7), torch.float32),
        (SHAPE, torch.bfloat16),
        (SHAPE, torch.bool),
    ],
)
def test_others_are_of_torch(pool: Pool, shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = empty(shape, dtype)
    assert (x.shape, x.dtype) == (shape, dtype)
    assert not pool.held


def test_left_to_the_system(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHTHETA_MALLOC", "system")
    assert empty(SHAPE, torch.float32).shape == SHAPE
    gc.collect()
    assert not pool.held


def test_kernel_without_huge_pages(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers.mmap, "MADV_HUGEPAGE", 9999)  # advice that no kernel knows
    empty(SHAPE, torch.float32).zero_()
    assert pool.held
