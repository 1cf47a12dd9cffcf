"""What every destination that follows changes must leave, whatever happens in which pieces.

    class TestSnow(ApplicationTests):  # FollowsTests, where an application is no transaction
        @pytest.fixture(scope="class")
        @classmethod
        def follower(cls, tmp_path_factory):
            yield Follower(...)

Seeds are printed by hypothesis; `--hypothesis-seed=N` replays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dbt_bridge.contracts.destination import Application, CannotReshape, Loaded, NotApplied, Replica
from dbt_bridge.errors import BridgeError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.changes import Changes, Event, Reshaped, Truncated
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.testing.changes import Change, Model, Row, changes_of, instant, last_ordinal, rows_of
from dbt_bridge.testing.workload import COPIED_AT, COPY, RANDOM, STEPS, orders, play, replica_of, sort_rows

BEFORE = {"id": 1, "part": "a", "note": "first", "big": "B" * 40, "amount": Decimal("1.50")}
PLAIN = st.fixed_dictionaries(
    {
        "id": st.integers(1, 2),
        "part": st.sampled_from(["a", None]),
        "note": st.none(),
        "big": st.sampled_from(["x", None]),
        "amount": st.sampled_from([Decimal("1.00"), None]),
    }
)


@dataclass(frozen=True, slots=True)
class Follower:
    """A destination under test.

    Attributes:
        open_application: see `Follows`.
        join: shows a copy's rows through an application.
        read: a table's rows as dicts.
        execute: a statement of SQL by hand; only `ApplicationTests` needs it.
        is_transactional: whether an application is one transaction; else refusals come from `commit`.
        renames: whether it follows a column's new name.
    """

    name: str
    open_application: Callable[[str], AbstractContextManager[Application]]
    join: Callable[[Application, Replica, pa.Table], Loaded]
    read: Callable[[TableName], list[Row]]
    execute: Callable[[str], Any] | None = None
    is_transactional: bool = True
    renames: bool = True

    def run_sql(self, statement: str) -> None:
        assert self.execute is not None, "ApplicationTests needs a follower that runs SQL"
        self.execute(statement)


@contextmanager
def commit_application(follower: Follower, upto: int = 0) -> Iterator[Application]:
    with follower.open_application("load-1") as application:
        yield application
        application.commit(upto)


def join_rows(follower: Follower, replica: Replica, *rows: Row) -> Loaded:
    with commit_application(follower) as application:
        return follower.join(application, replica, rows_of(replica.table, rows))


@contextmanager
def expect_refusal(follower: Follower, kind: type[BridgeError], match: str) -> Iterator[None]:
    """A refusal of this kind, from `apply` or, wrapped, from a commit that writes table by table."""
    if follower.is_transactional:
        with pytest.raises(kind, match=match):
            yield
        return
    with pytest.raises(NotApplied, match=match) as refused:
        yield
    assert isinstance(refused.value.error, kind)


def apply(follower: Follower, replica: Replica, *events: Event) -> list[Loaded]:
    with commit_application(follower, 1 + max(map(last_ordinal, events))) as application:
        return [application.apply(replica, event) for event in events]


def follow(follower: Follower, replica: Replica, model: Model, ends: list[int]) -> None:
    """Bring the model's events, some applications of several calls."""
    begin = 0
    for end in ends:
        upto = 1 + max((last_ordinal(event) for _, event in model.events[:end]), default=-1)
        with commit_application(follower, upto) as application:
            for table, event in model.events[begin:end]:
                now = replace(replica, table=table)
                application.apply(now, event)
        begin = end


def run(follower: Follower, steps: list[tuple[Any, ...]], **how: Any) -> tuple[Model, TableName]:
    replica = replica_of(orders(), **how)
    model = Model(replica.table, COPIED_AT)
    model.copy(COPY)
    join_rows(follower, replica, *COPY)
    follow(follower, replica, model, play(model, [step for step in steps if follower.renames or step[0] != "rename"]))
    return model, replica.table.name


