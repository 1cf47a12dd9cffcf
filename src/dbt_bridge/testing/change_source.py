"""What every change source must do. Subclass `ChangeSourceTests` in a module of tests, and give it a `bench`:

    class TestJournal(ChangeSourceTests):
        @pytest.fixture
        def bench(self, tmp_path):
            yield JournalBench(tmp_path)

The tests need an origin in which nobody else writes, and whose log has nothing of the source's yet.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import pytest

from dbt_bridge.contracts.change_feed import Chunk, DeclaredTable, FollowedTable, Pace, TableFinding
from dbt_bridge.contracts.change_source import ChangeSource
from dbt_bridge.errors import BridgeError, OriginError, UsageError
from dbt_bridge.nouns.changes import DELETE, Changes, Event, Reshaped, Truncated
from dbt_bridge.nouns.position import Position, may_be_position
from dbt_bridge.nouns.table import TableName

PACE = Pace(rows=1000, least=1, seconds=0.2, idle=0.2)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Write:
    """One change of one row; a truncate empties the table."""

    kind: Literal["insert", "update", "delete", "truncate"]
    table: str
    id: int = 0
    note: str | None = None


class Bench(Protocol):
    """An origin under test."""

    def open(self) -> ChangeSource:
        """Its change source, anew each time, as another process would have it; always of the same log."""

    def create(self, table: str) -> None:
        """An empty table with the key `id`, a number of 64 bits, and `note`, a text that may be NULL."""

    def commit(self, *writes: Write) -> None:
        """One transaction."""

    def add_column(self, table: str, column: str) -> None:
        """A text column at the end, without values."""


@dataclass
class Landing:
    """A table as the events leave it, in memory.

    Attributes:
        rows: by their `id`.
        ordinals: of everything that was applied, in order.
        seen: what was applied: (ordinal, kind, id).
    """

    table: FollowedTable
    rows: dict[int, Row] = field(default_factory=dict)
    ordinals: list[int] = field(default_factory=list)
    seen: list[tuple[int, str, int]] = field(default_factory=list)

    def apply(self, event: Event) -> None:
        if isinstance(event, Reshaped):
            self.table = replace(self.table, columns=tuple(event.columns))
        elif isinstance(event, Truncated):
            self.rows.clear()
            self.ordinals.append(event.ordinal)
            self.seen.append((event.ordinal, "T", 0))
        else:
            self._apply_rows(event)

    def _apply_rows(self, changes: Changes) -> None:
        assert [f.name for f in changes.rows.schema] == [c.name for c in self.table.columns], "the columns that land"
        assert [f.type for f in changes.rows.schema] == [c.type for c in self.table.columns], "in their types"
        before = changes.before.to_pylist() if changes.before is not None else []
        for number, row in enumerate(changes.rows.to_pylist()):
            old = row
            if changes.has_before is not None and changes.has_before[number]:
                old = before[number]
            stood = self.rows.pop(old["id"], {})
            for column, unchanged in changes.unchanged.items():
                row[column] = stood[column] if unchanged[number] else row[column]
            if changes.kind[number] != DELETE:
                self.rows[row["id"]] = row
            self.ordinals.append(int(changes.ordinal[number]))
            self.seen.append((int(changes.ordinal[number]), chr(changes.kind[number]), old["id"]))


@dataclass
class Follower:
    """Follows tables of a bench as capture does, in a life of its own of the change source."""

    source: ChangeSource
    landings: dict[str, Landing]
    position: Position

    @classmethod
    def begin(cls, source: ChangeSource, *tables: str) -> Follower:
        """Copy the tables in the snapshot with which the log begins."""
        declared = [DeclaredTable(table, TableName("", table)) for table in tables]
        for finding in source.take_census(declared).values():
            assert isinstance(finding, TableFinding), finding
        assert source.ensure_log([], declared) == {}
        with source.open_snapshot("copy_one", begins=True) as snapshot, closing(snapshot.open_origin()) as origin:
            landings = {}
            for table in declared:
                version = snapshot.describe(table)
                assert {"id", "note"} <= {column.name for column in version.columns}
                assert version.key == ("id",)
                followed = FollowedTable(
                    table.node, version.name, version.shape, version.columns, version.key, snapshot.position,
                    lambda table, renamed: table.columns,
                )  # fmt: skip
                rows = origin.rows(version.name, version.columns).read_all().to_pylist()
                landings[table.node] = Landing(followed, {row["id"]: row for row in rows})
            return cls(source, landings, snapshot.position)

    def again(self, source: ChangeSource) -> Follower:
        """From where it stands, as another process goes on from the checkpoints."""
        declared = [DeclaredTable(n, one.table.name, shape=one.table.shape) for n, one in self.landings.items()]
        for finding in source.take_census(declared).values():
            assert isinstance(finding, TableFinding) and not finding.lost, finding
        source.require_log({node: one.table.position for node, one in self.landings.items()})
        assert source.ensure_log(declared, []) == {}
        return Follower(source, self.landings, source.parse_position(str(self.position)))

    def chunks(self, *barriers: Position, pace: Pace = PACE, acknowledge: bool = True) -> list[Chunk]:
        """Apply everything up to the barriers."""
        end = time.monotonic() + 60
        tables = [landing.table for landing in self.landings.values()]
        taken: list[Chunk] = []
        with self.source.follow(tables, self.position, barriers, pace) as feed:
            for chunk in feed.chunks(lambda: time.monotonic() < end):
                assert chunk.content.failed == {} and chunk.content.lost == {}
                for node, event in chunk.content.events:
                    self.landings[node].apply(event)
                for node, table in chunk.content.tables.items():
                    self.landings[node].table = replace(table, columns=self.landings[node].table.columns)
                taken.append(chunk)
                if chunk.upto is not None and acknowledge:
                    feed.acknowledge(chunk.upto)
        assert time.monotonic() < end, "the feed did not come to its last barrier"
        self.position = barriers[-1]
        for landing in self.landings.values():
            landing.table = replace(landing.table, position=max(landing.table.position, barriers[-1]))
        return taken

    def notes(self, table: str) -> dict[int, str | None]:
        return {key: row["note"] for key, row in sorted(self.landings[table].rows.items())}


def inserts(table: str, *ids: int) -> list[Write]:
    return [Write("insert", table, id_, f"n{id_}") for id_ in ids]


class ChangeSourceTests:
    """The tests. Each begins with an empty bench."""

    @pytest.fixture
    def bench(self) -> Iterator[Bench]:
        raise NotImplementedError("a subclass opens the bench")

    @pytest.fixture
    def opened(self, bench: Bench) -> Iterator[Callable[[], ChangeSource]]:
        """Opens change sources, which end with the test."""
        with ExitStack() as stack:
            yield lambda: stack.enter_context(bench.open())

    @pytest.fixture
    def follower(self, bench: Bench, opened: Callable[[], ChangeSource]) -> Follower:
        """Of the table `orders`, which has one row, and whose log has begun."""
        bench.create("orders")
        bench.commit(*inserts("orders", 1))
        return Follower.begin(opened(), "orders")

    # --- positions -------------------------------------------------------------------------------------------------

    def test_positions_have_text_and_ascend(self, bench: Bench, follower: Follower) -> None:
        source, positions = follower.source, [follower.source.beginning, follower.position]
        for id_ in (2, 3):
            bench.commit(*inserts("orders", id_))
            positions.append(source.find_end())
        for position in positions:
            again = source.parse_position(str(position))
            assert (again.ordinal, again.text) == (position.ordinal, position.text)
            assert may_be_position(str(position)) and 0 <= position.ordinal < 1 << 63
        assert positions[0] <= positions[1] < positions[2] < positions[3]
        with pytest.raises(UsageError):
            source.parse_position("soon")

    def test_the_identity_is_the_same_in_every_process(
        self, follower: Follower, opened: Callable[[], ChangeSource]
    ) -> None:
        assert follower.source.read_identity() == opened().read_identity()
        assert follower.source.read_identity().endswith(f"/{follower.source.slot}")

    # --- snapshot and feed -----------------------------------------------------------------------------------------

    def test_a_snapshot_and_the_feed_after_it_leave_nothing_out_and_double_nothing(
        self, bench: Bench, opened: Callable[[], ChangeSource]
    ) -> None:
        bench.create("orders")
        bench.commit(*inserts("orders", 1, 2, 3))
        follower = Follower.begin(opened(), "orders")
        assert follower.notes("orders") == {1: "n1", 2: "n2", 3: "n3"}
        bench.commit(*inserts("orders", 4), Write("update", "orders", 1, None))
        bench.commit(Write("delete", "orders", 2))
        follower.chunks(follower.source.find_end())
        assert follower.notes("orders") == {1: None, 3: "n3", 4: "n4"}
        assert len(follower.landings["orders"].seen) == 3

    def test_a_later_snapshot_is_at_its_own_position(self, bench: Bench, follower: Follower) -> None:
        bench.commit(*inserts("orders", 2))
        with follower.source.open_snapshot("verify_one") as point:
            bench.commit(*inserts("orders", 3))
            with closing(point.open_origin()) as origin:
                found = origin.describe(follower.landings["orders"].table.name).table
                rows = origin.rows(found.name, found.columns).read_all().to_pylist()
            assert sorted(row["id"] for row in rows) == [1, 2]
            taken = follower.chunks(point.position)
            assert taken[-1].upto == point.position
            assert sorted(follower.notes("orders")) == [1, 2]
            assert point.read_clock() > 1_600_000_000_000_000
        follower.chunks(follower.source.find_end())
        assert sorted(follower.notes("orders")) == [1, 2, 3]

    def test_commits_come_whole_in_their_order_and_two_apart(self, bench: Bench, follower: Follower) -> None:
        bench.commit(*inserts("orders", 2, 3))
        bench.commit(Write("update", "orders", 2, "again"))
        bench.commit(Write("truncate", "orders"))
        bench.commit(*inserts("orders", 2))
        taken = follower.chunks(until := follower.source.find_end())
        seen = follower.landings["orders"].seen
        assert [(kind, id_) for _, kind, id_ in seen] == [("I", 2), ("I", 3), ("U", 2), ("T", 0), ("I", 2)]
        commits = sorted({ordinal for ordinal, _, _ in seen})
        assert [ordinal for ordinal, _, _ in seen] == [commits[0], *commits]
        assert all(after - before >= 2 for before, after in itertools.pairwise(commits))
        assert commits[-1] < until.ordinal
        assert sum(chunk.transactions for chunk in taken) >= 4
        assert taken[-1].upto == until
        assert follower.notes("orders") == {2: "n2"}

    def test_a_chunk_ends_at_each_barrier(self, bench: Bench, follower: Follower) -> None:
        bench.commit(*inserts("orders", 2))
        first = follower.source.find_end()
        bench.commit(*inserts("orders", 3))
        taken = follower.chunks(first, second := follower.source.find_end())
        below = [chunk for chunk in taken if chunk.upto is not None and chunk.upto <= first]
        assert [first, second] == [below[-1].upto, taken[-1].upto]
        assert sum(chunk.changes for chunk in below) == 1 == sum(chunk.changes for chunk in taken) - 1
        reached = [chunk.upto for chunk in taken if chunk.upto is not None]
        assert reached == sorted(reached)

    def test_a_transaction_larger_than_a_chunk_has_one_end(self, bench: Bench, follower: Follower) -> None:
        bench.commit(*inserts("orders", *range(10, 500)))
        taken = follower.chunks(follower.source.find_end(), pace=replace(PACE, rows=50))
        ends = [number for number, chunk in enumerate(taken) if chunk.upto is not None]
        last = max(number for number, chunk in enumerate(taken) if chunk.changes)
        assert min(ends) >= last, "no position inside of it"
        assert len(follower.notes("orders")) == 491
        assert len(set(follower.landings["orders"].ordinals)) == 1

    def test_every_table_gets_what_it_lacks(self, bench: Bench, opened: Callable[[], ChangeSource]) -> None:
        """One that stands further is not given again what it has."""
        for table in ("orders", "items"):
            bench.create(table)
        follower = Follower.begin(opened(), "orders", "items")
        bench.commit(*inserts("orders", 1), *inserts("items", 1))
        between = follower.source.find_end()
        items = follower.landings["items"]
        items.table = replace(items.table, position=between)
        bench.commit(*inserts("orders", 2), *inserts("items", 2))
        follower.chunks(follower.source.find_end())
        assert (sorted(follower.notes("orders")), sorted(follower.notes("items"))) == ([1, 2], [2])

    # --- the log ---------------------------------------------------------------------------------------------------

    def test_a_commit_has_the_same_ordinal_each_time(
        self, bench: Bench, follower: Follower, opened: Callable[[], ChangeSource]
    ) -> None:
        """What was committed at the destination and not acknowledged is found again by it, in whichever process."""
        bench.commit(*inserts("orders", 2))
        follower.chunks(follower.source.find_end())
        stood, position = replace(follower.landings["orders"].table), follower.position
        for id_ in (3, 4):
            bench.commit(*inserts("orders", id_))
        until = follower.source.find_end()
        follower.chunks(until, acknowledge=False)
        first = follower.landings["orders"].seen[1:]
        follower.source.close()

        follower.landings["orders"].table, follower.position = stood, position
        follower.landings["orders"].seen.clear()
        again = follower.again(opened())
        again.chunks(again.source.parse_position(str(until)))
        assert again.landings["orders"].seen == first

    def test_what_was_acknowledged_may_be_gone(
        self, bench: Bench, follower: Follower, opened: Callable[[], ChangeSource]
    ) -> None:
        begun = follower.position
        bench.commit(*inserts("orders", 2))
        follower.chunks(follower.source.find_end())
        follower.source.close()
        source = opened()
        source.require_log({"orders": follower.position})
        with pytest.raises(OriginError):
            source.require_log({"orders": begun})
        with pytest.raises(OriginError):
            source.require_log({"orders": Position((1 << 63) - 2, str(follower.position))})

    def test_a_log_that_nobody_needs_is_let_go_of(self, bench: Bench, follower: Follower) -> None:
        bench.commit(*inserts("orders", 2))
        follower.source.release_log(follower.source.find_end())
        with pytest.raises(OriginError):
            follower.source.require_log({"orders": follower.position})

    def test_a_backlog_without_a_bound_is_bearable(self, follower: Follower) -> None:
        follower.source.check_backlog(is_caught_up=False)
        follower.source.check_backlog(is_caught_up=True)

    # --- tables ----------------------------------------------------------------------------------------------------

    def test_a_census_finds_tables_as_they_were_and_names_those_that_are_not_there(
        self, bench: Bench, follower: Follower
    ) -> None:
        stood = follower.landings["orders"].table
        known = DeclaredTable("orders", TableName("", "orders"), shape=stood.shape)
        found = follower.source.take_census([known, DeclaredTable("x", TableName("", "x"))])
        finding = found["orders"]
        assert isinstance(finding, TableFinding)
        assert (finding.name, finding.version.name) == (stood.name, stood.name)
        assert (finding.shape, finding.lost, finding.is_late, dict(finding.renamed)) == (stood.shape, "", False, {})
        assert finding.version.columns == stood.columns
        assert isinstance(found["x"], BridgeError) and "x" in found["x"].what
        assert not follower.source.has_news([finding.shape])
        assert follower.source.find_stale({"orders": finding.shape}) == {}
        assert follower.source.slot in {log.name for log in follower.source.list_logs()}

    def test_a_column_that_is_added_comes_before_its_values(self, bench: Bench, follower: Follower) -> None:
        bench.commit(*inserts("orders", 2))
        bench.add_column("orders", "tag")
        bench.commit(*inserts("orders", 3))
        follower.chunks(follower.source.find_end())
        rows = follower.landings["orders"].rows
        assert list(rows[3]) == ["id", "note", "tag"] and rows[3]["tag"] is None
        assert list(rows[2]) == ["id", "note"], "the destination adds it to the rows that stand"

    def test_a_column_that_no_row_came_after_is_settled(self, bench: Bench, follower: Follower) -> None:
        landing = follower.landings["orders"]
        bench.add_column("orders", "tag")
        declared = DeclaredTable("orders", landing.table.name, shape=landing.table.shape)
        finding = follower.source.take_census([declared])["orders"]
        assert isinstance(finding, TableFinding) and not finding.lost
        assert follower.source.ensure_log([declared], []) == {}
        follower.chunks(follower.source.find_end())
        if finding.is_late:
            content = follower.source.settle([(landing.table, finding)])
            assert content.lost == {} and content.failed == {}
            for _, event in content.events:
                landing.apply(event)
        assert [column.name for column in landing.table.columns] == ["id", "note", "tag"]

    # --- people ----------------------------------------------------------------------------------------------------

    def test_who_holds_the_landing_still_is_waited_for(self, bench: Bench, opened: Callable[[], ChangeSource]) -> None:
        lease = opened().lease_landing()
        with opened().lock_landing():
            assert not lease.take() and not lease.is_mine
        assert lease.take() and lease.is_mine and not lease.is_wanted()
        lease.let_go()
        with opened().share_landing():
            assert lease.take(), "those who bring it up do not exclude each other"
        lease.let_go()

    def test_health_is_of_the_log_and_ends_with_it(
        self, bench: Bench, follower: Follower, opened: Callable[[], ChangeSource]
    ) -> None:
        health = follower.source.check_health("dbt-bridge sync")
        assert health.exists and not health.problem
        assert follower.source.drop_log().existed
        assert not opened().check_health("dbt-bridge sync").exists
        assert not opened().drop_log().existed
        with pytest.raises(OriginError):
            opened().require_log({"orders": follower.position})

    def test_what_is_ready_has_no_fault(self, bench: Bench, opened: Callable[[], ChangeSource]) -> None:
        bench.create("orders")
        source = opened()
        finding = source.take_census([DeclaredTable("orders", TableName("", "orders"))])["orders"]
        assert isinstance(finding, TableFinding)
        looked: Sequence[Any] = list(source.check_readiness([DeclaredTable("orders", finding.name)]))
        assert [found for found in looked if found.status == "fault"] == []
