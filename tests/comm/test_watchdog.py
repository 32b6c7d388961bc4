from __future__ import annotations

from graphtheta.comm.watchdog import describe_waits


def test_describe_waits_groups_ranks_by_stage() -> None:
    said = describe_waits(
        {2: "'merge' for rank 3", 0: "'sync'", 1: "'sync'"}, [4, 3], "did not arrive"
    )
    assert said == (
        "ranks 0, 1 wait in 'sync'; rank 2 waits in 'merge' for rank 3; ranks 3, 4 did not arrive"
    )


def test_describe_waits_stays_short_with_many_ranks() -> None:
    said = describe_waits(dict.fromkeys(range(1000), "'sync'"), [1000], "did not arrive")
    assert said == (
        "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 992 more wait in 'sync'; rank 1000 did not arrive"
    )