class FollowsTests:
    """What every destination that `Follows` must do. Needs the fixture `follower`."""

    @RANDOM
    @given(steps=STEPS)
    @example(steps=[("truncate",), ("drop",), ("add",)])
    def test_the_table_is_what_its_origin_is(self, follower: Follower, steps: list[tuple[Any, ...]]) -> None:
        model, name = run(follower, steps)
        assert sort_rows(follower.read(name)) == sort_rows(list(model.state.values()))

    @RANDOM
    @given(steps=STEPS)
    def test_soft_deletes_keep_the_last_values_and_history_every_committed_version(
        self, follower: Follower, steps: list[tuple[Any, ...]]
    ) -> None:
        model, name = run(follower, steps, deletes="soft", history=True)
        kept = [{**row, "_deleted_at": instant(died)} for row, died in model.soft.values()]
        assert sort_rows(follower.read(name)) == sort_rows(kept)
        versions = follower.read(TableName(name.schema, f"{name.name}_history"))
        expected = [{**row, "valid_from": instant(a), "valid_to": instant(b)} for row, a, b in model.history]
        assert sort_rows([{k: v for k, v in row.items() if k != "_lsn"} for row in versions]) == sort_rows(expected)

    @RANDOM
    @given(steps=STEPS)
    def test_a_change_log_has_every_change_in_its_order(self, follower: Follower, steps: list[tuple[Any, ...]]) -> None:
        model, name = run(follower, steps, change_log=True)
        names = {key for row in model.log for key in row} - {"_at"} | {c.name for c in model.table.columns}
        expected = [
            {"_unchanged": None, **dict.fromkeys(names - {"_unchanged"}), **row, "_committed_at": instant(row["_at"])}
            for row in model.log
        ]
        for row in expected:
            del row["_at"]
        found = follower.read(name)
        copied = [row for row in found if row["_lsn"] is None]
        assert sorted(row["_seq"] for row in copied) == list(range(len(COPY)))
        number = {row["id"]: row["_seq"] for row in copied if row["part"] == "a"}
        assert len(number) == 2
        for row in [*found, *expected]:  # a copy has no order
            if row["_lsn"] is None:
                row["_seq"] = None
        assert sort_rows(found) == sort_rows(expected)

    def test_what_is_not_committed_never_was(self, follower: Follower) -> None:
        replica = replica_of(orders(), history=True)
        join_rows(follower, replica, BEFORE)
        with pytest.raises(ZeroDivisionError), follower.open_application("load-1") as application:
            application.apply(replica, changes_of(replica.table, [Change("insert", {**BEFORE, "id": 2}, 1, 1)]))
            raise ZeroDivisionError
        with follower.open_application("load-1") as application:
            application.apply(replica, Truncated(2, 2))
        assert follower.read(replica.table.name) == [BEFORE]
        assert len(follower.read(replica.history_name)) == 1

    def test_a_table_of_somebody_else_is_not_taken_for_a_history(self, follower: Follower) -> None:
        replica = replica_of(orders(), history=True)
        other = replica_of(Table(replica.history_name, replica.table.columns, replica.table.key))
        join_rows(follower, other, BEFORE)
        with pytest.raises(UsageError, match="is no history"):
            join_rows(follower, replica, BEFORE)
        assert follower.read(other.table.name) == [BEFORE]

    def test_a_value_that_is_kept_of_a_row_that_is_not_there_is_never_null(self, follower: Follower) -> None:
        replica = replica_of(orders())
        join_rows(follower, replica, BEFORE)
        change = Change("update", {**BEFORE, "id": 7}, 1, 1, None, frozenset({"big"}))
        with expect_refusal(follower, KeyRefused, r"--full-refresh --select source:shop\.orders"):
            apply(follower, replica, changes_of(replica.table, [change]))
        assert follower.read(replica.table.name) == [BEFORE]


