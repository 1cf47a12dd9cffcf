"""What a person, a program or a monitor sees while `stream` follows its sources.

A live line per source in a terminal, plain lines elsewhere, one JSON document per batch with `--json`.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol, TypeGuard

from dbt_bridge.nouns.position import Position
from dbt_bridge.nouns.quantities import format_bytes
from dbt_bridge.observe.progress import (
    Lines,
    Live,
    Progress,
    Silent,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live as RichLive
    from rich.table import Table

    from dbt_bridge.nouns.receipt import Receipt

_SECONDS_OF_RATE = 10.0
_SECONDS_BETWEEN_LINES = 10.0
_PAUSED = "paused: another process verifies or repairs the landing; the stream goes on after it"


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit at the destination brought.

    Attributes:
        source: dbt's name of the source.
        changes: inserts, updates, deletes and truncates of the origin.
        from_lsn, to_lsn: where the tables stood before, and stand now.
        lag_seconds: from the last transaction's commit, by the origin's clock, to the batch's; None where the batch
            holds no transaction.
        lag_bytes: log that the origin has sent beyond `to_lsn`; None where it was not asked.
        seconds: from the first change's arrival to the commit.
        tables: unique_ids of the source tables that changed.
    """

    source: str
    changes: int
    from_lsn: Position
    to_lsn: Position
    lag_seconds: float | None
    lag_bytes: int | None
    seconds: float
    tables: frozenset[str] = frozenset()

    def as_json(self) -> dict[str, object]:
        return {
            "source": self.source,
            "changes": self.changes,
            "from_lsn": str(self.from_lsn),
            "to_lsn": str(self.to_lsn),
            "lag_seconds": self.lag_seconds,
            "lag_bytes": self.lag_bytes,
            "seconds": self.seconds,
            "tables": sorted(self.tables),
        }


class Watch(Progress, Protocol):
    """What a stream tells about itself, beside the progress of its initial copies."""

    def caught_up(self, source: str, at: Position) -> None:
        """Everything below this position is at the destination, and the origin has nothing more for now."""

    def batch(self, batch: Batch) -> None:
        """Changes are visible at the destination."""

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        """The origin or the destination broke off; it is tried again in so many seconds."""

    def paused(self, source: str) -> None:
        """Another process compares or repairs the landing, which is let go of for so long."""

    def aside(self) -> AbstractContextManager[None]:
        """Something else prints to the terminal meanwhile."""


class Watcher(Watch, Protocol):
    """A Watch that holds a terminal or a port while it is open."""

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


