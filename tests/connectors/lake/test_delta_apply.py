"""Changes arrive in Delta tables: against a model, and after whatever a crash leaves between two commits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbt_bridge.connectors.lake.delta import apply, history
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.lake.location import Lake
from dbt_bridge.contracts.destination import (
    CannotReshape,
    Follows,
    Load,
    NotApplied,
    Replica,
)
from dbt_bridge.errors import KeyRefused, TypeRefused
from dbt_bridge.nouns.changes import (
    Changes,
    Event,
    Reshaped,
    Truncated,
)
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.replicate.change_runs import join_runs, select_part
from dbt_bridge.testing.changes import (
    Change,
    Model,
    Row,
    changes_of,
    instant,
    rows_of,
)
from dbt_bridge.testing.workload import (
    COPIED_AT,
    COPY,
    KEYS,
    play,
    replica_of,
    sort_rows,
)
from dbt_bridge.testing.workload import orders as orders_

BEFORE = COPY[0]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), KEYS),
        st.tuples(st.just("update"), KEYS, st.booleans()),
        st.tuples(st.just("move"), KEYS, KEYS, st.booleans()),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.sampled_from(["truncate", "commit", "commit", "cut", "publish", "add", "drop"])),
    ),
    max_size=25,
)
RANDOM = settings(
    max_examples=15,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def lake(tmp_path: Path) -> DeltaDestination:
    return DeltaDestination("lake", Lake(str(tmp_path)))


def copied(lake: DeltaDestination, replica: Replica, rows: Sequence[Row], at: int = 0) -> None:
    loaded = lake.load(Load(replica.table, "replace", "load-1"), rows_of(replica.table, rows).to_reader())
    with lake.open_application("load-1") as application:
        application.join(replica, loaded, COPIED_AT)
        application.commit(at)


def applied(lake: DeltaDestination, replica: Replica, *events: Event, upto: int = 10_000) -> None:
    with lake.open_application("load-1") as application:
        for event in events:
            application.apply(replica, event)
        application.commit(upto)


def read(lake: DeltaDestination, name: TableName) -> list[Row]:
    table = lake.session.open(name)
    assert table is not None
    return list(table.to_pyarrow_table().to_pylist())


def followed(lake: DeltaDestination, replica: Replica, model: Model, ends: list[int]) -> None:
    for begin, end in itertools.pairwise([0, *ends]):
        with lake.open_application("load-1") as application:
            last = -1
            for table, event in model.events[begin:end]:
                now = Replica(replica.node, table, replica.deletes, replica.history, replica.change_log)
                application.apply(now, event)
                if not isinstance(event, Reshaped):
                    last = event.ordinal if isinstance(event, Truncated) else int(event.ordinal[-1])
            application.commit(last + 1)


def ran(lake: DeltaDestination, steps: list[tuple[Any, ...]], **how: Any) -> tuple[Model, Replica]:
    replica = replica_of(orders_(), **how)
    model = Model(replica.table, COPIED_AT)
    model.copy(COPY)
    copied(lake, replica, COPY)
    followed(lake, replica, model, play(model, steps))
    return model, replica


def versions_of(model: Model) -> list[Row]:
    return [{**row, "valid_from": instant(a), "valid_to": instant(b)} for row, a, b in model.history]


def without_lsn(rows: list[Row]) -> list[Row]:
    return sort_rows([{k: v for k, v in row.items() if k != "_lsn"} for row in rows])


@RANDOM
@given(steps=STEPS)
def test_the_table_is_what_its_origin_is(lake: DeltaDestination, steps: list[tuple[Any, ...]]) -> None:
    model, replica = ran(lake, steps)
    assert sort_rows(read(lake, replica.table.name)) == sort_rows(list(model.state.values()))


@RANDOM
@given(steps=STEPS)
def test_soft_deletes_and_history(lake: DeltaDestination, steps: list[tuple[Any, ...]]) -> None:
    model, replica = ran(lake, steps, deletes="soft", history=True)
    kept = [{**row, "_deleted_at": instant(died)} for row, died in model.soft.values()]
    assert sort_rows(read(lake, replica.table.name)) == sort_rows(kept)
    assert without_lsn(read(lake, replica.history_name)) == sort_rows(versions_of(model))


@RANDOM
@given(steps=STEPS)
def test_a_change_log_has_every_change_in_its_order(lake: DeltaDestination, steps: list[tuple[Any, ...]]) -> None:
    model, replica = ran(lake, steps, change_log=True)
    names = {key for row in model.log for key in row} - {"_at"} | {c.name for c in model.table.columns}
    expected = [
        {**dict.fromkeys(names), "_unchanged": None, **row, "_committed_at": instant(row["_at"])} for row in model.log
    ]
    assert sort_rows(read(lake, replica.table.name)) == sort_rows(
        [{k: v for k, v in row.items() if k != "_at"} for row in expected]
    )


@RANDOM
@given(steps=STEPS)
def test_a_transaction_that_is_written_in_pieces_is_the_same(
    lake: DeltaDestination, steps: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "_MOST_ROWS", 2)
    model, replica = ran(lake, steps, history=True)
    assert sort_rows(read(lake, replica.table.name)) == sort_rows(list(model.state.values()))
    assert without_lsn(read(lake, replica.history_name)) == sort_rows(versions_of(model))


def a_run(replica: Replica) -> tuple[Model, list[Changes]]:
    """Two transactions, cut apart: a kept value, a moved row, a delete."""
    model = Model(replica.table, COPIED_AT)
    model.copy(COPY)
    model.update((1, "a"), {"id": 9}, frozenset({"big"}))
    model.insert({**BEFORE, "id": 5})
    model.commit()
    model.cut()
    model.update((9, "a"), {"note": "again"}, frozenset({"big"}))
    model.delete((3, "a"))
    model.commit()
    model.cut()
    return model, [event for _, event in model.events if isinstance(event, Changes)]


@pytest.mark.parametrize("how", [{"history": True}, {"deletes": "soft"}, {"change_log": True}])
def test_pieces_that_were_not_committed_are_taken_back_by_the_next_process(
    lake: DeltaDestination, how: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "_MOST_ROWS", 1)
    replica = replica_of(orders_(), **how)
    copied(lake, replica, COPY)
    model, runs = a_run(replica)
    killed = lake.open_application("load-1")
    application = killed.__enter__()
    for run in runs:
        application.apply(replica, run)
    assert lake.position(replica) == 0
    monkeypatch.setattr(application, "_followed", {})  # the process is gone, what it wrote is there

    applied(lake, replica, *runs, upto=int(runs[-1].ordinal[-1]) + 1)

    if replica.change_log:
        assert len(read(lake, replica.table.name)) == len(model.log)
    elif replica.history:
        assert sort_rows(read(lake, replica.table.name)) == sort_rows(list(model.state.values()))
        assert without_lsn(read(lake, replica.history_name)) == sort_rows(versions_of(model))
    else:
        kept = [{**row, "_deleted_at": instant(died)} for row, died in model.soft.values()]
        assert sort_rows(read(lake, replica.table.name)) == sort_rows(kept)
    assert lake.position(replica) == int(runs[-1].ordinal[-1]) + 1


def test_what_is_not_committed_never_was(lake: DeltaDestination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "_MOST_ROWS", 1)
    replica = replica_of(orders_(), history=True)
    copied(lake, replica, COPY)
    _, runs = a_run(replica)
    with pytest.raises(ZeroDivisionError), lake.open_application("load-1") as application:
        for run in runs:
            application.apply(replica, run)
        assert sort_rows(read(lake, replica.table.name)) != sort_rows(COPY)
        raise ZeroDivisionError
    assert sort_rows(read(lake, replica.table.name)) == sort_rows(COPY)
    assert len(read(lake, replica.history_name)) == len(COPY)


def test_a_history_that_is_ahead_of_its_table_gets_nothing_twice(lake: DeltaDestination) -> None:
    replica = replica_of(orders_(), history=True)
    copied(lake, replica, COPY)
    model, runs = a_run(replica)
    first = int(runs[0].ordinal[-1]) + 1
    with lake.open_application("load-1") as application:  # the process dies after the history's commit
        both = application._of(replica)
        assert both.history is not None
        history.write(replica, both.landing, both.history, join_runs(runs[:1]), first)
    assert lake.position(replica) == 0

    applied(lake, replica, *runs, upto=int(runs[1].ordinal[-1]) + 1)

    assert sort_rows(read(lake, replica.table.name)) == sort_rows(list(model.state.values()))
    assert without_lsn(read(lake, replica.history_name)) == sort_rows(versions_of(model))


@pytest.mark.parametrize("most_rows", [1, 1_000])
@pytest.mark.parametrize("again", [[1, 1], [2]], ids=["in two batches", "in pieces"])
def test_a_table_behind_its_history_catches_up_in_steps(
    lake: DeltaDestination, again: list[int], most_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What died between the two commits comes again in smaller batches, or more of it than memory holds."""
    replica = replica_of(orders_(), history=True)
    copied(lake, replica, COPY)
    model, runs = a_run(replica)
    ends = [int(run.ordinal[-1]) + 1 for run in runs]
    # The process dies after the history's commit, the table's lacks
    with lake.open_application("load-1") as application:
        both = application._of(replica)
        assert both.history is not None
        history.write(replica, both.landing, both.history, join_runs(runs), ends[-1])

    monkeypatch.setattr(apply, "_MOST_ROWS", most_rows)
    for count in again:
        applied(lake, replica, *runs[:count], upto=ends[count - 1])
        assert lake.position(replica) == ends[count - 1]
        runs, ends = runs[count:], ends[count:]

    assert sort_rows(read(lake, replica.table.name)) == sort_rows(list(model.state.values()))
    assert without_lsn(read(lake, replica.history_name)) == sort_rows(versions_of(model))


