"""`deletes: own`: what a delivery inserted and left the model goes, rows of others stay, nothing is sent twice."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.deliver.contacts import CONTACTS, Send, build_model, make_send

from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.contracts.destination import BeginAgain, Load, Loaded
from dbt_bridge.contracts.outgoing import Outgoing
from dbt_bridge.deliver.digests import Digester
from dbt_bridge.errors import DestinationError
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Column, TableName
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.system.lock_wait import LockWait, use_lock_wait

DELIVERY = replace(CONTACTS, deletes="own")


@pytest.fixture
def send(project: Project, warehouse_file: Path) -> Send:
    return make_send(project, warehouse_file, DELIVERY)


def rows_of(*rows: tuple[int, str]) -> str:
    values = ", ".join(f"({key}::INTEGER, '{name}')" for key, name in rows)
    return f"SELECT * FROM (VALUES {values}) AS t(id, name)"  # noqa: S608


def counts(receipt: Receipt) -> tuple[int | None, ...]:
    assert receipt.status == "success", receipt.error
    return receipt.rows_inserted, receipt.rows_updated, receipt.rows_deleted


ROWS = "SELECT id, name FROM app.contact ORDER BY id"


def test_only_what_changed_is_sent_and_what_left_the_model_goes(send: Send, origin: psycopg.Connection) -> None:
    origin.execute("CREATE SCHEMA app; CREATE TABLE app.contact (id int PRIMARY KEY, name text, remark text)")
    origin.execute("INSERT INTO app.contact VALUES (2, 'theirs before', 'x'), (99, 'theirs', 'y')")

    first = send(rows_of((1, "Ann"), (2, "Bob"), (3, "Cid")))
    again = send()
    looked = send(rows_of((1, "Ann"), (4, "Dan")), dry_run=True)
    changed = send()

    assert counts(first) == (2, 1, 0)
    assert (*counts(again), again.rows_loaded) == (0, 0, 0, 0)
    assert counts(looked) == counts(changed) == (1, 0, 1)
    assert "1 rows left the model and stay" in (changed.note or "")  # 2 was there before the first delivery
    assert origin.execute(ROWS).fetchall() == [(1, "Ann"), (2, "Bob"), (4, "Dan"), (99, "theirs")]


def test_a_row_of_an_application_under_a_key_that_was_never_sent_stays(send: Send, origin: psycopg.Connection) -> None:
    send(rows_of((1, "Ann")))
    origin.execute("INSERT INTO app.contact VALUES (7, 'theirs')")

    gone = send(rows_of((2, "Bob")))

    assert counts(gone) == (1, 0, 1)
    assert origin.execute(ROWS).fetchall() == [(2, "Bob"), (7, "theirs")]


def test_a_table_that_was_made_anew_has_nothing_of_ours(send: Send, origin: psycopg.Connection) -> None:
    send(rows_of((1, "Ann"), (2, "Bob")))
    origin.execute("DROP TABLE app.contact; CREATE TABLE app.contact (id int PRIMARY KEY, name text)")
    origin.execute("INSERT INTO app.contact VALUES (1, 'theirs'), (2, 'theirs')")

    receipt = send(rows_of((2, "Bob")))

    assert counts(receipt) == (0, 1, 0)
    assert origin.execute(ROWS).fetchall() == [(1, "theirs"), (2, "Bob")]


def test_where_no_row_was_left_what_comes_is_somebody_elses(send: Send, origin: psycopg.Connection) -> None:
    send(rows_of((1, "Ann")))
    assert counts(send(f"{rows_of((1, 'Ann'))} WHERE false")) == (0, 0, 1)
    origin.execute("INSERT INTO app.contact VALUES (1, 'theirs')")

    assert counts(send(rows_of((2, "Bob")))) == (1, 0, 0)
    assert origin.execute(ROWS).fetchall() == [(1, "theirs"), (2, "Bob")]


def test_a_row_that_somebody_deleted_there_comes_again(send: Send, origin: psycopg.Connection) -> None:
    send(rows_of((1, "Ann"), (2, "Bob")))
    origin.execute("DELETE FROM app.contact WHERE id = 1")

    assert counts(send()) == (1, 0, 0)
    assert origin.execute(ROWS).fetchall() == [(1, "Ann"), (2, "Bob")]


def test_a_delivery_killed_around_its_commit_is_made_good_by_the_next(
    send: Send, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(rows_of((1, "Ann"), (2, "Bob")))
    load = PostgresWarehouse.load

    def killed(self: PostgresWarehouse, *given: Any, before: bool) -> Any:
        if not before:
            load(self, *given)
        raise KeyboardInterrupt

    for before in (True, False):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(PostgresWarehouse, "load", lambda *given, before=before: killed(*given, before=before))
            send(rows_of((1, "Anna"), (3, "Cid")))
    made_good = send()

    assert made_good.status == "success", made_good.error
    assert origin.execute(ROWS).fetchall() == [(1, "Anna"), (3, "Cid")]
    assert counts(send()) == (0, 0, 0)
    assert counts(send(rows_of((1, "Anna")))) == (0, 0, 1)  # 3 is known to be ours


def test_whether_a_commit_without_an_answer_arrived_is_no_guess(
    send: Send, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(rows_of((1, "Ann")))
    load = PostgresWarehouse.load

    def unanswered(self: PostgresWarehouse, *given: Any, arrives: bool) -> Any:
        if arrives:
            load(self, *given)
        raise DestinationError("the connection broke off")

    for key, arrives in ((2, True), (3, False)):
        with monkeypatch.context() as patch:
            patch.setattr(
                PostgresWarehouse, "load", lambda *given, arrives=arrives: unanswered(*given, arrives=arrives)
            )
            assert send(rows_of((1, "Ann"), (key, "Bob"))).status == "failed"
    origin.execute("INSERT INTO app.contact VALUES (3, 'theirs')")

    assert counts(send(rows_of((1, "Ann"), (3, "Cid")))) == (0, 1, 1), "2 was ours, and left the model"
    assert counts(send(rows_of((1, "Ann")))) == (0, 0, 0), "3 was theirs when it came to be sent"
    assert origin.execute(ROWS).fetchall() == [(1, "Ann"), (3, "Cid")]


def test_what_another_warehouse_delivered_is_sent_again_and_never_taken_for_ours(
    send: Send, origin: psycopg.Connection, project: Project, tmp_path: Path
) -> None:
    send(rows_of((1, "Ann"), (2, "Bob")))
    file = tmp_path / "other.duckdb"
    elsewhere = replace(
        project, warehouse=replace(project.warehouse, credentials={"type": "duckdb", "path": str(file)})
    )
    make_send(elsewhere, file, DELIVERY)(rows_of((1, "Anna"), (3, "Cid")))

    assert counts(send(rows_of((1, "Ann"), (2, "Bob")))) == (0, 2, 0)
    assert counts(send(rows_of((1, "Ann")))) == (0, 0, 1)
    assert origin.execute(ROWS).fetchall() == [(1, "Ann"), (3, "Cid")]


def test_one_run_delivers_at_a_time(send: Send, origin: psycopg.Connection, database: str) -> None:
    send(rows_of((1, "Ann")))
    outgoing = Outgoing("shop", DELIVERY.node, str(DELIVERY.relation))
    with PostgresWarehouse("crm_pg", database).hold(TableName("app", "contact"), outgoing):
        assert send(dry_run=True).status == "success"
        refused = send(rows_of((2, "Bob")))

    assert refused.status == "failed" and "another run is delivering" in (refused.error or "")
    assert counts(send()) == (1, 0, 1)


def test_a_run_that_another_one_came_before_writes_nothing(
    send: Send, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that was lost with its connection."""
    send(rows_of((1, "Ann")))
    load = PostgresWarehouse.load

    def overtaken(self: PostgresWarehouse, *given: Any) -> Any:
        origin.execute("UPDATE app._dbt_bridge_deliveries SET token = 'another'")
        return load(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresWarehouse, "load", overtaken)
        refused = send(rows_of((2, "Bob")))

    assert refused.status == "failed" and "another run delivered" in (refused.error or "")
    assert origin.execute(ROWS).fetchall() == [(1, "Ann")]
    again = send()
    assert counts(again) == (1, 0, 0), "whether 1 is still ours is not known"
    assert "1 rows left the model and stay" in (again.note or "")


