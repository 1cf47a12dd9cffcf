"""A run of changes leaves what the changes, one by one, leave: for keys of every type, whatever moves where."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_bridge.errors import KeyRefused
from dbt_bridge.nouns.changes import INSERT, UPDATE, Changes
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.replicate.compaction import (
    Lineages,
    Net,
    Written,
    net,
)
from dbt_bridge.testing.changes import (
    Change,
    Model,
    Row,
    changes_of,
)

# Four keys of each type, some of them alike but for their last digit or byte.
KEYS: dict[str, tuple[tuple[pa.DataType, ...], list[tuple[Any, ...]]]] = {
    "bigint": ((pa.int64(),), [(-(2**63),), (0,), (1,), (2**63 - 1,)]),
    "text": ((pa.string(),), [("",), ("a",), ("A",), ("a\x00 ü",)]),
    "uuid": ((pa.uuid(),), [(uuid.UUID(int=n),) for n in (0, 1, 2**64, 2**128 - 1)]),
    "decimal": ((pa.decimal128(38, 10),), [(Decimal(n).scaleb(-10),) for n in (-1, 0, 1, 10**30)]),
    "timestamp": (
        (pa.timestamp("us", "UTC"),),
        [(datetime(2024, 1, 1, tzinfo=UTC) + timedelta(microseconds=n),) for n in range(4)],
    ),
    "bytea": ((pa.binary(),), [(b"",), (b"\x00",), (b"\x00\x00",), (b"\xff",)]),
    "composite": (
        (pa.date32(), pa.string(), pa.bool_()),
        [(date(2024, 1, d), t, b) for d, t, b in ((1, "a", True), (1, "a", False), (1, "b", True), (2, "a", True))],
    ),
}
KEY = st.integers(0, 3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), KEY, KEY, st.booleans()),
        st.tuples(st.just("update"), KEY, KEY, st.booleans()),
        st.tuples(st.just("move"), KEY, KEY, st.booleans()),
        st.tuples(st.just("move"), KEY, KEY, st.booleans()),
        st.tuples(st.just("delete"), KEY, KEY, st.booleans()),
        st.tuples(st.just("commit"), KEY, KEY, st.booleans()),
    ),
    max_size=30,
)


def table_of(kind: str) -> Table:
    types, _ = KEYS[kind]
    key = tuple(f"k{i}" for i in range(len(types)))
    columns = [Column(name, type_) for name, type_ in zip(key, types, strict=True)]
    columns += [Column("v", pa.int64()), Column("big", pa.string()), Column("large", pa.string())]
    return Table(TableName("landing", "t"), tuple(columns), key)


def played(kind: str, copied: set[int], steps: list[tuple[str, int, int, bool]]) -> tuple[Model, dict[Any, Row]]:
    """A model after the steps that are possible, and the state that it began with."""
    table, keys = table_of(kind), KEYS[kind][1]
    model = Model(table)

    def row(number: int, value: int) -> Row:
        return {**dict(zip(table.key, keys[number], strict=True)), "v": value, "big": f"b{value}", "large": f"l{value}"}

    model.copy([row(number, -number) for number in sorted(copied)])
    begun = {key: dict(row) for key, row in model.state.items()}
    for value, (what, one, other, leaves_out) in enumerate(steps):
        unchanged = frozenset({"big"} if leaves_out else {"big", "large"} if value % 3 == 0 else ())
        if what == "insert" and keys[one] not in model.state:
            model.insert(row(one, value))
        elif what == "update" and keys[one] in model.state:
            model.update(keys[one], row(one, value), unchanged)
        elif what == "move" and keys[one] in model.state and keys[other] not in model.state:
            model.update(keys[one], row(other, value), unchanged)
        elif what == "delete" and keys[one] in model.state:
            model.delete(keys[one])
        elif what == "commit":
            model.commit()
    model.commit()
    return model, begun


def whole(written: Written, key: tuple[str, ...], state: dict[Any, Row]) -> list[Row]:
    """The rows with the values that they keep from a state."""
    rows = written.rows.to_pylist()
    found = rows if written.found_under is None else written.found_under.to_pylist()
    for number, row in enumerate(rows):
        for column, flags in written.kept.items():
            if flags[number]:
                assert row[column] is None
                row[column] = state[tuple(found[number][name] for name in key)][column]
    return rows


def after(effect: Net, key: tuple[str, ...], state: dict[Any, Row]) -> dict[Any, Row]:
    """A state to which a net effect was applied, in the order that `Net` says."""
    rows = {tuple(row[name] for name in key): row for row in whole(effect.written, key, state)}
    assert len(rows) == len(effect.written), "one row per key"
    deleted = [tuple(row[name] for name in key) for row in effect.deleted.to_pylist()]
    assert len(set(deleted)) == len(deleted)
    assert not set(deleted) & set(rows)
    continuing = {k for k, continues in zip(rows, effect.written.continues, strict=True) if continues}
    if effect.written.found_under is None:
        assert continuing <= set(state)
    return {**{k: row for k, row in state.items() if k not in deleted}, **rows}


@pytest.mark.parametrize("kind", sorted(KEYS))
@settings(max_examples=60, deadline=None, print_blob=True)
@given(copied=st.sets(KEY), steps=STEPS)
def test_the_net_effect_is_that_of_the_changes(
    kind: str, copied: set[int], steps: list[tuple[str, int, int, bool]]
) -> None:
    model, begun = played(kind, copied, steps)
    if model.pending:
        effect = net(model.table, changes_of(model.table, model.pending))
        assert after(effect, model.table.key, begun) == model.state


@settings(max_examples=100, deadline=None, print_blob=True)
@given(copied=st.sets(KEY), steps=STEPS)
def test_a_soft_delete_keeps_the_last_values(copied: set[int], steps: list[tuple[str, int, int, bool]]) -> None:
    model, begun = played("text", copied, steps)
    if model.pending:
        effect = net(model.table, changes_of(model.table, model.pending), soft=True)
        state = {key: {**row, "_deleted_at": None} for key, row in begun.items()}
        left = after(effect, model.table.key, state)
        at = {key: row.pop("_deleted_at") for key, row in left.items()}
        assert left == {key: row for key, (row, _) in model.soft.items()}
        assert {k for k, time in at.items() if time} == {k for k, (_, died) in model.soft.items() if died is not None}


@settings(max_examples=100, deadline=None, print_blob=True)
@given(copied=st.sets(KEY), steps=STEPS)
def test_every_committed_version_is_there(copied: set[int], steps: list[tuple[str, int, int, bool]]) -> None:
    model, begun = played("composite", copied, steps)
    if not model.pending:
        return
    key = model.table.key
    versions = Lineages.of(model.table, changes_of(model.table, model.pending)).versions()
    ended = {tuple(row[k] for k in key): row["valid_to"] for row in versions.closed.to_pylist()}
    found = [[dict(row), None, ended.get(k)] for k, row in begun.items()]
    for row in whole(versions.written, key, begun):
        del row["_lsn"]
        begins, ends = row.pop("valid_from"), row.pop("valid_to")
        found.append([row, begins, ends])
    expected = [[row, _time(begins) if begins else None, _time(ends)] for row, begins, ends in model.history]
    assert sorted(found, key=repr) == sorted(expected, key=repr)


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def moves(*keys: tuple[int, int]) -> list[Change]:
    """Updates that change the key and leave out the large values."""
    unsent = frozenset({"big", "large"})
    return [Change("update", {"k0": new, "v": n}, 8, 1, {"k0": old}, unsent) for n, (old, new) in enumerate(keys)]


@pytest.mark.parametrize(
    ("keys", "left"),
    [
        ([(1, 2), (2, 3)], {3: "one"}),
        ([(1, 9), (2, 1), (9, 2)], {1: "two", 2: "one"}),
        ([(1, 9), (9, 1)], {1: "one", 2: "two"}),
        ([(2, 3), (1, 2), (3, 1)], {1: "two", 2: "one"}),
    ],
)
def test_values_that_were_not_sent_follow_their_row_through_every_key(
    keys: list[tuple[int, int]], left: dict[int, str]
) -> None:
    table = table_of("bigint")
    names = {1: "one"} if keys[-1] == (2, 3) else {1: "one", 2: "two"}
    state = {(k,): {"k0": k, "v": None, "big": name, "large": name} for k, name in names.items()}
    effect = net(table, changes_of(table, moves(*keys)))
    assert {k: row["big"] for (k,), row in after(effect, table.key, state).items()} == left


def test_a_key_that_is_stored_out_of_line_and_did_not_change_is_that_of_the_old_row() -> None:
    table = table_of("text")
    change = Change("update", {"k0": "large key", "v": 1, "big": "x", "large": "y"}, 8, 1, {"k0": "large key"})
    unsent = Change("update", change.row, 8, 1, change.before, frozenset({"k0"}))
    effect = net(table, changes_of(table, [unsent]))
    assert effect.written.rows.to_pylist() == [change.row]
    assert len(effect.deleted) == 0


def test_a_key_that_is_null_or_cannot_be_compared_is_refused() -> None:
    table = table_of("bigint")
    row = {"k0": None, "v": 1, "big": "x", "large": "y"}
    with pytest.raises(KeyRefused, match=r"'k0' of landing\.t is NULL"):
        net(table, changes_of(table, [Change("insert", row, 8, 1)]))
    union = pa.UnionArray.from_dense(pa.array([0], pa.int8()), pa.array([0], pa.int32()), [pa.array([1])])
    without = Table(table.name, (Column("k0", union.type),), ("k0",))
    one = np.ones(1, np.int64)
    with pytest.raises(KeyRefused, match="cannot be compared"):
        net(without, Changes(pa.table({"k0": union}), np.full(1, INSERT, np.uint8), one, one))


def test_a_key_is_written_as_the_last_change_wrote_it() -> None:
    """0.0 and -0.0 are one key; the update that made one of the other moved no row."""
    table = Table(TableName("landing", "t"), (Column("k", pa.float64()), Column("v", pa.int64())), ("k",))
    rows = pa.table({"k": [0.0, -0.0, -0.0], "v": [1, 2, 3]})
    before, number = pa.table({"k": [None, 0.0, None]}), np.arange(3)
    kind = np.array([UPDATE, UPDATE, UPDATE], np.uint8)
    changes = Changes(rows, kind, number, number, {}, before, np.array([False, True, False]))
    effect = net(table, changes)
    assert [str(row) for row in effect.written.rows.to_pylist()] == ["{'k': -0.0, 'v': 3}"]
    assert not len(effect.deleted) and not effect.written.moved.any()


@pytest.mark.parametrize(
    "changes",
    [
        [Change("insert", {"k0": 1}, 8, 1), Change("insert", {"k0": 1}, 8, 1)],
        [Change("delete", {"k0": 1}, 8, 1), Change("update", {"k0": 1}, 8, 1)],
        [Change("update", {"k0": 1}, 8, 1), *moves((2, 1))],
    ],
)
def test_two_rows_with_one_key_or_none_that_changes_are_refused(changes: list[Change]) -> None:
    table = table_of("bigint")
    with pytest.raises(KeyRefused, match="two rows have one key"):
        net(table, changes_of(table, changes))


def test_rows_come_in_chunks_as_well() -> None:
    ids = np.arange(10, dtype=np.int64)
    rows = pa.chunked_array([pa.array(ids[:3] % 2), pa.array(ids[3:] % 2)])
    values = pa.chunked_array([pa.array(ids[:7]), pa.array(ids[7:])])
    table = Table(TableName("landing", "t"), (Column("k", pa.int64()), Column("v", pa.int64())), ("k",))
    kind = np.where(ids < 2, INSERT, UPDATE).astype(np.uint8)
    effect = net(table, Changes(pa.table({"k": rows, "v": values}), kind, ids, ids))
    assert effect.written.rows.to_pylist() == [{"k": 0, "v": 8}, {"k": 1, "v": 9}]
    assert not effect.written.continues.any()
