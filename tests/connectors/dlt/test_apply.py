"""Changes are merged through dlt's SQL client: into a real Postgres as PostgreSQL and as Redshift, and into DuckDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import dlt
import pytest

from dbt_bridge.connectors.dlt.warehouse import DltWarehouse
from dbt_bridge.contracts.destination import (
    CannotReshape,
    Follows,
    Load,
    Replica,
)
from dbt_bridge.errors import BridgeError, KeyRefused
from dbt_bridge.nouns.changes import Event, Reshaped, Truncated
from dbt_bridge.nouns.table import Column, TableName
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
    orders,
    replica_of,
    sort_rows,
)


@pytest.fixture(params=["postgres", "duckdb"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DltWarehouse]:
    if request.param == "duckdb":
        yield DltWarehouse("duckdb", dlt.destinations.duckdb(str(tmp_path / "w.duckdb")))
        return
    url = request.getfixturevalue("database").replace("postgres@", "postgres:none@")
    yield DltWarehouse(request.param, dlt.destinations.postgres(url))


@pytest.fixture
def dialect(warehouse: DltWarehouse, monkeypatch: pytest.MonkeyPatch) -> str:
    """Redshift's statements are Postgres's too: they run there."""
    if warehouse.name == "redshift":
        abilities = warehouse.session.capabilities()
        abilities.sqlglot_dialect = "redshift"
        monkeypatch.setattr(warehouse.session, "capabilities", lambda: abilities)
    return warehouse.name


def copied(warehouse: DltWarehouse, replica: Replica, rows: Sequence[Row]) -> None:
    loaded = warehouse.load(Load(replica.table, "replace", "load-1"), rows_of(replica.table, rows).to_reader())
    with warehouse.open_application("load-1") as application:
        application.join(replica, loaded, COPIED_AT)
        application.commit(0)


def applied(warehouse: DltWarehouse, replica: Replica, *events: Event, upto: int = 5000) -> None:
    with warehouse.open_application("load-1") as application:
        for event in events:
            application.apply(replica, event)
        application.commit(upto)


def read(warehouse: DltWarehouse, name: TableName) -> list[Row]:
    return list(warehouse.read(name).read_all().to_pylist())


def a_run(replica: Replica) -> Model:
    model = Model(replica.table, COPIED_AT)
    model.copy(COPY)
    model.update((1, "a"), {"id": 9, "amount": None}, frozenset({"big"}))
    model.update((1, "b"), {"id": 1, "part": "a", "note": "took its place"}, frozenset({"big"}))
    model.insert({**COPY[0], "id": 5})
    model.commit()
    model.update((9, "a"), {"note": "again"}, frozenset({"big"}))
    model.delete((3, "a"))
    model.insert({**COPY[0], "id": 6})
    model.update((6, "a"), {"note": "six"}, frozenset({"big"}))
    model.commit()
    model.cut()
    return model


@pytest.mark.parametrize("warehouse", ["postgres", "redshift", "duckdb"], indirect=True)
def test_a_net_effect_is_merged_and_nothing_twice(warehouse: DltWarehouse, dialect: str) -> None:
    replica = replica_of(orders())
    copied(warehouse, replica, COPY)
    model = a_run(replica)
    ((_, run),) = model.events
    assert isinstance(warehouse, Follows)
    assert warehouse.position(replica) == 0
    applied(warehouse, replica, run)
    applied(warehouse, replica, run)
    assert warehouse.position(replica) == 5000
    assert sort_rows(read(warehouse, replica.table.name)) == sort_rows(list(model.state.values()))
    with warehouse.session.sql_client(replica.table.name) as client:
        tables = client.execute_sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'landing'")
    assert not [name for (name,) in tables if "stage" in name]


@pytest.mark.parametrize("warehouse", ["postgres", "redshift", "duckdb"], indirect=True)
def test_soft_deletes_and_truncate(warehouse: DltWarehouse, dialect: str) -> None:
    replica = replica_of(orders(), deletes="soft")
    copied(warehouse, replica, COPY)
    model = a_run(replica)
    model.truncate()
    model.insert({**COPY[0], "id": 7})
    model.commit()
    model.cut()
    applied(warehouse, replica, *[event for _, event in model.events])
    kept = [{**row, "_deleted_at": instant(died)} for row, died in model.soft.values()]
    assert sort_rows(read(warehouse, replica.table.name)) == sort_rows(kept)


def test_a_log_has_no_entry_twice(warehouse: DltWarehouse, dialect: str) -> None:
    replica = replica_of(orders(), change_log=True)
    copied(warehouse, replica, COPY)
    model = a_run(replica)
    model.truncate()
    events = [event for _, event in model.events]
    applied(warehouse, replica, *events)
    with warehouse.session.sql_client(replica.table.name) as client:  # as if the process had died before it was said
        client.execute_sql("DELETE FROM landing._dbt_bridge_applied")
    applied(warehouse, replica, *events)
    logged = read(warehouse, replica.table.name)
    keys = ("_change", "_lsn", "_seq", "id")
    expected = [{k: row.get(k) for k in keys} for row in model.log]
    for row in expected:
        row["_seq"] = None if row["_lsn"] is None else row["_seq"]
    assert sort_rows([{k: row[k] for k in keys} for row in logged]) == sort_rows(expected)
    assert {row["_committed_at"] for row in logged if row["_lsn"] is None} == {instant(COPIED_AT)}


def test_a_column_that_the_origin_added(warehouse: DltWarehouse, dialect: str) -> None:
    replica = replica_of(orders())
    copied(warehouse, replica, COPY[:1])
    column = Column("more", replica.table.columns[0].type, "bigint")
    applied(warehouse, replica, Reshaped((*replica.table.columns, column)))
    assert read(warehouse, replica.table.name) == [{**COPY[0], "more": None}]
    with pytest.raises(CannotReshape):
        applied(warehouse, replica, Reshaped(replica.table.columns, {"note": "remark"}))


def test_what_cannot_be_exact_is_refused(warehouse: DltWarehouse, dialect: str) -> None:
    keyed, keyless = replica_of(orders()), replica_of(orders(()))
    copied(warehouse, keyed, COPY)
    copied(warehouse, keyless, COPY)
    with pytest.raises(BridgeError, match="not be exact"):
        applied(warehouse, replica_of(keyed.table, history=True), Truncated(1, 1))
    with pytest.raises(KeyRefused, match="no key"):
        applied(warehouse, keyless, changes_of(keyless.table, [Change("delete", COPY[0], 1, 1)]))
    lost = Change("update", {**COPY[0], "id": 77}, 1, 1, None, frozenset({"big"}))
    with pytest.raises(KeyRefused, match="1 rows"):
        applied(warehouse, keyed, changes_of(keyed.table, [lost]))
    assert sort_rows(read(warehouse, keyed.table.name)) == sort_rows(COPY)
