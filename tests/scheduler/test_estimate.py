"""What a plan is expected to take: by the jobs of this machine's history, side by side on its slots."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from star.ledger.states import Taken
from star.scheduler.estimate import FAR, FLOPS_PER_SECOND, LIKE, STARTUP, History, stage_seconds, wall_time
from tests.helpers import tiny


def test_this_machines_jobs_count_before_others() -> None:
    others = [Taken("train", "far", 1e9, 1.0), Taken("score", "far", 1e9, 4.0)]
    history = History([Taken("train", "here", 1e9, 10.0), *others], "here")
    assert history.seconds("train", 2e9) == 20.0
    assert history.seconds("score", 1e9) == 4.0  # none was done here
    assert history.seconds("probe", 1e9) is None


def test_jobs_of_the_most_similar_size_count() -> None:
    small = [Taken("train", "here", 1e9 + i, 10.0) for i in range(5)]
    large = [Taken("train", "here", 100e9 + i, 500.0) for i in range(5)]
    history = History(small + large, "here")
    assert history.seconds("train", 1.2e9) == pytest.approx(12.0)
    assert history.seconds("train", 90e9) == pytest.approx(450.0)


def test_of_one_size_the_newest_count() -> None:
    newest = [Taken("train", "here", 1e9, 2.0)] * LIKE
    history = History([*newest, *[Taken("train", "here", 1e9, 10.0)] * 50, Taken("train", "here", 0.9e9, 70.0)], "here")
    assert history.seconds("train", 1e9) == pytest.approx(2.0)


@given(st.lists(st.floats(1.0, 1e20), min_size=1, max_size=30, unique=True), st.floats(1.0, 1e20))
def test_no_other_job_is_nearer_in_size(sizes: list[float], flops: float) -> None:
    history = History([Taken("train", "here", size, 1.0) for size in sizes], "here")
    nearest = sorted(sizes, key=lambda size: abs(math.log(size / flops)))[:LIKE]
    assume(len({abs(math.log(size / flops)) for size in sizes}) == len(sizes))  # of two equally near, either may count
    slow = 1e-300  # an assumed speed that says nothing: the measured one counts at any distance
    assert history.seconds("train", flops, slow) == pytest.approx(flops * len(nearest) / sum(nearest), rel=1e-6)


def test_a_tiny_job_does_not_say_how_long_a_large_one_takes() -> None:
    """Nearly all of its seconds are start-up."""
    history = History([Taken("train", "here", 1e8, 5.0)], "here")
    assert history.seconds("train", FAR * 1e8) == pytest.approx(FAR * 5.0)
    assert history.seconds("train", 7.6e12) == pytest.approx(5.0 + 7.6e12 / FLOPS_PER_SECOND, rel=0.01)
    fast = History([Taken("train", "here", 1e12, 1.0)], "here")
    assert fast.seconds("train", 1e15) == pytest.approx(1000.0), "a machine that was faster than assumed stays so"


def test_a_stage_whose_operations_nobody_knows_takes_what_it_took() -> None:
    history = History([Taken("own", "here", 0.0, 2.0), Taken("own", "here", 0.0, 4.0)], "here")
    assert history.seconds("own", 0.0) == 3.0
    assert history.seconds("own", 1e9) is None


def test_without_history_threads_and_processes_count() -> None:
    spec = tiny()
    plain = stage_seconds("train", spec, History(), FLOPS_PER_SECOND)
    assert plain == STARTUP + 1 / spec.resources.threads_of("train")
    known = History([Taken("train", None, 1e9, 7.0)])
    assert stage_seconds("train", spec, known, 1e9) == 7.0


@pytest.mark.parametrize(
    "seconds, slots, inputs, available, expected",
    [
        ([], [], [], 2, 0.0),
        ([3, 4, 5], [1, 1, 1], [[], [], []], 1, 12.0),
        ([3, 4, 5], [1, 1, 1], [[], [], []], 3, 5.0),
        ([3, 4, 5], [1, 1, 1], [[], [0], [1]], 3, 12.0),
        ([4, 4, 8], [1, 1, 1], [[], [], []], 2, 12.0),  # in their order: the long one comes last
        ([2, 5, 2], [1, 2, 1], [[], [], []], 2, 7.0),  # a narrow one goes ahead of a wide one that does not fit
        ([2, 2], [8, 1], [[], []], 2, 4.0),  # wider than the machine: it has all of it
    ],
)
def test_jobs_share_the_slots(
    seconds: list[float], slots: list[int], inputs: list[list[int]], available: int, expected: float
) -> None:
    assert wall_time(seconds, slots, inputs, available) == expected


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3), st.booleans()), max_size=12), st.integers(1, 4))
def test_no_less_than_the_work_and_the_longest_chain(jobs: list[tuple[int, int, bool]], available: int) -> None:
    seconds, slots = [float(one[0]) for one in jobs], [one[1] for one in jobs]
    inputs = [[i - 1] if i and one[2] else [] for i, one in enumerate(jobs)]
    found = wall_time(seconds, slots, inputs, available)
    work = sum(own * min(width, available) for own, width in zip(seconds, slots, strict=True))
    ends: list[float] = []
    for own, before in zip(seconds, inputs, strict=True):
        ends.append(own + max((ends[i] for i in before), default=0.0))
    assert max([work / available, *ends]) <= found <= sum(seconds)
