"""The times that versions of a history have: those of their commits, but never going back.

A clock that is set back (by NTP, or by a failover to another host) would let versions end before they begin, and
several versions of a row be true at one moment. While the clock of the origin lies behind what histories have seen,
commits have the last time before that: versions in between are true for no moment, and one is for each.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dbt_bridge.nouns.changes import Changes, Event, Truncated
from dbt_bridge.nouns.checkpoint import HistoryClock

_SLACK = 1_000_000
"""Microseconds. Transactions that commit side by side take their times a little before they take their places in the
log; that is no clock that went back."""


def keep_ascending(clock: HistoryClock, event: Event) -> tuple[HistoryClock, Event]:
    """An event of a table with a history, and where the clock stands after it."""
    if isinstance(event, Truncated):
        clock, at = keep_moment_ascending(clock, event.committed_at)
        return clock, replace(event, committed_at=at)
    if isinstance(event, Changes):
        clock, times = correct_times(clock, event.committed_at)
        return clock, event if times is event.committed_at else replace(event, committed_at=times)
    return clock, event


def keep_moment_ascending(clock: HistoryClock, moment: int) -> tuple[HistoryClock, int]:
    clock, times = correct_times(clock, np.array([moment], np.int64))
    return clock, int(times[0])


def correct_times(clock: HistoryClock, times: np.ndarray) -> tuple[HistoryClock, np.ndarray]:
    """The times of commits in the order of the log, and where the clock stands after them.

    Args:
        times: int64: microseconds since 1970.
    """
    if not len(times):
        return clock, times
    latest = np.maximum.accumulate(np.concatenate(([clock.latest], times)))
    before, behind = latest[:-1], times < latest[:-1]
    went_back = times < before - _SLACK
    if not (clock.is_behind or went_back.any()):
        return HistoryClock(int(latest[-1])), times
    # From where it went back until it has caught up, every commit that is behind has the last time.
    place = np.arange(1, len(times) + 1)
    last_step = np.maximum.accumulate(np.where(went_back, place, 0))
    last_even = np.maximum.accumulate(np.where(behind, 0, place))
    is_held = behind & (last_step > last_even)
    if clock.is_behind:  # since before these
        is_held |= behind & (last_even == 0)
    corrected = np.where(is_held, before, times)
    return HistoryClock(int(latest[-1]), bool(is_held[-1])), corrected


def keep_each_ascending(times: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Times that never go back within one code; both are ordered by code."""
    falls = np.flatnonzero((codes[1:] == codes[:-1]) & (times[1:] < times[:-1]))
    if len(falls):
        times = times.copy()
    for code in np.unique(codes[falls]).tolist():
        of = slice(*np.searchsorted(codes, [code, code + 1]).tolist())
        times[of] = np.maximum.accumulate(times[of])
    return times