def test_what_was_applied_before_a_crash_is_left_out(lake: DeltaDestination) -> None:
    replica = replica_of(orders_(), change_log=True)
    copied(lake, replica, COPY)
    model, runs = a_run(replica)
    applied(lake, replica, runs[0], upto=int(runs[0].ordinal[-1]) + 1)
    table = lake.session.open(replica.table.name)
    table.create_checkpoint()
    assert lake.position(replica) == int(runs[0].ordinal[-1]) + 1

    applied(lake, replica, *runs, upto=int(runs[1].ordinal[-1]) + 1)

    assert len(read(lake, replica.table.name)) == len(model.log)


def test_a_table_that_is_copied_anew_forgets_where_it_stood(lake: DeltaDestination) -> None:
    """The origin may be another server now, whose log is at lower LSNs."""
    replica = replica_of(orders_(), history=True)
    copied(lake, replica, COPY, at=900_000)
    changed = {**COPY[0], "note": "copied anew"}
    copied(lake, replica, [changed, *COPY[2:]], at=100)
    assert lake.position(replica) == 100
    _, runs = a_run(replica_of(replica.table))
    applied(lake, replica, runs[0])
    assert {row["id"] for row in read(lake, replica.table.name)} == {9, 3, 5}
    versions = sort_rows(
        [{k: v for k, v in row.items() if k in ("id", "part", "note")} for row in read(lake, replica.history_name)]
    )
    assert {"id": 1, "note": "copied anew", "part": "a"} in versions
    assert len(versions) == len(COPY) + 3


