"""How long a run goes on: from the first read of the log on, and for one batch at least."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection

from dbt_bridge.nouns.position import Position
from dbt_bridge.observe.stream_progress import Batch, WatchSilent


class TimeBound:
    """The time of one catch-up. It begins when it is first asked about, as the log is read from then on.

    What ended before anything was read would be no success: one batch comes, however long that takes.

    Args:
        seconds: None for no bound.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end: float | None = None
        self._has_brought = False

    def brought(self) -> None:
        """A batch is visible at the destination."""
        self._has_brought = True

    def is_over(self) -> bool:
        if self._seconds is None:
            return False
        if self._end is None:
            self._end = time.monotonic() + self._seconds
        return self._has_brought and time.monotonic() >= self._end


class StopAfter(WatchSilent):
    """Stops a stream some seconds after each source has brought or seen all there is, or one of them could not.

    Args:
        names: of the sources.
    """

    def __init__(self, names: Collection[str], seconds: float, stop: threading.Event) -> None:
        super().__init__()
        self._unread = set(names)
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, stop.set)
        self._timer.daemon = True

    def caught_up(self, source: str, at: Position) -> None:
        self._hear({source})

    def batch(self, batch: Batch) -> None:
        self._hear({batch.source})

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        self._hear(self._unread)

    def paused(self, source: str) -> None:
        self._hear(self._unread)

    def _hear(self, sources: Collection[str]) -> None:
        with self._lock:
            was_unread = bool(self._unread)
            self._unread = self._unread.difference(sources)
            if was_unread and not self._unread:
                self._timer.start()
