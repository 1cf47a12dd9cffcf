"""Neither side goes on when the other has failed, and an interruption ends also what waits."""

from __future__ import annotations

from threading import Event

import pytest

from dbt_bridge.nouns.both import Both
from dbt_bridge.verify.rows.in_parallel import run_side_by_side


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), RuntimeError("Query interrupted")])  # DuckDB's own
def test_an_interruption_ends_what_the_other_thread_waits_for(interruption: BaseException) -> None:
    waits, lock = Event(), Event()

    def interrupted(_: Event) -> None:
        assert waits.wait(60)
        raise interruption

    def locked_out(_: Event) -> None:
        waits.set()
        if not lock.wait(60):
            raise TimeoutError("nobody ended it")

    with pytest.raises(type(interruption)):
        run_side_by_side(Both(interrupted, locked_out), lock.set)
    assert lock.is_set()


def test_a_failure_stops_the_other_side_and_cancels_nothing() -> None:
    """Other rows may be asked of it afterwards."""
    cancelled = Event()

    def fails(_: Event) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_side_by_side(Both(fails, lambda stopped: stopped.wait(60)), cancelled.set)
    assert not cancelled.is_set()
