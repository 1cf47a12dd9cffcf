"""A server that works is waited for, one that can no longer be heard is not.

TCP's keepalives are answered by the kernel at the other end: of a proxy or a pooler whose own other side is gone, or of
a host whose process hangs. So where a connection waits and no byte comes, another one asks the server what it does for
the first one. It may compute, or wait for a lock or a disk, for hours. Where it waits for us while we wait for it, it
will do so for ever: something between was lost.
"""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keepalives:
    """How long a silent server is waited for, in seconds.

    Attributes:
        idle: without a byte, after which the server is asked.
        interval: between two questions where the answer was a bad one.
        count: of such pauses, after which the server counts as gone.
    """

    idle: float = 30.0
    interval: float = 10.0
    count: int = 3

    @property
    def bound(self) -> float:
        return self.idle + self.interval * self.count


class Said(enum.Enum):
    """What a look at the server found: each is the end of a sentence, too."""

    WORKS = "and it works"  # or it lets nobody in just now, which tells nothing
    WAITS_FOR_US = "while the server has answered or waits for us: the network between lost something"
    UNKNOWN = "though the server answers others: the network between lost something"
    NOTHING = "and the server does not answer another connection either"


class Watch(ABC):
    """Over one connection, for one that waits for it.

    Attributes:
        is_over: nothing more will come.
    """

    lost: type[Exception]
    """What is raised then."""

    def __init__(self, keepalives: Keepalives) -> None:
        self.is_over = False
        self._keepalives = keepalives
        self._since: float | None = None
        self._due = keepalives.idle
        self._doubts: float | None = None  # seconds of silence at the first bad answer after a good one
        self._suspects = False

    @abstractmethod
    def ask(self, *, ends: bool) -> Said:
        """What the server does for the connection, as another one hears.

        Args:
            ends: the connection is to be ended there where the server still waits for us: no lock or snapshot stays
                with it, and no COMMIT that is on its way is taken later.
        """

    @property
    def is_waiting(self) -> bool:
        return self._since is not None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Here a driver waits, which says nothing meanwhile; another thread calls `look_at_waiting`."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Here, within `waiting`, the driver has us do something."""
        self._since = None
        try:
            yield
        finally:
            self._since = time.monotonic()

    def look_at_waiting(self) -> None:
        """As `look`, by a thread beside the one that waits."""
        if (since := self._since) is not None:
            self.look(time.monotonic() - since)

    def look(self, silent: float) -> None:
        """Called now and then while the connection waits; raises `lost` when nothing more will come.

        Args:
            silent: seconds since the last byte.
        """
        known = self._keepalives
        if silent < known.idle:
            self._due, self._doubts, self._suspects = known.idle, None, False
        if silent < self._due:
            return
        said = self.ask(ends=self._suspects)
        if said is Said.WORKS:
            self._due, self._doubts, self._suspects = silent + known.idle, None, False
            return
        # After hours of work, too, one bad answer is none: what it worked on may be on its way just now.
        doubts = self._doubts = silent if self._doubts is None else self._doubts
        waits = said is Said.WAITS_FOR_US
        if silent - doubts >= known.interval * known.count or (waits and self._suspects):
            self.is_over = True
            raise self.lost(f"the connection is lost: no answer for {silent:.0f} s, {said.value}")
        self._suspects |= waits
        self._due = silent + known.interval
