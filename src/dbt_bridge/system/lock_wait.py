"""How long a file that another process holds is waited for, and who hears of it.

A warehouse's file may be held for a moment: by a query in a notebook, by dbt, by the run before. A command waits a
little before it fails. The patience belongs to the thread that opens: threads that it starts have none of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

DEFAULT_SECONDS = 30.0


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


def find_lock_wait() -> LockWait:
    """The patience of this thread; none where nobody said."""
    return _current.get() or LockWait()


def set_lock_wait(wait: LockWait) -> None:
    """From here on, in this thread."""
    _current.set(wait)