def test_a_history_goes_on_when_its_table_is_copied_anew_with_another_column(lake: DeltaDestination) -> None:
    replica = replica_of(orders_(), history=True)
    copied(lake, replica, [BEFORE])
    wider = Table(replica.table.name, (*replica.table.columns, Column("more", pa.string(), "text")), replica.table.key)
    copied(lake, replica_of(wider, history=True), [{**BEFORE, "more": "than before"}])
    versions = {row["more"]: row["valid_to"] for row in read(lake, replica.history_name)}
    assert versions == {None: instant(COPIED_AT), "than before": None}

    number = Table(replica.table.name, (*replica.table.columns, Column("more", pa.int64(), "bigint")), ("id", "part"))
    with pytest.raises(TypeRefused, match=r"'more'.*\n.*move the folder"):
        copied(lake, replica_of(number, history=True), [{**BEFORE, "more": 7}])


def test_columns_added_by_hand_keep_their_values(lake: DeltaDestination) -> None:
    from deltalake import Field
    from deltalake.schema import PrimitiveType

    replica = replica_of(orders_())
    copied(lake, replica, [BEFORE, {**BEFORE, "id": 2}])
    table = lake.session.open(replica.table.name)
    table.alter.add_columns([Field("mine", PrimitiveType("long"))])
    table.update(updates={"mine": "id * 10"})
    changes = [
        Change("update", {**BEFORE, "note": "new"}, 1, 1),
        Change("update", {**BEFORE, "id": 3}, 1, 1, {"id": 2, "part": "a"}),
        Change("insert", {**BEFORE, "id": 4}, 1, 1),
    ]
    applied(lake, replica, changes_of(replica.table, changes))
    assert {row["id"]: row["mine"] for row in read(lake, replica.table.name)} == {1: 10, 3: 20, 4: None}


