"""Work that is done in a thread of its own while somebody waits for it."""

from __future__ import annotations

import threading

import pytest

from dbt_bridge.system.aside import Aside
from dbt_bridge.system.lock_wait import LockWait, find_lock_wait, use_lock_wait


def test_it_has_the_patience_of_whoever_waits() -> None:
    patience = LockWait(7)
    with use_lock_wait(patience), Aside(lambda: None) as aside:
        assert aside.call(find_lock_wait) is patience
        assert list(aside.iterate(find_lock_wait() for _ in range(2))) == [patience, patience]


def test_what_it_raises_is_raised_where_it_is_waited_for() -> None:
    with Aside(lambda: None) as aside, pytest.raises(ZeroDivisionError):
        aside.call(lambda: 1 // 0)


def test_the_waiting_ends_before_the_work_where_the_look_says_so() -> None:
    release = threading.Event()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with Aside(interrupt) as aside:
        with pytest.raises(KeyboardInterrupt):
            aside.call(release.wait)
        assert aside.is_busy
        release.set()
