"""Days and moments of every year that Arrow can count, as databases write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.arrow.calendar import parse_moment, to_civil, to_days
from dbt_bridge.sync.future_cursor import hold_back

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@given(st.integers(-106_000_000, 106_000_000))
def test_days_come_back(days: int) -> None:
    assert to_days(to_civil(days)) == days


zones = st.timedeltas(timedelta(hours=-15), timedelta(hours=15)).map(
    lambda d: timezone(timedelta(minutes=d // timedelta(minutes=1)))
)


@given(st.datetimes(timezones=zones), st.sampled_from(["T", " "]))
def test_moments_with_and_without_a_zone(moment: datetime, between: str) -> None:
    assert parse_moment(moment.isoformat(sep=between)) == (moment - EPOCH) // MICROSECOND
    local = moment.replace(tzinfo=None)
    assert parse_moment(local.isoformat(sep=between)) == (local.replace(tzinfo=UTC) - EPOCH) // MICROSECOND


@given(
    st.integers(-200_000_000_000_000_000, 9_000_000_000_000_000_000).filter(lambda n: n > -9_223_372_022_400_000_000)
)
def test_moments_before_christ_and_after_9999(microseconds: int) -> None:
    """As DuckDB writes them: `0044-03-15 (BC) 12:00:00` has its era in another place than PostgreSQL's text."""
    with duckdb.connect() as connection:
        [(text,)] = connection.execute(
            "SELECT CAST(make_timestamp(CAST(? AS BIGINT)) AS VARCHAR)", [microseconds]
        ).fetchall()
    as_postgres = text.replace(" (BC)", "") + (" BC" if "(BC)" in text else "")
    assert parse_moment(as_postgres) == microseconds


@pytest.mark.parametrize(
    "text", ["", "7", "1.5", "2026", "2026-13-01", "2026-02-30", "2026-01-01 25:00:00", "infinity", "20260101"]
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="no date"):
        parse_moment(text)


NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        (None, None),
        ("29990101", "29990101"),
        ("1e300", "1e300"),
        ("2026-11-30 12:00:00", "2026-11-30 12:00:00"),
        ("2026-12-01 11:59:59+00", "2026-12-01 11:59:59+00"),  # tomorrow somewhere, or a clock that is fast
        ("2026-12-01 12:00:01", "2026-11-29 12:00:00"),
        ("2999-01-01 00:00:00+02", "2026-11-29 12:00:00+00:00"),
        ("2999-01-01 00:00:00-08", "2026-11-29 12:00:00+00:00"),
        ("12000-01-01", "2026-11-29"),
        ("0044-03-15 BC", "0044-03-15 BC"),
    ],
)
def test_a_checkpoint_stays_in_the_present(newest: str | None, expected: str | None) -> None:
    assert hold_back(newest, NOW) == expected