@dataclass
class _Rate:
    """Events per second over the last seconds."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, changes: int) -> None:
        self.seen.append((time.monotonic(), changes))

    def per_second(self) -> float:
        now = time.monotonic()
        while self.seen and now - self.seen[0][0] > _SECONDS_OF_RATE:
            self.seen.popleft()
        return sum(changes for _, changes in self.seen) / _SECONDS_OF_RATE


class WatchLines(Lines):
    """Plain lines: a source's first batch, then what came since, every few seconds."""

    def finished(self, receipt: Receipt) -> None:
        if not _has_batch(receipt):
            super().finished(receipt)

    def __init__(self, out: IO[str] | Callable[[str], None], seconds_between: float = _SECONDS_BETWEEN_LINES) -> None:
        super().__init__(out)
        self._pause = seconds_between
        self._spoke: dict[str, float] = {}
        self._untold: dict[str, tuple[Batch, int]] = {}

    def caught_up(self, source: str, at: Position) -> None:
        with self._lock:
            self._tell(source)
            if source not in self._spoke:
                self._spoke[source] = time.monotonic() - self._pause
                self._say(f"{source}: caught up at {at}")

    def batch(self, batch: Batch) -> None:
        with self._lock:
            _, before = self._untold.get(batch.source, (batch, 0))
            self._untold[batch.source] = (batch, before + batch.changes)
            if time.monotonic() - self._spoke.get(batch.source, float("-inf")) >= self._pause:
                self._tell(batch.source)

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        with self._lock:
            self._tell(source)
            self._say(_format_retry(source, error, pause))

    def paused(self, source: str) -> None:
        with self._lock:
            self._tell(source)
            self._say(f"{source}: {_PAUSED}")

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _tell(self, source: str) -> None:
        if (untold := self._untold.pop(source, None)) is not None:
            last, changes = untold
            self._spoke[source] = time.monotonic()
            self._say(f"{source}: {changes:,} changes, {_format_state(last)}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for source in list(self._untold):
                self._tell(source)


@dataclass
class _Followed:
    """One source's line."""

    rate: _Rate = field(default_factory=_Rate)
    changes: int = 0
    last: Batch | None = None
    at: Position | None = None
    state: str = "starting"


class WatchLive(Live):
    """A live line per source. It makes room while tables are copied and while dbt prints."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._sources: dict[str, _Followed] = {}
        self._lines: RichLive | None = None

    def started(self, node: str, table: str, rows_estimate: int | None = None) -> None:
        with self._lock:
            self._take_down()
            super().started(node, table, rows_estimate)

    def finished(self, receipt: Receipt) -> None:
        if not _has_batch(receipt):
            super().finished(receipt)

    def caught_up(self, source: str, at: Position) -> None:
        with self._lock:
            followed = self._of(source)
            followed.at, followed.state = at, "caught up"
            self._put_up()

    def batch(self, batch: Batch) -> None:
        with self._lock:
            followed = self._of(batch.source)
            followed.rate.add(batch.changes)
            followed.changes += batch.changes
            followed.last, followed.at, followed.state = batch, batch.to_lsn, "following"
            self._put_up()

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        with self._lock:
            self._of(source).state = "broken off"
            self._print(_format_retry(source, error, pause), "yellow")

    def paused(self, source: str) -> None:
        with self._lock:
            self._of(source).state = "paused"
            self._print(f"{source}: {_PAUSED}", "yellow")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the terminal to somebody else."""
        with self._lock:
            self._take_down()
        yield
        with self._lock:
            self._put_up()

    def _of(self, source: str) -> _Followed:
        return self._sources.setdefault(source, _Followed())

    def _put_up(self) -> None:
        from rich.live import Live as RichLive

        if self._lines is None and self._display is None:
            self._lines = RichLive(get_renderable=self._table, console=self._console, refresh_per_second=2)
            self._lines.start()

    def _take_down(self) -> None:
        if self._lines is not None:
            self._lines.stop()
            self._lines = None

    def _table(self) -> Table:
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        with self._lock:
            for name, followed in self._sources.items():
                batch = followed.last
                table.add_row(
                    name,
                    followed.state,
                    f"{followed.rate.per_second():,.0f} events/s",
                    f"{followed.changes:,} in all",
                    _format_lag(batch) if batch else "",
                    "" if followed.at is None else f"at {followed.at}",
                )
        return table

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._take_down()
        super().__exit__(kind, error, trace)


class WatchSilent(Silent):
    """Says nothing (`--quiet`)."""

    def caught_up(self, source: str, at: Position) -> None:
        return

    def batch(self, batch: Batch) -> None:
        return

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        return

    def paused(self, source: str) -> None:
        return

    def aside(self) -> AbstractContextManager[None]:
        return nullcontext()


class BatchCount(WatchSilent):
    """How many batches and changes there were."""

    def __init__(self) -> None:
        self.batches = 0
        self.changes = 0
        self._lock = threading.Lock()

    def batch(self, batch: Batch) -> None:
        with self._lock:
            self.batches += 1
            self.changes += batch.changes


class WatchJson(WatchSilent):
    """One JSON document per batch, each on a line of its own."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._lock = threading.Lock()

    def batch(self, batch: Batch) -> None:
        with self._lock:
            print(json.dumps(batch.as_json(), ensure_ascii=False), file=self._out, flush=True)


class Watches(AbstractContextManager["Watches"]):
    """Several watches that hear the same."""

    def __init__(self, watches: Sequence[Watch]) -> None:
        self._watches = watches
        self._stack = ExitStack()

    def __enter__(self) -> Watches:
        for watch in self._watches:
            if isinstance(watch, AbstractContextManager):  # it holds a terminal or a port
                self._stack.enter_context(watch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def started(self, node: str, table: str, rows_estimate: int | None = None) -> None:
        for watch in self._watches:
            watch.started(node, table, rows_estimate)

    def advanced(self, node: str, rows: int, bytes: int) -> None:
        for watch in self._watches:
            watch.advanced(node, rows, bytes)

    def finished(self, receipt: Receipt) -> None:
        for watch in self._watches:
            watch.finished(receipt)

    def compared(self, node: str, said: str, *, ok: bool) -> None:
        for watch in self._watches:
            watch.compared(node, said, ok=ok)

    def message(self, text: str) -> None:
        for watch in self._watches:
            watch.message(text)

    def caught_up(self, source: str, at: Position) -> None:
        for watch in self._watches:
            watch.caught_up(source, at)

    def batch(self, batch: Batch) -> None:
        for watch in self._watches:
            watch.batch(batch)

    def retrying(self, source: str, error: BaseException, pause: float) -> None:
        for watch in self._watches:
            watch.retrying(source, error, pause)

    def paused(self, source: str) -> None:
        for watch in self._watches:
            watch.paused(source)

    @contextmanager
    def aside(self) -> Iterator[None]:
        with ExitStack() as stack:
            for watch in self._watches:
                stack.enter_context(watch.aside())
            yield


def as_watch(progress: Progress | Watch | Callable[[str], None] | None) -> Watch:
    """What a caller gave to hear of a stream: None for silence, what takes each line of text, or a Watch.

    A Progress that is no Watch hears lines, as its `message`.
    """
    if progress is None:
        return WatchSilent()
    if callable(progress):
        return WatchLines(progress)
    return progress if _is_watch(progress) else WatchLines(progress.message)


def _is_watch(progress: Progress | Watch) -> TypeGuard[Watch]:
    return hasattr(progress, "batch")


def make_watcher(out: IO[str], *, silent: bool = False) -> WatchSilent | WatchLines | WatchLive:
    """The right watch for a person at `out`."""
    if silent:
        return WatchSilent()
    if not out.isatty():
        return WatchLines(out)
    from rich.console import Console

    return WatchLive(Console(file=out))


def _has_batch(receipt: Receipt) -> bool:
    return receipt.hop == "cdc" and receipt.status == "success"


def _format_state(batch: Batch) -> str:
    return f"{_format_lag(batch)}, at {batch.to_lsn}"


def _format_lag(batch: Batch) -> str:
    seconds = "unknown" if batch.lag_seconds is None else f"{batch.lag_seconds:.1f} s"
    return f"lag {seconds}" + ("" if batch.lag_bytes is None else f", {format_bytes(batch.lag_bytes)}")


def _format_retry(source: str, error: BaseException, pause: float) -> str:
    return f"{source}: {error}\n{source}: trying again in {pause:.0f} s"
