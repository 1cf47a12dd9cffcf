"""Both sides are read at once, and neither goes on when the other has failed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, TypeVar

from dbt_bridge.errors import is_interruption
from dbt_bridge.nouns.both import Both

T = TypeVar("T")
_PATIENCE = 0.1  # seconds in which a side may end by itself


def run_side_by_side(sides: Both[Callable[[Event], T]], cancel: Callable[[], None] = lambda: None) -> Both[T]:
    """Call both: the origin's in this thread, the destination's in another.

    Args:
        sides: each ends soon once its event is set: the other one failed, or the user interrupted.
        cancel: ends what the destination waits for, when the user interrupted: signals come to this thread alone.
    """
    stop = Event()

    def run(side: Callable[[Event], T]) -> T:
        try:
            return side(stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="verify") as pool:
        destination = pool.submit(run, sides.destination)
        try:
            return Both(run(sides.origin), destination.result())
        except BaseException as error:  # also while only the destination is still read
            stop.set()
            if is_interruption(error) or not isinstance(error, Exception):
                _cancel_until_done(destination, cancel)
            raise


def _cancel_until_done(future: Future[Any], cancel: Callable[[], None]) -> None:
    """Again and again: between two queries there is nothing to cancel yet."""
    while not wait([future], _PATIENCE).done:
        cancel()
