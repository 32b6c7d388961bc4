"""The ledger makes the same versions whatever groups do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphtheta.errors import ConfigError
from graphtheta.train.elastic.ledger import Ledger, Work

STEPS, LEASE_S = 6, 10.0
Versions = list[tuple[object, ...]]


def result(versions: Versions, work: Work) -> tuple[object, ...]:
    """Return what a group computes: it depends on the work and its version only."""
    return hash(versions[work.version]), work.step, work.index


def evaluation_is_due(version: int) -> bool:
    return version % 2 == 0


def commit_all(ledger: Ledger[tuple[object, ...]], versions: Versions) -> None:
    while (results := ledger.complete()) is not None:
        ledger.commit()
        versions.append((versions[-1], *results))
        if evaluation_is_due(ledger.version):
            ledger.evaluate(ledger.version)


def undisturbed(micro_batches: int, delay: int) -> Versions:
    ledger: Ledger[tuple[object, ...]] = Ledger(micro_batches, delay, LEASE_S, limit=STEPS)
    versions: Versions = [()]
    while (work := ledger.lease("one", 0.0)) is not None:
        if work.is_evaluation:
            ledger.evaluated("one", work.version)
        else:
            ledger.push("one", work, result(versions, work))
        commit_all(ledger, versions)
    return versions


GROUPS = 3
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["lease", "push", "push again", "die", "leave", "wait", "restart"]),
        st.integers(0, GROUPS - 1),
        st.floats(0, 2 * LEASE_S),
    ),
    max_size=60,
)


@given(EVENTS, st.integers(1, 3), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_versions_are_the_same_whatever_groups_do(
    events: list[tuple[str, int, float]], micro_batches: int, delay: int
) -> None:
    ledger: Ledger[tuple[object, ...]] = Ledger(micro_batches, delay, LEASE_S, limit=STEPS)
    versions: Versions = [()]
    snapshot = 0
    held: dict[int, list[Work]] = {group: [] for group in range(GROUPS)}
    pushed: list[tuple[str, Work]] = []
    now = 0.0

    def push(name: str, work: Work) -> None:
        if work.version > ledger.version and not work.is_evaluation:
            assert ledger.check(work) != "counted"  # a restarted service does not have it yet
        elif work.is_evaluation:
            ledger.evaluated(name, work.version)
        else:
            ledger.push(name, work, result(versions, work))
        pushed.append((name, work))
        commit_all(ledger, versions)

    for event, group, seconds in events + [("finish", 0, 0.0)] * 100:
        name = f"group {group}"
        if event == "lease" and (work := ledger.lease(name, now)) is not None:
            assert work.version in ledger.needed_versions()
            held[group].append(work)
        elif event == "push" and held[group]:
            push(name, held[group].pop(int(seconds) % len(held[group])))
        elif event == "push again" and pushed:
            push(*pushed[int(seconds) % len(pushed)])
        elif event == "die":
            held[group].clear()
        elif event == "leave":
            ledger.release(name)
        elif event == "wait":
            now += seconds
            snapshot = ledger.version if seconds > LEASE_S else snapshot
        elif event == "restart":
            ledger = Ledger(micro_batches, delay, LEASE_S, version=snapshot, limit=STEPS)
            del versions[snapshot + 1 :]
        elif event == "finish":
            now += LEASE_S
            if (work := ledger.lease("last", now)) is not None:
                push("last", work)
    assert not ledger.has_work()
    assert versions == undisturbed(micro_batches, delay)


def test_a_lease_that_ran_out_goes_to_another_group_and_both_results_count_once() -> None:
    ledger: Ledger[str] = Ledger(1, 0, LEASE_S, limit=2)
    work = ledger.lease("slow", 0.0)
    assert work == Work(0, 0, 0)
    assert ledger.lease("slow", 5.0) == work  # has lost the answer
    assert ledger.lease("fast", 14.0) is None
    assert ledger.next_expiry() == 15.0
    assert ledger.lease("fast", 15.0) == work
    assert ledger.lost == 1
    assert ledger.push("slow", work, "slow") == "counted"  # late, but the first
    assert ledger.push("fast", work, "fast") == "repeated"
    assert ledger.complete() == ["slow"]
    ledger.commit()
    assert ledger.push("fast", work, "fast") == "repeated"
    assert ledger.push("fast", Work(1, 0, 1), "early but open") == "counted"
    assert ledger.push("fast", Work(2, 0, 2), "beyond the end") == "not open"
    assert ledger.computed == {"slow": 1, "fast": 1}


@pytest.mark.parametrize("wrong", [Work(3, 0, 3), Work(3, 2, 1), Work(3, -1, 1), Work(0, 0, 1)])
def test_work_that_no_state_has_is_refused(wrong: Work) -> None:
    ledger: Ledger[str] = Ledger(2, 2, LEASE_S, limit=9)
    with pytest.raises(ConfigError, match="push: expected micro-batch 0 to 1"):
        ledger.push("group", wrong, "")


def test_delay_opens_steps_and_keeps_their_versions() -> None:
    ledger: Ledger[str] = Ledger(1, 2, LEASE_S, first=5, version=5, limit=20)
    work = [ledger.lease(f"group {n}", 0.0) for n in range(4)]
    assert work == [Work(5, 0, 5), Work(6, 0, 5), Work(7, 0, 5), None]
    for done in work[:3]:
        assert done is not None
        ledger.push("group", done, "")
    for _ in range(3):
        assert ledger.complete()
        ledger.commit()
    assert ledger.version == 8
    assert ledger.needed_versions() == {6, 7, 8}
    ledger.evaluate(3)
    assert ledger.needed_versions() == {3, 6, 7, 8}
    assert ledger.lease("group", 0.0) == Work.evaluation(3)
    assert ledger.staleness == {0: 1, 1: 1, 2: 1}
