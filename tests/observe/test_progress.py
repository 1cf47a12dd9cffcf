"""What a person sees while rows move."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest
from rich.console import Console

from dbt_bridge.nouns.quantities import format_bytes
from dbt_bridge.nouns.receipt import Receipt, Status
from dbt_bridge.observe.progress import (
    Lines,
    Live,
    Progress,
    Silent,
    make_reporter,
    print_summary,
)

START = datetime(2026, 11, 21, 2, 0, tzinfo=UTC)


def receipt(
    table: str, *, status: Status = "success", rows: int | None = 10, error: str | None = None, seconds: float = 2
) -> Receipt:
    return Receipt(
        load_id="1", hop="initial_copy", node=f"source.shop.{table}", origin="shop_pg", destination="duckdb",
        table_name=f"landing.{table}", write_disposition="replace", status=status, rows_loaded=rows,
        rows_inserted=rows, rows_updated=0, rows_deleted=None, bytes=1_500_000, checkpoint_from=None,
        checkpoint_to=None, started_at=START, finished_at=START + timedelta(seconds=seconds),
        duration_seconds=seconds, error=error,
    )  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_tell_start_progress_and_end() -> None:
    out = io.StringIO()
    with Lines(out, seconds_between=0) as lines:
        lines.started("source.shop.orders", "landing.orders", 1_000_000)
        lines.advanced("source.shop.orders", 250_000, 1_500_000)
        lines.finished(receipt("orders", rows=250_000))
        lines.message("dbt was not run")
    first, second, third, last = out.getvalue().splitlines()
    assert first == "landing.orders: started (about 1,000,000 rows)"
    assert second.startswith("landing.orders: 250,000 rows, ") and "1.5 MB" in second and " s left" in second
    assert third == "landing.orders: success, 250,000 rows, 1.5 MB, 2.0 s"
    assert last == "dbt was not run"


def test_plain_lines_are_not_one_per_batch() -> None:
    out = io.StringIO()
    with Lines(out) as lines:
        lines.started("source.shop.orders", "landing.orders")
        for _ in range(1000):
            lines.advanced("source.shop.orders", 10, 10)
    assert out.getvalue().splitlines() == ["landing.orders: started"]


def test_a_failure_says_why_in_its_line() -> None:
    out = io.StringIO()
    with Lines(out) as lines:
        lines.finished(receipt("orders", status="failed", error="no privilege\n  -> GRANT SELECT"))
    assert out.getvalue() == "landing.orders: failed: no privilege\n"


def test_a_live_line_has_rows_rate_bytes_and_leaves_a_line_behind() -> None:
    out = Terminal()
    with Live(Console(file=out, force_terminal=True, width=160, color_system=None)) as live:
        live.started("source.shop.orders", "landing.orders", 100)
        live.advanced("source.shop.orders", 50, 2000)
        live.advanced("source.shop.orders", 75, 2000)  # more than the catalog had estimated
        live._display.refresh()  # type: ignore[union-attr] - instead of waiting for its timer
        shown = out.getvalue()
        live.finished(receipt("orders", rows=125))
    assert "125 rows" in shown and "4.0 kB" in shown and "rows/s" in shown
    assert "landing.orders: success, 125 rows" in out.getvalue()


def test_the_live_display_is_down_when_nothing_moves_so_that_dbt_can_print() -> None:
    with Live(Console(file=Terminal(), force_terminal=True)) as live:
        live.started("source.shop.orders", "landing.orders")
        assert live._display is not None
        live.finished(receipt("orders"))
        assert live._display is None


def test_threads_may_report_at_once() -> None:
    out = io.StringIO()

    def move(progress: Progress, table: str) -> None:
        progress.started(f"source.shop.{table}", f"landing.{table}")
        for _ in range(200):
            progress.advanced(f"source.shop.{table}", 1, 1)
        progress.finished(receipt(table))

    with Live(Console(file=out, force_terminal=False)) as live:
        threads = [Thread(target=move, args=(live, f"t{n}")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(f"landing.t{n}: success" in out.getvalue() for n in range(8))


def test_the_reporter_fits_where_it_writes() -> None:
    assert isinstance(make_reporter(silent=True, out=Terminal()), Silent)
    assert isinstance(make_reporter(out=io.StringIO()), Lines)
    assert isinstance(make_reporter(out=Terminal()), Live)


def test_the_summary_has_totals_and_every_error() -> None:
    out = io.StringIO()
    failed = receipt("customers", status="failed", rows=0, error="no [privilege]\n  -> GRANT", seconds=5)
    print_summary([receipt("orders", rows=1_200_000), failed], out)
    text = out.getvalue()
    assert "1,200,000" in text and "1 success, 1 failed" in text
    assert "5.0" in text  # side by side: the longest, not the sum
    assert "landing.customers: no [privilege]\n  -> GRANT" in text


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_number_is_cut_however_narrow_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = Terminal()
    print_summary([receipt("orders", rows=1_200_000), receipt("order_items", rows=123, seconds=5)], out)
    text = out.getvalue()
    assert "1,200,000" in text
    assert "…" not in text
    assert "2 success" in text
    assert [heading for heading in ("inserted", "seconds", "hop") if heading in text] == {
        60: [], 80: ["inserted"], 100: ["inserted", "seconds"], 160: ["inserted", "seconds", "hop"]
    }[width]  # fmt: skip


def test_a_total_of_unknown_counts_is_not_a_guess() -> None:
    out = io.StringIO()
    print_summary([receipt("orders", rows=None), receipt("customers", rows=7)], out)
    assert ">= 7" in out.getvalue()


def test_nothing_moved_prints_nothing() -> None:
    out = io.StringIO()
    print_summary([], out)
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("size", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (3e12, "3.0 TB")]
)
def test_bytes_for_people(size: float, shown: str) -> None:
    assert format_bytes(size) == shown
