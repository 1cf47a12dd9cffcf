"""Both sides are read at once, and neither goes on when the other has failed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

T = TypeVar("T")


def side_by_side(origin: Callable[[Event], T], destination: Callable[[Event], T]) -> tuple[T, T]:
    """What both answer: the origin is read in this thread, the destination in another.

    Args:
        origin, destination: end soon once their event is set: the other one failed, or the user interrupted.
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
        except BaseException:  # an interruption while only the destination is still read
            stopped.set()
            raise
