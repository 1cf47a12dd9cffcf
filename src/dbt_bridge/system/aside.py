"""Work that a driver does in C is done in a thread of its own, so that whoever waits for it stays awake.

A thread that waits inside a driver hears neither Ctrl-C nor that its server is long gone.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")
_LOOK = 0.2  # seconds


class _Answer(Generic[_T]):
    """What a piece of work will have answered or raised."""

    def __init__(self, work: Callable[[], _T]) -> None:
        self.ended = threading.Event()
        self._work = work
        self._value: _T
        self._error: BaseException | None = None

    def make(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # raised where it is waited for
            self._error = error
        finally:
            self.ended.set()

    def wait(self, look: Callable[[], None]) -> _T:
        while not self.ended.wait(_LOOK):
            look()
        if self._error is not None:
            raise self._error
        return self._value


class Aside:
    """One thread, which does one piece of work after the other; a context manager.

    One that never ends is left behind: the thread is a daemon.

    Args:
        look: called a few times per second while the work is waited for; what it raises ends the waiting.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._todo: queue.SimpleQueue[_Answer[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._last: _Answer[Any] | None = None

    def __enter__(self) -> Aside:
        return self

    def __exit__(self, *_: object) -> None:
        self._todo.put(None)

    @property
    def is_busy(self) -> bool:
        """Whether the last piece of work goes on, as nobody waited for its end."""
        return self._last is not None and not self._last.ended.is_set()

    def call(self, work: Callable[[], _T]) -> _T:
        """What the work answers, or raises."""
        if self._thread is None:
            run = partial(copy_context().run, self._run)  # with the patience of whoever waits
            self._thread = threading.Thread(target=run, name="dbt-bridge-aside", daemon=True)
            self._thread.start()
        answer = _Answer(work)
        self._last = answer
        self._todo.put(answer)
        return answer.wait(self._look)

    def iterate(self, items: Generator[_T, None, None]) -> Generator[_T, None, None]:
        """The items of a generator, each made in the thread; it is closed with this one."""
        end = object()
        try:
            while (item := self.call(lambda: next(items, end))) is not end:
                yield item  # type: ignore[misc]
        finally:
            if not self.is_busy:
                items.close()

    def _run(self) -> None:
        while (answer := self._todo.get()) is not None:
            answer.make()