def test_a_row_that_is_gone_is_never_made_up(lake: DeltaDestination) -> None:
    replica = replica_of(orders_())
    copied(lake, replica, [BEFORE])
    change = Change("update", {**BEFORE, "id": 7}, 1, 1, None, frozenset({"big"}))
    with pytest.raises(NotApplied, match=r"--full-refresh --select source:shop\.orders") as refused:
        applied(lake, replica, changes_of(replica.table, [change]))
    assert isinstance(refused.value.error, KeyRefused)
    assert read(lake, replica.table.name) == [BEFORE]


def test_a_table_that_refuses_while_another_one_needs_its_room_is_the_one_that_is_told(
    lake: DeltaDestination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "_MOST_BYTES", 1)
    monkeypatch.setattr(apply, "share_memory", lambda most, part: most)
    refusing, other = replica_of(orders_()), replica_of(orders_())
    other = replace(other, node="source.shop.others", table=replace(other.table, name=TableName("landing", "others")))
    for replica in (refusing, other):
        copied(lake, replica, [BEFORE])
    gone = Change("update", {**BEFORE, "id": 7}, 1, 1, None, frozenset({"big"}))
    new = Change("insert", {**BEFORE, "id": 8}, 1, 1)
    with lake.open_application("load-1") as application:
        application.apply(refusing, changes_of(refusing.table, [gone]))
        with pytest.raises(NotApplied) as refused:
            application.apply(other, changes_of(other.table, [new]))
    assert refused.value.node == refusing.node


def test_what_delta_cannot_is_refused_with_the_mend(lake: DeltaDestination) -> None:
    keyed, keyless = replica_of(orders_()), replica_of(orders_(()))
    copied(lake, keyed, [BEFORE])
    copied(lake, keyless, [BEFORE])
    new = [Column("remark" if c.name == "note" else c.name, c.type, c.origin_type) for c in keyed.table.columns]
    with pytest.raises(CannotReshape, match="renamed"):
        applied(lake, keyed, Reshaped(new, {"note": "remark"}))
    with pytest.raises(KeyRefused, match="primary key"):
        applied(lake, keyless, changes_of(keyless.table, [Change("delete", BEFORE, 1, 1)]))
    applied(lake, keyless, changes_of(keyless.table, [Change("insert", BEFORE, 1, 1)]))
    assert read(lake, keyless.table.name) == [BEFORE, BEFORE]
    missing = Table(keyed.table.name, (*keyed.table.columns, Column("more", keyed.table.columns[0].type)), ("id",))
    with pytest.raises(TypeRefused, match="'more'"):
        applied(lake, replica_of(missing), Truncated(1, 1))


def test_it_follows(lake: DeltaDestination) -> None:
    assert isinstance(lake, Follows)
    run = changes_of(orders_(), [Change("insert", BEFORE, n, n) for n in (1, 2, 3)])
    middle = select_part(run, 2, 3)
    assert isinstance(middle, Changes)
    assert list(middle.ordinal) == [2]
