"""What destinations give back is what landed, as the origin has it: soft deletes, change logs, keys, one state.

    class TestSnow(RandomStateTests):
        @pytest.fixture(scope="class")
        @classmethod
        def holder(cls, tmp_path_factory):
            yield Holder(...)

Seeds are printed by hypothesis; `--hypothesis-seed=N` replays.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dbt_bridge.contracts.destination import Replica
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.changes import Event, Truncated
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.testing.changes import Change, Model, Row, changes_of, last_ordinal, rows_of
from dbt_bridge.testing.workload import COPIED_AT, COPY, STEPS, orders, play, replica_of, sort_rows
from dbt_bridge.testing.workload import RANDOM as MANY

RANDOM = settings(MANY, max_examples=6)


@dataclass(frozen=True, slots=True)
class Holder:
    """A destination under test.

    Attributes:
        copy: loads rows, and shows them through an application.
        renames: whether it follows a column's new name.
        begins: whether a state is of the moment at which its context begins; else of the first look at a table.
        holds: whether it stays what it is while others write.
    """

    destination: Any
    copy: Callable[[Replica, pa.Table, int], None]
    renames: bool = True
    begins: bool = True
    holds: bool = True

    def count(self, replica: Replica) -> int:
        with self.destination.open_state() as state:
            return int(state.count(replica))

    def rows(self, replica: Replica, keys: pa.Table | None = None) -> pa.Table:
        with self.destination.open_state() as state:
            return state.rows(replica, keys).read_all()


def land(holder: Holder, how: Row, *rows: Row, key: tuple[str, ...] = ("id", "part")) -> Replica:
    replica = replica_of(orders(key), **how)
    holder.copy(replica, rows_of(replica.table, rows), COPIED_AT)
    return replica


def apply(holder: Holder, replica: Replica, *events: Event) -> None:
    with holder.destination.open_application("load-1") as application:
        for event in events:
            application.apply(replica, event)
        application.commit(max(last_ordinal(event) for event in events) + 1)


def follow(holder: Holder, steps: list[tuple[Any, ...]], **how: Any) -> tuple[Model, Replica]:
    """The workload, applied; the replica as it is in the end."""
    if not holder.renames:
        steps = [step for step in steps if step[0] != "rename"]
    model = Model(orders(), COPIED_AT)
    model.copy(COPY)
    first = replica_of(model.table, **how)
    holder.copy(first, rows_of(model.table, COPY), COPIED_AT)
    ends = play(model, steps)
    for begin, end in itertools.pairwise([0, *ends]):
        with holder.destination.open_application("load-1") as application:
            for table, event in model.events[begin:end]:
                application.apply(replica_of(table, **how), event)
            application.commit(max((last_ordinal(event) for _, event in model.events[:end]), default=0) + 1)
    return model, replica_of(model.table, **how)


def list_expected(model: Model) -> list[Row]:
    names = [c.name for c in model.table.columns]
    return sort_rows([{name: row[name] for name in names} for row in model.state.values()])


def row(number: int, part: str | None = "a", **more: Any) -> Row:
    return {"id": number, "part": part, "note": f"n{number}", "big": None, "amount": Decimal("1.50"), **more}


class StateTests:
    """Needs the fixture `holder`."""

    def test_a_log_of_a_table_that_was_copied_anew_begins_with_the_last_copy(self, holder: Holder) -> None:
        replica = land(holder, {"change_log": True}, row(1), row(2))
        changes = [Change("insert", row(3), 90, 9 * COPIED_AT), Change("delete", row(1), 90, 9 * COPIED_AT)]
        apply(holder, replica, changes_of(replica.table, changes))
        # By the origin's clock the copy came before changes that it holds already.
        holder.copy(replica, rows_of(replica.table, [row(2), row(4)]), 8 * COPIED_AT)
        apply(holder, replica, changes_of(replica.table, [Change("insert", row(5), 120, 7 * COPIED_AT)]))
        assert sort_rows(holder.rows(replica).to_pylist()) == sort_rows([row(2), row(4), row(5)])
        assert holder.count(replica) == 3

    def test_a_log_without_a_key_whose_rows_went_more_often_than_they_came_is_refused(self, holder: Holder) -> None:
        replica = land(holder, {"change_log": True}, row(1), key=())
        apply(holder, replica, changes_of(replica.table, [Change("delete", row(2), 90, 9)]))
        with pytest.raises(DestinationError, match="1 rows went more often than they came"):
            holder.count(replica)

    def test_a_log_without_a_key_that_kept_large_values_unsent_is_refused(self, holder: Holder) -> None:
        """An earlier replica identity of the origin's table may have left them out."""
        replica = land(holder, {"change_log": True}, row(1, big="x" * 3000), key=())
        kept = Change("update", row(2, big="x" * 3000), 90, 9, unchanged=frozenset({"big"}))
        apply(holder, replica, changes_of(replica.table, [kept]))
        with pytest.raises(DestinationError, match="kept a large value that was not sent again"):
            holder.count(replica)

    def test_keys_find_their_rows_and_null_equals_null(self, holder: Holder) -> None:
        hostile = ["it's", 'say "no"', "back\\slash", "{a,b}", "NULL", "", "%s", "a\nb", "naïve 東京"]
        rows = [row(n, text) for n, text in enumerate(hostile)] + [row(99, None), row(100, None, note=None)]
        replica = land(holder, {}, *rows, key=())
        found = holder.rows(replica, pa.table({"part": [*hostile[:3], None, None, "absent"]}))
        assert sort_rows(found.to_pylist()) == sort_rows([*rows[:3], *rows[-2:]])
        both = rows_of(replica.table, [rows[4], rows[-1]]).select(["note", "part"])
        assert sort_rows(holder.rows(replica, both).to_pylist()) == sort_rows([rows[4], rows[-1]])
        assert holder.rows(replica, both.slice(0, 0)).num_rows == 0
        with pytest.raises(DestinationError, match="no column 'z'"):
            holder.rows(replica, pa.table({"z": [1]}))

    def test_equal_rows_of_a_table_without_a_key_all_come(self, holder: Holder) -> None:
        replica = land(holder, {}, row(1), row(1), row(2), key=())
        everything = rows_of(replica.table, [row(1)])
        assert holder.rows(replica, everything).num_rows == 2
        assert holder.count(replica) == 3

    def test_a_state_stays_what_it_was_while_others_write(self, holder: Holder) -> None:
        replica = land(holder, {}, row(1), row(2))
        if not holder.holds:
            pytest.skip("it has no state: each answer is of its own moment")
        with holder.destination.open_state() as state:
            if not holder.begins:
                assert state.count(replica) == 2, "the first look at a table pins it"
            apply(holder, replica, changes_of(replica.table, [Change("insert", row(3), 20, 20)]))
            assert state.count(replica) == 2
            assert state.rows(replica).read_all().num_rows == 2
        assert holder.count(replica) == 3

    def test_a_table_or_column_that_is_not_there_is_told(self, holder: Holder) -> None:
        replica = land(holder, {}, row(1))
        with pytest.raises(DestinationError, match=r"--full-refresh --select source:shop\.orders"):
            holder.rows(replica_of(Table(TableName("landing", "absent"), replica.table.columns)))
        wider = replica_of(Table(replica.table.name, (*replica.table.columns, Column("more", pa.int64()))))
        with pytest.raises(DestinationError, match="no column 'more'"):
            holder.rows(wider)