def test_a_row_that_came_while_rows_were_sent_is_never_deleted(
    send: Send, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(rows_of((1, "Ann")))
    load = PostgresWarehouse.load

    def racing(self: PostgresWarehouse, *given: Any) -> Any:
        origin.execute("INSERT INTO app.contact VALUES (2, 'theirs')")
        return load(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresWarehouse, "load", racing)
        told = send(rows_of((1, "Ann"), (2, "Bob"), (3, "Cid")))

    assert "somebody wrote to the table meanwhile" in (told.note or "")
    assert counts(send(rows_of((1, "Ann")))) == (0, 0, 0)
    assert origin.execute(ROWS).fetchall() == [(1, "Ann"), (2, "Bob"), (3, "Cid")]


def test_a_row_that_an_application_inserted_after_a_refused_delivery_is_its_own(
    send: Send, origin: psycopg.Connection
) -> None:
    send(rows_of((1, "Ann")))
    origin.execute("ALTER TABLE app.contact ADD CHECK (name <> 'Bob')")
    assert send(rows_of((1, "Ann"), (2, "Bob"))).status == "failed"
    origin.execute("INSERT INTO app.contact VALUES (2, 'theirs')")

    assert counts(send(rows_of((1, "Ann"), (2, "Bo")))) == (0, 1, 0)
    assert counts(send(rows_of((1, "Ann")))) == (0, 0, 0)
    assert origin.execute(ROWS).fetchall() == [(1, "Ann"), (2, "Bo")]


def test_rows_that_went_past_the_ledger_are_sent_again(send: Send, origin: psycopg.Connection) -> None:
    send(rows_of((1, "Ann"), (2, "Bob")))
    send(rows_of((1, "Anna"), (2, "Bob")), deletes="none")

    assert send(rows_of((1, "Ann"), (2, "Bob"))).rows_updated == 2
    assert origin.execute(ROWS).fetchall() == [(1, "Ann"), (2, "Bob")]
    assert counts(send(rows_of((1, "Ann")))) == (0, 0, 1)  # 2 is ours all the same


def test_no_key_is_in_the_ledger_and_the_secret_is_not_in_the_warehouse(
    send: Send, origin: psycopg.Connection, warehouse_file: Path
) -> None:
    send("SELECT 'ann@example.com' AS id, 'Ann' AS name")

    (secret,) = origin.execute("SELECT secret FROM app._dbt_bridge_deliveries").fetchone() or ()
    with duckdb.connect(str(warehouse_file)) as connection:
        (table,) = connection.sql(
            "SELECT table_name FROM duckdb_tables() WHERE starts_with(table_name, 'delivered_contacts_')"
        ).fetchone() or ("",)
        rows = connection.sql(f"FROM _dbt_bridge.{table}").fetchall()
    assert len(rows) == 1 and len(rows[0][0]) == 16
    assert len(secret) == 32
    stored = warehouse_file.read_bytes()
    assert bytes(secret) not in stored


@pytest.mark.parametrize(
    ("type_", "first", "second"),
    [
        ("text", "'a'", "'b'"),
        ("varchar(10)", "'a'", "'b'"),
        ("char(4)", "'a'", "'b'"),
        ("bigint", "1::INTEGER", "2::INTEGER"),
        ("numeric(10,2)", "1.5::DECIMAL(10,1)", "2::DECIMAL(10,1)"),
        ("uuid", "'00000000-0000-0000-0000-000000000001'::UUID", "'00000000-0000-0000-0000-000000000002'::UUID"),
        ("date", "DATE '2026-01-01'", "DATE '2026-01-02'"),
        (
            "timestamptz",
            "TIMESTAMP '2026-01-01 10:00' AT TIME ZONE 'UTC'",
            "TIMESTAMP '2026-01-01 11:00' AT TIME ZONE 'UTC'",
        ),
        ("boolean", "true", "false"),
        ("double precision", "0.5::DOUBLE", "1.5::DOUBLE"),
    ],
)
def test_keys_of_each_type_are_found_again(
    send: Send, origin: psycopg.Connection, type_: str, first: str, second: str
) -> None:
    origin.execute(f"CREATE SCHEMA app; CREATE TABLE app.contact (id {type_}, part int, PRIMARY KEY (id, part))")
    both = f"SELECT {first} AS id, 1::INTEGER AS part UNION ALL SELECT {second}, 1::INTEGER"

    assert counts(send(both, primary_key=("id", "part"))) == (2, 0, 0)
    assert counts(send(primary_key=("id", "part"))) == (0, 0, 0)
    assert counts(send(f"SELECT {second} AS id, 1::INTEGER AS part", primary_key=("id", "part"))) == (0, 0, 1)


def test_a_null_key_is_refused(send: Send, origin: psycopg.Connection) -> None:
    receipt = send("SELECT NULL::INTEGER AS id, 'x' AS name")

    assert receipt.status == "failed" and "'id'" in (receipt.error or "") and "NULL" in (receipt.error or "")
    assert origin.execute("SELECT to_regclass('app.contact')").fetchone() == (None,)


def test_nothing_goes_where_rows_of_other_tables_would_go_with_it(send: Send, origin: psycopg.Connection) -> None:
    origin.execute("CREATE SCHEMA app; CREATE TABLE app.contact (id int PRIMARY KEY, name text)")
    origin.execute("CREATE TABLE app.visits (contact int REFERENCES app.contact ON DELETE CASCADE)")
    send(rows_of((1, "Ann"), (2, "Bob")))
    origin.execute("INSERT INTO app.visits VALUES (1)")

    receipt = send(rows_of((2, "Bob")))

    assert receipt.status == "failed" and "app.visits" in (receipt.error or "")
    assert "take `deletes: own` out" in (receipt.error or "")
    assert origin.execute("SELECT count(*) FROM app.visits").fetchone() == (1,)


def test_a_table_that_an_application_holds_is_not_waited_for_for_ever(send: Send, origin: psycopg.Connection) -> None:
    send(rows_of((1, "Ann")))
    with origin.transaction(), use_lock_wait(LockWait()):
        origin.execute("UPDATE app.contact SET name = 'theirs'")
        receipt = send(rows_of((1, "Anna")))

    assert receipt.status == "failed" and f"server process {origin.info.backend_pid}" in (receipt.error or "")
    assert counts(send()) == (0, 1, 0)
    assert origin.execute(ROWS).fetchall() == [(1, "Anna")]


def test_in_duckdb_too(send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: psycopg.Connection) -> None:
    file = tmp_path / "crm.duckdb"
    monkeypatch.setenv("DESTINATION__CRM_DUCK__DESTINATION_TYPE", "duckdb")
    monkeypatch.setenv("DESTINATION__CRM_DUCK__CREDENTIALS", str(file))
    with duckdb.connect(str(file)) as connection:
        connection.execute("CREATE SCHEMA app; CREATE TABLE app.Contact (ID BIGINT PRIMARY KEY, name VARCHAR)")
        connection.execute("INSERT INTO app.contact VALUES (99, 'theirs')")

    first = send(rows_of((1, "Ann"), (2, "Bob")), destination="crm_duck")
    again = send(destination="crm_duck")
    gone = send(rows_of((2, "Bea")), destination="crm_duck")

    assert (counts(first), counts(again), counts(gone)) == ((2, 0, 0), (0, 0, 0), (0, 1, 1))
    with duckdb.connect(str(file)) as connection:
        assert connection.sql("FROM app.contact ORDER BY id").fetchall() == [(2, "Bea"), (99, "theirs")]


def test_a_table_of_duckdb_that_was_dropped_is_made_again(
    send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: psycopg.Connection
) -> None:
    file = tmp_path / "crm.duckdb"
    monkeypatch.setenv("DESTINATION__CRM_DUCK__DESTINATION_TYPE", "duckdb")
    monkeypatch.setenv("DESTINATION__CRM_DUCK__CREDENTIALS", str(file))
    for rows in ([(1, "Ann"), (2, "Bob")], [(2, "Bob")]):
        send(rows_of(*rows), destination="crm_duck")
    with duckdb.connect(str(file)) as connection:
        connection.execute("DROP TABLE app.contact")

    assert counts(send(dry_run=True, destination="crm_duck")) == (1, 0, 0)
    assert counts(send(destination="crm_duck")) == (1, 0, 0)
    assert counts(send(rows_of((3, "Cid")), destination="crm_duck")) == (1, 0, 1)


def test_in_delta_too(send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: psycopg.Connection) -> None:
    monkeypatch.setenv("DESTINATION__LAKE__DESTINATION_TYPE", "filesystem")
    monkeypatch.setenv("DESTINATION__LAKE__BUCKET_URL", str(tmp_path / "lake"))
    folder = tmp_path / "lake" / "app" / "contact"
    write_deltalake(folder, pa.table({"id": pa.array([2, 99], pa.int32()), "name": ["theirs before", "theirs"]}))
    lake = partial(send, destination="lake")

    first = lake(rows_of((1, "Ann"), (2, "Bob"), (3, "Cid")))
    again = lake()
    looked = lake(rows_of((1, "Anna")), dry_run=True)
    gone = lake(rows_of((1, "Anna")))

    assert [counts(one) for one in (first, again, looked, gone)] == [(2, 1, 0), (0, 0, 0), (0, 1, 1), (0, 1, 1)]
    rows = DeltaTable(folder).to_pyarrow_table().sort_by("id").to_pylist()
    assert [tuple(row.values()) for row in rows] == [(1, "Anna"), (2, "Bob"), (99, "theirs")]
    DeltaTable(folder).delete()
    assert counts(lake(rows_of((1, "Anna"), (4, "Dan")))) == (2, 0, 0)
    assert counts(lake(rows_of((4, "Dan")))) == (0, 0, 1)


def test_verify_compares_the_own_rows_alone(
    send: Send, project: Project, origin: psycopg.Connection, warehouse_file: Path
) -> None:
    mine = replace(project, deliveries=(DELIVERY,))
    send(rows_of((1, "Ann"), (2, "Bob")))
    origin.execute("INSERT INTO app.contact VALUES (99, 'theirs')")

    (equal,) = verify(mine, VerifyOptions(), Silent())
    build_model(warehouse_file, rows_of((1, "Ann")))
    (stale,) = verify(mine, VerifyOptions(), Silent())

    assert (equal.status, equal.rows_destination, equal.only_in_destination) == ("equal", 2, 0), equal.error
    assert (stale.status, stale.only_in_destination) == ("different", 1), stale.error


def test_an_append_of_one_build_arrives_once_and_the_next_build_is_appended(
    send: Send, origin: psycopg.Connection
) -> None:
    query = rows_of((1, "Ann"), (2, "Bob"))
    first = send(query, write_disposition="append", build="a")
    again = send(write_disposition="append", build="a")
    other_rows = send(rows_of((3, "Cid")), write_disposition="append", build="a")  # a view, over new rows
    next_build = send(write_disposition="append", build="b")
    origin.execute("TRUNCATE app.contact")
    emptied = send(write_disposition="append", build="b")

    loaded = [receipt.rows_loaded for receipt in (first, again, other_rows, next_build, emptied)]
    assert loaded == [2, 0, 1, 1, 1]
    assert "appended before" in (again.note or "")
    assert origin.execute("SELECT count(*) FROM app.contact").fetchone() == (1,)


def test_an_append_whose_commit_was_lost_on_its_way_is_not_sent_twice(
    send: Send, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = PostgresWarehouse.load

    def lost(self: PostgresWarehouse, *given: Any) -> Any:
        load(self, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PostgresWarehouse, "load", lost)
        send(rows_of((1, "Ann")), write_disposition="append", build="a")

    again = send(write_disposition="append", build="a")

    assert (again.status, again.rows_loaded) == ("success", 0), again.error
    assert origin.execute("SELECT count(*) FROM app.contact").fetchone() == (1,)


def test_digests_tell_values_from_their_neighbours_and_need_the_secret() -> None:
    columns = [Column("a", pa.string()), Column("b", pa.string())]
    rows = pa.record_batch({"a": ["x", "x|1:y", None, "n", ""], "b": ["1:y|", "", "", None, None]})

    digests = Digester.of(columns, columns, b"one").digest(rows)
    others = Digester.of(columns, columns, b"two").digest(rows)

    assert len(set(digests.to_pylist())) == 5
    assert set(digests.to_pylist()).isdisjoint(others.to_pylist())


@pytest.mark.parametrize("deletes", ["own", "none"])
def test_a_destination_that_made_room_gets_the_rows_again(
    send: Send, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, deletes: str
) -> None:
    load, tries = PostgresWarehouse.load, []

    def first_out_of_room(self: PostgresWarehouse, wanted: Load, batches: pa.RecordBatchReader) -> Loaded:
        if wanted.table.name.name != "contact" or tries:
            return load(self, wanted, batches)
        tries.append(batches.read_all().num_rows)
        raise BeginAgain("out of memory")

    monkeypatch.setattr(PostgresWarehouse, "load", first_out_of_room)
    receipt = send(rows_of((1, "Ann"), (2, "Bob")), deletes=deletes)
    assert (tries, counts(receipt)) == ([2], (2, 0, 0))
    assert origin.execute(ROWS).fetchall() == [(1, "Ann"), (2, "Bob")]


@pytest.mark.parametrize("how", [{"deletes": "own"}, {"write_disposition": "append"}])
def test_a_warehouse_that_made_room_is_read_again(
    send: Send, origin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch, how: dict[str, str]
) -> None:
    read, tries = DuckDBWarehouse.read, []

    def first_out_of_room(self: DuckDBWarehouse, name: TableName, *given: Any) -> pa.RecordBatchReader:
        if name.name == "m" and not tries:
            tries.append(name)
            raise BeginAgain("out of memory")
        return read(self, name, *given)

    monkeypatch.setattr(DuckDBWarehouse, "read", first_out_of_room)
    receipt = send(rows_of((1, "Ann")), **how)
    assert (len(tries), receipt.status, receipt.rows_inserted) == (1, "success", 1), receipt.error
