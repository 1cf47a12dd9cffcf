"""What a person sees while rows move: a live line per table in a terminal, plain lines elsewhere, then a table.

Everything is written to standard error but the final table, so that standard output stays a result. The methods may
be called from several threads.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import IO, TYPE_CHECKING, Protocol

from dbt_bridge.nouns.quantities import format_bytes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID
    from rich.table import Table
    from rich.text import Text

    from dbt_bridge.nouns.receipt import Receipt

_SECONDS_BETWEEN_LINES = 5.0


class Progress(Protocol):
    """What a run tells about itself."""

    def started(self, node: str, table: str, rows_estimate: int | None = None) -> None:
        """A table begins to move; `rows_estimate` is the catalog's, not a count."""

    def advanced(self, node: str, rows: int, bytes: int) -> None:
        """So many MORE rows and bytes have come through since the last call."""

    def finished(self, receipt: Receipt) -> None:
        """The table's hop ended, well or not; also for a node that never started (skipped)."""

    def compared(self, node: str, said: str, *, ok: bool) -> None:
        """A table's comparison ended, and this is what it found, in one line."""

    def message(self, text: str) -> None:
        """One line for a person."""


class Reporter(Progress, AbstractContextManager["Reporter"], Protocol):
    """A Progress that holds a terminal while it is open."""


class Silent(AbstractContextManager["Silent"]):
    """Says nothing (`--json`, `--quiet`)."""

    def started(self, node: str, table: str, rows_estimate: int | None = None) -> None:
        return

    def advanced(self, node: str, rows: int, bytes: int) -> None:
        return

    def finished(self, receipt: Receipt) -> None:
        return

    def compared(self, node: str, said: str, *, ok: bool) -> None:
        return

    def message(self, text: str) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


@dataclass
class _Moving:
    table: str
    estimate: int | None
    began: float = field(default_factory=time.monotonic)
    spoke: float = field(default_factory=time.monotonic)
    rows: int = 0
    bytes: int = 0


