"""Times of a history never go back, and are those of the commits wherever the clock did not."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.nouns.checkpoint import HistoryClock
from dbt_bridge.replicate.history_time import correct_times

SECOND = 1_000_000
moments = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 20 * SECOND)), max_size=12)


def plainly(clock: HistoryClock, times: list[int]) -> tuple[HistoryClock, list[int]]:
    latest, is_behind, corrected = clock.latest, clock.is_behind, []
    for time in times:
        is_behind = time < latest and (is_behind or time < latest - SECOND)
        corrected.append(latest if is_behind else time)
        latest = max(latest, time)
    return HistoryClock(latest, is_behind), corrected


@given(moments, moments)
def test_commits_that_lie_behind_a_step_have_the_time_before_it(first: list[int], second: list[int]) -> None:
    clock, expected = HistoryClock(5, is_behind=False), HistoryClock(5, is_behind=False)
    for times in (first, second):
        clock, corrected = correct_times(clock, np.array(times, np.int64))
        expected, plain = plainly(expected, times)
        assert corrected.tolist() == plain
        assert clock == expected


def test_times_of_commits_side_by_side_stay_as_they_are() -> None:
    times = np.array([10 * SECOND, 10 * SECOND - 5, 10 * SECOND + 1, 10 * SECOND - 900_000], np.int64)
    assert correct_times(HistoryClock(10 * SECOND + 3), times)[1] is times
