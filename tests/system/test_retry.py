"""Retries end when their policy says so, and only what may go well later is tried again."""

from __future__ import annotations

import time

import pytest

from dbt_bridge.errors import BridgeError, ConnectionFailed, OriginError
from dbt_bridge.system.retry import CONFLICT, DLT_SCHEMA, SLOT, STREAM, RetryPolicy, is_transient, retry


class Failing:
    """Work that fails so often, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.calls = 0
        self._failures = failures
        self._error = error

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return "done"


AWAY = ConnectionFailed("the server is away")
AT_ONCE = RetryPolicy(0.0, 0.0, attempts=3)


def test_work_is_done_again_until_it_succeeds() -> None:
    work = Failing(2, AWAY)
    assert (retry(work, AT_ONCE), work.calls) == ("done", 3)


def test_after_the_last_attempt_its_error_is_raised() -> None:
    work = Failing(3, AWAY)
    with pytest.raises(ConnectionFailed, match="away"):
        retry(work, AT_ONCE)
    assert work.calls == 3


def test_what_no_other_try_helps_is_raised_at_once() -> None:
    work = Failing(1, OriginError("permission denied"))
    with pytest.raises(OriginError):
        retry(work, AT_ONCE)
    assert work.calls == 1


def test_a_policy_of_seconds_gives_up_after_them() -> None:
    work, began = Failing(10_000, AWAY), time.monotonic()
    with pytest.raises(ConnectionFailed):
        retry(work, RetryPolicy(0.001, 0.001, seconds=0.05))
    assert time.monotonic() - began >= 0.05
    assert work.calls > 1


def test_pauses_grow_to_the_longest_and_stay_there() -> None:
    assert [STREAM.pause_after(failures) for failures in (1, 2, 3, 6, 7, 10_000)] == [1, 2, 4, 32, 60, 60]
    assert [SLOT.pause_after(failures) for failures in (1, 2, 50)] == [0.1, 0.1, 0.1]
    assert [DLT_SCHEMA.pause_after(failures) for failures in (1, 5, 6)] == [0.1, 1.6, 1.6]


def test_jitter_keeps_a_pause_within_its_shares() -> None:
    for policy, least, most in ((STREAM, 7.5, 12.5), (CONFLICT, 0.0, 10.0), (SLOT, 10.0, 10.0)):
        assert all(least <= policy.add_jitter(10.0) <= most for _ in range(200))


@pytest.mark.parametrize(
    ("error", "is_worth"),
    [
        (AWAY, True),
        (OriginError("the server is shutting down", broke_off=True), True),
        (OriginError("no such table"), False),
        (BridgeError("anything"), False),
        (OSError("a mistake of ours"), False),
    ],
)
def test_only_servers_that_are_away_are_worth_another_try(error: Exception, is_worth: bool) -> None:
    assert is_transient(error) is is_worth