class ApplicationTests(FollowsTests):
    """The same, and what needs SQL, renamed columns, tables without a key and all of an application in one transaction.

    Delta and dlt do not subclass it: they refuse columns that are renamed and tables without a key, count only at the
    commit, and guard each table by the ordinal at which it stands. dlt keeps no history either, and an application
    takes it seconds: its changes are tested by its connector's own tests. Needs the fixture `follower`.
    """

    @RANDOM
    @given(
        copied=st.lists(PLAIN, max_size=6),
        steps=st.lists(st.tuples(st.sampled_from("IUUDDCC"), PLAIN, st.integers(0, 99)), max_size=25),
        soft=st.booleans(),
    )
    def test_of_equal_rows_exactly_as_many_change_as_changed(
        self, follower: Follower, copied: list[Row], steps: list[tuple[str, Row, int]], soft: bool
    ) -> None:
        table = orders(())
        replica = replica_of(table, deletes="soft" if soft else "hard")
        join_rows(follower, replica, *copied)
        alive, dead = [dict(row) for row in copied], list[Row]()
        pending: list[Change] = []
        for number, (what, row, which) in enumerate([*steps, ("C", {}, 0)], 1):
            if what == "C" and pending:
                apply(follower, replica, changes_of(table, pending))
                pending = []
            elif what == "I":
                alive.append(row)
                pending.append(Change("insert", row, number, number))
            elif what in "UD" and alive:
                old = alive.pop(which % len(alive))
                if what == "U":
                    # REPLICA IDENTITY FULL brings the old row's large value, where the new row's is left out
                    new = {**row, "big": old["big"]}
                    alive.append(new)
                    pending.append(Change("update", new, number, number, old, frozenset({"big"})))
                else:
                    dead.append({**old, "_deleted_at": instant(number)})
                    pending.append(Change("delete", old, number, number))
        expected = [{**row, "_deleted_at": None} for row in alive] + dead if soft else alive
        assert sort_rows(follower.read(table.name)) == sort_rows(expected)

    def test_a_row_that_the_origin_deleted_and_that_is_not_here_is_told(self, follower: Follower) -> None:
        replica = replica_of(orders(()))
        join_rows(follower, replica, BEFORE)
        with pytest.raises(KeyRefused, match=r"--full-refresh --select source:shop\.orders"):
            apply(follower, replica, changes_of(replica.table, [Change("delete", {**BEFORE, "note": "other"}, 1, 1)]))
        assert follower.read(replica.table.name) == [BEFORE]

    def test_without_a_key_and_without_the_old_row_an_update_is_refused(self, follower: Follower) -> None:
        replica = replica_of(orders(()))
        join_rows(follower, replica, BEFORE)
        with pytest.raises(KeyRefused, match="REPLICA IDENTITY FULL"):
            apply(follower, replica, changes_of(replica.table, [Change("update", BEFORE, 1, 1)]))

    def test_counts_are_what_became_of_the_rows(self, follower: Follower) -> None:
        replica = replica_of(orders())
        join_rows(follower, replica, BEFORE, {**BEFORE, "id": 2}, {**BEFORE, "id": 3})
        model = Model(replica.table)
        model.copy([BEFORE, {**BEFORE, "id": 2}, {**BEFORE, "id": 3}])
        model.insert({**BEFORE, "id": 9})
        model.update((9, "a"), {"note": "again"})
        model.update((2, "a"), {"note": "new"}, frozenset({"big"}))
        model.delete((3, "a"))
        model.insert({**BEFORE, "id": 5})
        model.delete((5, "a"))
        model.cut()
        model.truncate()
        ((_, run), (_, truncated)) = model.events
        changed, emptied = apply(follower, replica, run, truncated)
        assert (changed.rows_loaded, changed.rows_inserted, changed.rows_updated, changed.rows_deleted) == (6, 1, 1, 1)
        assert emptied.rows_deleted == 3

    def test_columns_added_by_hand_keep_their_values_in_rows_that_change(self, follower: Follower) -> None:
        replica = replica_of(orders())
        join_rows(follower, replica, BEFORE, {**BEFORE, "id": 2})
        name = f'"landing"."{replica.table.name.name}"'
        follower.run_sql(f"ALTER TABLE {name} ADD COLUMN mine integer")
        follower.run_sql(f"UPDATE {name} SET mine = id * 10")  # noqa: S608
        changes = [
            Change("update", {**BEFORE, "note": "new"}, 1, 1),
            Change("update", {**BEFORE, "id": 3}, 1, 1, {"id": 2, "part": "a"}),
            Change("insert", {**BEFORE, "id": 4}, 1, 1),
        ]
        apply(follower, replica, changes_of(replica.table, changes))
        assert {row["id"]: row["mine"] for row in follower.read(replica.table.name)} == {1: 10, 3: 20, 4: None}

    @pytest.mark.parametrize("statement", ["DROP TABLE {}", "ALTER TABLE {} DROP COLUMN note"])
    def test_a_table_or_column_dropped_by_hand_is_told_with_its_mend(self, follower: Follower, statement: str) -> None:
        replica = replica_of(orders())
        join_rows(follower, replica, BEFORE)
        follower.run_sql(statement.format(f'"landing"."{replica.table.name.name}"'))
        with pytest.raises(TypeRefused, match=r"--full-refresh --select source:shop\.orders"):
            apply(follower, replica, changes_of(replica.table, [Change("insert", {**BEFORE, "id": 2}, 1, 1)]))

    def test_a_column_of_the_origin_never_takes_the_place_of_one_that_only_the_destination_has(
        self, follower: Follower
    ) -> None:
        replica = replica_of(orders())
        join_rows(follower, replica, BEFORE)
        follower.run_sql(f'ALTER TABLE "landing"."{replica.table.name.name}" ADD COLUMN mine bigint')
        columns = (*replica.table.columns, Column("mine", pa.int64(), "bigint"))
        with pytest.raises(CannotReshape, match="mine"):
            apply(follower, replica, Reshaped(columns))

    def test_columns_that_change_their_names_with_each_other(self, follower: Follower) -> None:
        replica = replica_of(orders(), history=True)
        join_rows(follower, replica, BEFORE)
        columns = {c.name: c for c in replica.table.columns}
        swapped = {"note": "big", "big": "note"}
        new = [Column(swapped.get(n, n), c.type, c.origin_type) for n, c in columns.items()]
        apply(follower, replica, Reshaped(new, swapped))
        (row,) = follower.read(replica.table.name)
        assert (row["note"], row["big"]) == (BEFORE["big"], BEFORE["note"])
        (version,) = follower.read(replica.history_name)
        assert (version["note"], version["big"]) == (BEFORE["big"], BEFORE["note"])

    def test_a_table_that_is_copied_anew_keeps_its_deleted_rows_and_its_history(self, follower: Follower) -> None:
        replica = replica_of(orders(), deletes="soft", history=True)
        join_rows(follower, replica, BEFORE, {**BEFORE, "id": 2}, {**BEFORE, "id": 3})
        apply(follower, replica, changes_of(replica.table, [Change("delete", {**BEFORE, "note": None}, 1, 1000)]))
        join_rows(follower, replica, {**BEFORE, "id": 2}, {**BEFORE, "id": 4})
        rows = {row["id"]: (row["note"], row["_deleted_at"]) for row in follower.read(replica.table.name)}
        assert rows == {
            1: ("first", instant(1000)),
            2: ("first", None),
            3: ("first", instant(COPIED_AT)),
            4: ("first", None),
        }
        versions = {row["id"]: (row["valid_from"], row["valid_to"]) for row in follower.read(replica.history_name)}
        copied = instant(COPIED_AT)
        deleted = instant(1000)  # before the time of the copy, which is read after its snapshot
        assert versions == {1: (deleted, deleted), 2: (copied, None), 3: (copied, copied), 4: (copied, None)}

    def test_a_log_of_a_table_that_is_copied_anew_says_so(self, follower: Follower) -> None:
        replica = replica_of(orders(), change_log=True)
        join_rows(follower, replica, BEFORE)
        join_rows(follower, replica, {**BEFORE, "id": 2})
        logged = [(row["_change"], row["id"], row["_committed_at"]) for row in follower.read(replica.table.name)]
        at = instant(COPIED_AT)
        assert sorted(logged, key=repr) == [("insert", 1, at), ("insert", 2, at), ("truncate", None, at)]

    @pytest.mark.parametrize(
        ("how", "column", "key"),
        [
            ({"deletes": "soft"}, "_deleted_at", ("id",)),
            ({"history": True}, "valid_to", ("id",)),
            ({"change_log": True}, "_change", ("id",)),
            ({"history": True}, "note", ()),
        ],
    )
    def test_a_replica_that_cannot_be_is_refused(
        self, follower: Follower, how: Row, column: str, key: tuple[str, ...]
    ) -> None:
        columns = (Column("id", pa.int64(), "bigint"), Column(column, pa.string(), "text"))
        replica = replica_of(Table(orders().name, columns, key), **how)
        with pytest.raises(BridgeError, match=f"{column!r}|no key"):
            join_rows(follower, replica, {"id": 1, column: "x"})

    def test_two_rows_with_one_key_at_once_are_refused(self, follower: Follower) -> None:
        replica = replica_of(orders())
        join_rows(follower, replica)
        twice = [Change("insert", BEFORE, 1, 1), Change("insert", BEFORE, 1, 1)]
        with pytest.raises(KeyRefused, match="two rows have one key"):
            apply(follower, replica, changes_of(replica.table, twice))

    def test_nothing_is_nothing(self, follower: Follower) -> None:
        replica = replica_of(orders())
        join_rows(follower, replica, BEFORE)
        empty = changes_of(replica.table, [Change("insert", BEFORE, 1, 1)])
        none = Changes(empty.rows.slice(0, 0), empty.kind[:0], empty.ordinal[:0], empty.committed_at[:0])
        assert apply(follower, replica, none) == [Loaded(0, 0, 0, 0, 0)]
        assert follower.read(replica.table.name) == [BEFORE]

    @pytest.mark.parametrize("how", [{}, {"deletes": "soft", "history": True}, {"change_log": True}])
    def test_a_copy_and_the_changes_after_it_become_visible_at_once(self, follower: Follower, how: Row) -> None:
        replica = replica_of(orders(), **how)
        join_rows(follower, replica, BEFORE)
        columns = (*replica.table.columns, Column("extra", pa.int64(), "bigint"))
        longer = replica_of(Table(replica.table.name, columns, replica.table.key), **how)
        with commit_application(follower) as application:
            follower.join(application, replica, rows_of(replica.table, [BEFORE, {**BEFORE, "id": 2}]))
            application.apply(
                replica, changes_of(replica.table, [Change("delete", {**BEFORE, "note": None}, 1, 1_000_000)])
            )
            application.apply(replica, Reshaped(columns))
            new = Change("insert", {**BEFORE, "id": 3, "extra": 7}, 2, 2_000_000)
            application.apply(longer, changes_of(longer.table, [new]))
        rows = [row for row in follower.read(replica.table.name) if not row.get("_deleted_at")]
        if "change_log" not in how:
            assert sorted((row["id"], row["extra"]) for row in rows) == [(2, None), (3, 7)]
        else:
            assert [row["extra"] for row in rows if row["_lsn"] == 2] == [7]
            assert sorted(row["_change"] for row in rows) == ["delete", *["insert"] * 4, "truncate"]