class Lines(AbstractContextManager["Lines"]):
    """Plain lines: one when a table starts, one every few seconds, one when it ends.

    Args:
        out: a file, or what takes each line (`logger.info`).
    """

    def __init__(self, out: IO[str] | Callable[[str], None], seconds_between: float = _SECONDS_BETWEEN_LINES) -> None:
        self._say: Callable[[str], None] = out if callable(out) else partial(print, file=out, flush=True)
        self._between = seconds_between
        self._lock = threading.Lock()
        self._moving: dict[str, _Moving] = {}

    def started(self, node: str, table: str, rows_estimate: int | None = None) -> None:
        with self._lock:
            self._moving[node] = _Moving(table, rows_estimate)
            about = f" (about {rows_estimate:,} rows)" if rows_estimate else ""
            self._say(f"{table}: started{about}")

    def advanced(self, node: str, rows: int, bytes: int) -> None:
        with self._lock:
            moving = self._moving.get(node)
            if moving is None:
                return
            moving.rows += rows
            moving.bytes += bytes
            now = time.monotonic()
            if now - moving.spoke >= self._between:
                moving.spoke = now
                self._say(f"{moving.table}: {_format_progress(moving, now)}")

    def finished(self, receipt: Receipt) -> None:
        with self._lock:
            self._moving.pop(receipt.node, None)
            self._say(_format_receipt(receipt))

    def compared(self, node: str, said: str, *, ok: bool) -> None:
        with self._lock:
            self._moving.pop(node, None)
            self._say(said)

    def message(self, text: str) -> None:
        with self._lock:
            self._say(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return


class Live(AbstractContextManager["Live"]):
    """A live line per moving table. The display is up only while a table moves, so that dbt can print in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.RLock()
        self._display: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def started(self, node: str, table: str, rows_estimate: int | None = None) -> None:
        with self._lock:
            if self._display is None:
                self._display = _make_live_lines(self._console)
                self._display.start()
            self._tasks[node] = self._display.add_task(table, total=rows_estimate or None, bytes="0 B", rate="")

    def advanced(self, node: str, rows: int, bytes: int) -> None:
        with self._lock:
            if self._display is None or node not in self._tasks:
                return
            task = self._display.tasks[self._display.task_ids.index(self._tasks[node])]
            moved = task.fields.get("moved", 0) + bytes
            done = task.completed + rows
            # The catalog's estimate may be too low: a bar beyond its end says nothing, so it follows the rows.
            total = max(task.total, done) if task.total is not None else None
            rate = f"{done / task.elapsed:,.0f} rows/s" if task.elapsed else ""
            self._display.update(
                task.id, completed=done, total=total, moved=moved, bytes=format_bytes(moved), rate=rate
            )

    def finished(self, receipt: Receipt) -> None:
        with self._lock:
            style = {"success": "green", "failed": "red"}.get(receipt.status, "yellow")
            self._print(_format_receipt(receipt), style)
            self._take_out(receipt.node)

    def compared(self, node: str, said: str, *, ok: bool) -> None:
        with self._lock:
            self._print(said, "green" if ok else "red")
            self._take_out(node)

    def _take_out(self, node: str) -> None:
        task = self._tasks.pop(node, None)
        if self._display is not None and task is not None:
            self._display.remove_task(task)
        if not self._tasks:
            self._stop()

    def message(self, text: str) -> None:
        with self._lock:
            self._print(text, None)

    def _print(self, text: str, style: str | None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False)

    def _stop(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._tasks.clear()
            self._stop()


def as_progress(progress: Progress | Callable[[str], None] | None) -> Progress:
    """What a caller gave to hear of a run: None for silence, what takes each line of text, or a Progress."""
    if progress is None:
        return Silent()
    return Lines(progress) if callable(progress) else progress


def make_reporter(*, silent: bool = False, out: IO[str] | None = None) -> Reporter:
    """The right Progress for where `out` (standard error) goes."""
    out = out or sys.stderr
    if silent:
        return Silent()
    if not out.isatty():
        return Lines(out)
    from rich.console import Console

    return Live(Console(file=out))


_DISPENSABLE = ("disposition", "size", "hop", "seconds", "deleted", "updated", "inserted")  # narrow terminals lack some


def print_summary(receipts: Sequence[Receipt], out: IO[str] | None = None) -> None:
    """The table of all hops with totals, on standard output. No number is cut: a narrow terminal has fewer columns."""
    from rich.console import Console
    from rich.measure import Measurement

    if not receipts:
        return
    out = out or sys.stdout
    console = Console(file=out, width=None if out.isatty() else 140, highlight=False)
    for number in (0, 1, 2, 3, 4, 7):  # inserted, updated and deleted go together
        table = _make_summary(receipts, _DISPENSABLE[:number])
        if Measurement.get(console, console.options.update(max_width=10_000), table).minimum <= console.width:
            break
    console.print(table)
    for receipt in receipts:
        if receipt.note:
            console.print(f"{receipt.table_name}: {receipt.note}", markup=False, soft_wrap=True)
    for error, names in group_by_error((r.table_name, r.error) for r in receipts).items():
        console.print(f"{', '.join(names)}: {error}", markup=False, soft_wrap=True)
    for name, without in dict.fromkeys((r.table_name, r.without) for r in receipts if r.without):
        console.print(f"{name}: landed without {without}", markup=False, soft_wrap=True)


def group_by_error(tables: Iterable[tuple[str, str | None]]) -> dict[str, list[str]]:
    """The tables of each error, so that one that many tables share is told once."""
    errors: dict[str, list[str]] = {}
    for table, error in tables:
        if error:
            errors.setdefault(error, []).append(table)
    return errors


def _make_summary(receipts: Sequence[Receipt], less: Collection[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    # Hops run side by side, so the total is the time from the first start to the last end.
    wall = (max(r.finished_at for r in receipts) - min(r.started_at for r in receipts)).total_seconds()
    numbers = {"rows": "rows_loaded", "inserted": "rows_inserted", "updated": "rows_updated", "deleted": "rows_deleted"}
    counts = {heading: [getattr(r, of) for r in receipts] for heading, of in numbers.items()}
    status = {"success": "green", "failed": "red"}
    columns: dict[str, tuple[Sequence[str | Text], str]] = {
        "hop": ([r.hop for r in receipts], ""),
        "disposition": ([r.write_disposition for r in receipts], ""),
        **{heading: ([_format_count(n) for n in of], _format_total(of)) for heading, of in counts.items()},
        "size": (
            ["" if r.bytes is None else format_bytes(r.bytes) for r in receipts],
            format_bytes(sum(r.bytes or 0 for r in receipts)),
        ),
        "seconds": ([f"{r.duration_seconds:.1f}" for r in receipts], f"{wall:.1f}"),
        "status": (
            [Text(r.status, style=status.get(r.status, "yellow")) for r in receipts],
            _format_statuses(receipts),
        ),
    }
    told = {heading: column for heading, column in columns.items() if heading not in less}
    table = Table(show_footer=True, footer_style="bold")
    table.add_column("table", footer=f"{len(receipts)} in total", overflow="fold", min_width=12)
    for heading, (_, footer) in told.items():
        is_number = heading not in ("hop", "disposition", "status")
        table.add_column(heading, footer=footer, justify="right" if is_number else "left", no_wrap=heading != "status")
    for r, *cells in zip(receipts, *(cells for cells, _ in told.values()), strict=True):
        table.add_row(Text(r.table_name), *cells)
    return table


def _make_live_lines(console: Console) -> RichProgress:
    from rich import progress as rich_progress

    return rich_progress.Progress(
        rich_progress.SpinnerColumn(),
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(bar_width=20),
        rich_progress.TextColumn("{task.completed:,} rows"),
        rich_progress.TextColumn("{task.fields[rate]}"),
        rich_progress.TextColumn("{task.fields[bytes]}"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    )


def _format_progress(moving: _Moving, now: float) -> str:
    seconds = max(now - moving.began, 1e-6)
    rate = moving.rows / seconds
    text = f"{moving.rows:,} rows, {rate:,.0f} rows/s, {format_bytes(moving.bytes)}"
    if moving.estimate and rate and moving.rows < moving.estimate:
        text += f", about {(moving.estimate - moving.rows) / rate:.0f} s left"
    return text


def _format_receipt(receipt: Receipt) -> str:
    text = f"{receipt.table_name}: {receipt.status}"
    if receipt.status == "success":
        size = "" if receipt.bytes is None else f", {format_bytes(receipt.bytes)}"
        rows = "row" if receipt.rows_loaded == 1 else "rows"
        text += f", {_format_count(receipt.rows_loaded)} {rows}{size}, {receipt.duration_seconds:.1f} s"
    elif receipt.error:
        text += f": {receipt.error.splitlines()[0]}"
    return text


def _format_count(rows: int | None) -> str:
    return "-" if rows is None else f"{rows:,}"


def _format_total(rows: Sequence[int | None]) -> str:
    """The sum; `at least` it where a destination could not tell some of its counts."""
    known = [r for r in rows if r is not None]
    if not known:
        return "-"
    return f"{sum(known):,}" if len(known) == len(rows) else f">= {sum(known):,}"


def _format_statuses(receipts: Sequence[Receipt]) -> str:
    counts = {status: sum(r.status == status for r in receipts) for status in ("success", "failed", "skipped")}
    return ", ".join(f"{n} {status}" for status, n in counts.items() if n)
