"""Both sides are read at once, and neither goes on when the other has failed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any, TypeVar

from dbt_bridge.errors import is_interruption

T = TypeVar("T")
_PATIENCE = 0.1  # seconds in which a side may end by itself


def _nothing() -> None:
    return


def side_by_side(
    origin: Callable[[Event], T], destination: Callable[[Event], T], cancel: Callable[[], None] = _nothing
) -> tuple[T, T]:
    """What both answer: the origin is read in this thread, the destination in another.

    Args:
        origin, destination: end soon once their event is set: the other one failed, or the user interrupted.
        cancel: ends what the destination waits for, when the user interrupted: signals come to this thread alone.
    """
    stopped = Event()

    def answered(read: Callable[[Event], T]) -> T:
        try:
            return read(stopped)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="verify") as pool:
        other = pool.submit(answered, destination)
        try:
            return answered(origin), other.result()
        except BaseException as error:  # also while only the destination is still read
            stopped.set()
            if is_interruption(error) or not isinstance(error, Exception):
                _end(other, cancel)
            raise


def _end(other: Future[Any], cancel: Callable[[], None]) -> None:
    """Cancel until it has ended: between two queries there is nothing to cancel yet."""
    while not wait([other], _PATIENCE).done:
        cancel()
