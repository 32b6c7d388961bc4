"""Campaign of flipped bits: what a damaged file of a store or a run leads to.

`tests/integration/test_flipped_bits.py` runs a sample, and all of it with `-m slow`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from graphtheta.errors import GraphThetaError

__all__ = ["flip_bits", "one_line"]


def one_line(function: Callable[[], object]) -> str | None:
    """Return the message of a function's error, which has one line, or None if there is none."""
    try:
        function()
    except GraphThetaError as error:
        message = str(error)
        assert message
        assert "\n" not in message
        assert len(message) < 1000
        return message
    return None


def flip_bits(
    files: Iterable[Path],
    flips: int,
    read: Callable[[], bytes],
    verify: Callable[[], object] | None = None,
    *,
    seed: int = 0,
) -> Counter[str]:
    """Flip one bit of one file at a time, and return how often each outcome came.

    Outcomes are `refused` (an error of one line), `same` (the same content was read), `verified`
    (changed content was read and `verify` raises an error of one line) and `silent: FILE`.

    Args:
        files: Files to choose from, each equally often.
        flips: Number of flips.
        read: Reads everything, and returns it as bytes.
        verify: Checks the content of all files.
        seed: Random seed of the files, bytes and bits.
    """
    files = sorted(files)
    expected = read()
    assert verify is None or one_line(verify) is None
    random = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    for number in range(flips):
        file = files[number % len(files)]
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
        file.write_bytes(damaged)
        found: list[bytes] = []
        try:
            if one_line(lambda found=found: found.append(read())) is not None:
                outcomes["refused"] += 1
            elif found == [expected]:
                outcomes["same"] += 1
            elif verify is not None and one_line(verify) is not None:
                outcomes["verified"] += 1
            else:
                outcomes[f"silent: {file.name}"] += 1
        finally:
            file.write_bytes(content)
    return outcomes
