"""How long a file or a table that somebody else holds is waited for, and who hears of it.

A warehouse's file may be held for a moment: by a query in a notebook, by dbt, by the run before; a table by a report
that somebody left open. A command waits a little before it fails. The patience belongs to the thread that opens:
threads that it starts have none of their own, but for one that works while it waits (`aside`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from dbt_bridge.errors import ConnectionFailed

_T = TypeVar("_T")
_P = ParamSpec("_P")
_S = TypeVar("_S", bound="HasPatience")

DEFAULT_SECONDS = 30.0
_PAUSE = 0.2
"""Seconds between two attempts."""


@dataclass(frozen=True, slots=True)
class LockWait:
    """The patience of a command.

    Attributes:
        seconds: at most; 0 to fail at once.
        tell: takes a sentence for a person, once for each file that is waited for.
    """

    seconds: float = 0.0
    tell: Callable[[str], None] = lambda _: None


_current: ContextVar[LockWait | None] = ContextVar("dbt_bridge_lock_wait", default=None)


def find_lock_wait(seconds: float = 0.0) -> LockWait:
    """The patience of this thread; so many seconds where nobody said."""
    return _current.get() or LockWait(seconds)


@contextmanager
def use_lock_wait(wait: LockWait) -> Iterator[None]:
    """Within the block, in this thread."""
    before = _current.set(wait)
    try:
        yield
    finally:
        _current.reset(before)


class HasPatience(Protocol):
    """Whatever waits as its user said."""

    @property
    def patience(self) -> LockWait: ...


def waits(method: Callable[Concatenate[_S, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    """A method in which the object's own patience is used, and no longer."""

    @wraps(method)
    def call(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        with use_lock_wait(self.patience):
            return method(self, *args, **kwargs)

    return call


def iterate_waiting(wait: LockWait, items: Iterator[_T]) -> Iterator[_T]:
    """The items, each made with this patience; between two of them their reader has its own."""
    end = object()
    while True:
        with use_lock_wait(wait):
            item = next(items, end)
        if item is end:
            return
        yield item  # type: ignore[misc]


def open_when_free(file: str | Path, connect: Callable[[], _T], name_holder: Callable[[Exception], str | None]) -> _T:
    """What `connect` answers, as soon as no other process holds the file.

    Args:
        file: for messages.
        connect: leaves nothing open where it fails.
        name_holder: of what it raised, the process that holds the file; None where the error is another one.

    Raises:
        ConnectionFailed: the file was held all the time that there was patience for; names the process.
        Exception: any other one of `connect`.
    """
    wait = find_lock_wait()
    began = time.monotonic()
    told = False
    while True:
        try:
            return connect()
        except Exception as error:
            holder = name_holder(error)
            if holder is None:
                raise
            if time.monotonic() - began >= wait.seconds:
                waited = f", also after {wait.seconds:g} seconds" if wait.seconds else ""
                raise ConnectionFailed(
                    f"the file {file} is in use: {holder} has it open{waited}",
                    mend="close that program, or wait longer for it: --lock-wait 10m",
                ) from error
        if not told:
            told = True
            wait.tell(f"waiting up to {wait.seconds:g} seconds for {file}, which {holder} has open")
        time.sleep(_PAUSE)