class RandomStateTests(StateTests):
    """The same, and random workloads: for destinations whose applications take no seconds."""

    @RANDOM
    @given(steps=STEPS)
    @example(steps=[("truncate",), ("insert", (1, "a")), ("delete", (1, "a"))])
    def test_the_state_is_its_origins(self, holder: Holder, steps: list[tuple[Any, ...]]) -> None:
        model, replica = follow(holder, steps)
        found = holder.rows(replica)
        assert sort_rows(found.to_pylist()) == list_expected(model)
        assert found.schema == replica.table.arrow_schema
        assert holder.count(replica) == len(model.state)

    @RANDOM
    @given(steps=STEPS)
    @example(steps=[("truncate",), ("truncate",)])
    def test_rows_that_were_deleted_softly_are_no_rows(self, holder: Holder, steps: list[tuple[Any, ...]]) -> None:
        model, replica = follow(holder, steps, deletes="soft")
        assert sort_rows(holder.rows(replica).to_pylist()) == list_expected(model)
        assert holder.count(replica) == len(model.state)

    @RANDOM
    @given(steps=STEPS)
    def test_a_change_log_gives_back_the_state_that_it_tells_of(
        self, holder: Holder, steps: list[tuple[Any, ...]]
    ) -> None:
        model, replica = follow(holder, steps, change_log=True)
        try:
            found = holder.rows(replica)
        except DestinationError as error:
            kept_by_move = any(s[0] == "move" and s[3] for s in steps) or any(s[0] in ("rename", "drop") for s in steps)
            assert kept_by_move and "was not sent again" in str(error)
            return
        assert sort_rows(found.to_pylist()) == list_expected(model)
        assert holder.count(replica) == len(model.state)
        some = found.slice(0, 2).select(list(replica.table.key))
        assert sort_rows(holder.rows(replica, some).to_pylist()) == sort_rows(found.slice(0, 2).to_pylist())

    @RANDOM
    @given(
        steps=st.lists(st.tuples(st.sampled_from(["insert", "update", "delete", "truncate"]), *[st.integers(0, 3)] * 2))
    )
    @example(steps=[("delete", 0, 0), ("delete", 0, 0), ("insert", 0, 0)])
    def test_a_log_without_a_key_is_folded_to_each_row_as_often_as_it_came_more_than_it_went(
        self, holder: Holder, steps: list[tuple[str, int, int]]
    ) -> None:
        kinds = [row(1), row(1, None), row(2, "1.0", amount=None), row(2, "1.00", big="x" * 3000)]
        rows, replica = (
            [kinds[0], kinds[0], kinds[1]],
            land(holder, {"change_log": True}, *[kinds[0]] * 2, kinds[1], key=()),
        )
        for lsn, (what, one, other) in enumerate(steps, start=1):
            old, new = rows[one % len(rows)] if rows else None, kinds[other]
            if what == "truncate":
                apply(holder, replica, Truncated(8 * lsn, COPIED_AT))
                rows.clear()
            elif what == "insert" or old is None:
                rows.append(new)
                apply(holder, replica, changes_of(replica.table, [Change("insert", new, 8 * lsn, COPIED_AT)]))
            else:
                rows.remove(old)
                gone = Change("delete", old, 8 * lsn, COPIED_AT)
                change = gone if what == "delete" else Change("update", new, 8 * lsn, COPIED_AT, old)
                rows += [new] * (what == "update")
                apply(holder, replica, changes_of(replica.table, [change]))
        assert sort_rows(holder.rows(replica).to_pylist()) == sort_rows(rows)
        assert holder.count(replica) == len(rows)
        both = rows_of(replica.table, [kinds[0]])
        assert holder.rows(replica, both).num_rows == rows.count(kinds[0])
