"""The origin's clock goes back an hour: histories have one version of a row at each moment all the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.cdc.ends import End
from tests.projects import table

from dbt_bridge.connectors.postgres.changes.pgoutput import decoder
from dbt_bridge.connectors.postgres.changes.snapshot import SlotSnapshot

HOUR = 3_600_000_000
ITEMS = table("items", history=True, deletes="soft")
COLUMNS = "id, v, valid_from, valid_to, _lsn"
FAR = datetime(9999, 1, 1, tzinfo=UTC)


@pytest.fixture
def step_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`step_clock(microseconds)` shifts the origin's clock, as far as the bridge is told of it."""
    shift = 0
    decode, read_clock = decoder._to_unix_times, SlotSnapshot.read_clock
    monkeypatch.setattr(decoder, "_to_unix_times", lambda times, numbers: decode(times, numbers) + np.int64(shift))
    monkeypatch.setattr(SlotSnapshot, "read_clock", lambda self: read_clock(self) + shift)

    def step(microseconds: int) -> None:
        nonlocal shift
        shift = microseconds

    return step


def versions_of(end: End) -> dict[int, list[tuple[Any, ...]]]:
    """Of each key, in the order in which they were committed: (value, begin, end)."""
    found = defaultdict(list)
    for id_, v, begin, stop, lsn in end.rows("items_history", COLUMNS):
        found[id_].append((begin, stop or FAR, lsn or 0, v))
    return {id_: [(v, begin, stop) for begin, stop, _, v in sorted(versions)] for id_, versions in found.items()}


def check(end: End, origin: psycopg.Connection) -> None:
    """No version ends before it begins, none overlaps another, and the open ones are the table."""
    versions = versions_of(end)
    for rows in versions.values():
        assert all(begin <= stop for _, begin, stop in rows), rows
        assert all(stop <= begin for (_, _, stop), (_, begin, _) in pairwise(rows)), rows
    now = {id_: rows[-1][0] for id_, rows in versions.items() if rows[-1][2] == FAR}
    assert now == dict(origin.execute("SELECT id, v FROM items").fetchall())


def test_a_clock_that_goes_back_leaves_one_version_per_moment(
    origin: psycopg.Connection, end: End, step_clock: Callable[[int], None]
) -> None:
    origin.execute("CREATE TABLE items (id int PRIMARY KEY, v text)")
    origin.execute("INSERT INTO items SELECT i, 'first' FROM generate_series(1, 9) i")
    end.sync(ITEMS)
    origin.execute("UPDATE items SET v = 'second' WHERE id <= 3")
    end.sync(ITEMS)
    check(end, origin)
    before = versions_of(end)
    step_clock(-HOUR)
    origin.execute("UPDATE items SET v = 'third' WHERE id <= 2 OR id = 7")
    origin.execute("DELETE FROM items WHERE id = 3")
    origin.execute("DELETE FROM items WHERE id = 8")
    end.sync(ITEMS)  # a process that knows of the step only by the checkpoint
    origin.execute("INSERT INTO items VALUES (3, 'again'), (20, 'new')")
    origin.execute("UPDATE items SET v = 'fourth' WHERE id = 1")
    end.sync(ITEMS)
    check(end, origin)
    origin.execute("UPDATE items SET v = 'fifth' WHERE id = 2")
    end.sync(ITEMS, full_refresh=True)
    origin.execute("UPDATE items SET v = 'sixth' WHERE id = 2")
    origin.execute("TRUNCATE items")
    origin.execute("INSERT INTO items VALUES (4, 'seventh')")
    end.sync(ITEMS)
    check(end, origin)

    step_clock(HOUR)  # and on again
    origin.execute("UPDATE items SET v = 'eighth'")
    end.sync(ITEMS)
    check(end, origin)
    after = versions_of(end)
    for id_, rows in before.items():
        assert {row[:2] for row in rows} <= {row[:2] for row in after[id_]}, "what was written stays"
    assert after[4][-1][1] - before[4][0][1] > timedelta(minutes=55), "the clock is followed again"
