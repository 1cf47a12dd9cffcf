"""What `mask` and `columns` hide is found nowhere at the destination."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.projects import table

from dbt_bridge.nouns.bridge_keys import Columns
from dbt_bridge.nouns.project import (
    LandingSource,
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync

Ask = Callable[[str], list[tuple[object, ...]]]
MakeSource = Callable[..., LandingSource]

MASKED, EXCLUDED, SHOWN = "ada.lovelace@example.com", "078-05-1120-secret", "Ada the first of her name"


@pytest.fixture
def project(project: Project) -> Project:
    """DuckDB would compress the values beyond recognition."""
    credentials = {**project.warehouse.credentials, "settings": {"force_compression": "uncompressed"}}
    return replace(project, warehouse=replace(project.warehouse, credentials=credentials))


@pytest.fixture
def people(origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE people (id int PRIMARY KEY, name text, email text, ssn text, born date)")
    origin.execute("INSERT INTO people VALUES (1, %s, %s, %s, '1815-12-10')", [SHOWN, MASKED, EXCLUDED])
    origin.execute("INSERT INTO people VALUES (2, 'Nobody', NULL, NULL, NULL)")


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def written(folder: Path) -> bytes:
    """All bytes of the warehouse: its file and, where there is one, its log."""
    return b"".join(file.read_bytes() for file in folder.rglob("*") if ".duckdb" in file.name and file.is_file())


def landing(project: Project, source: MakeSource, table: LandingTable) -> Receipt:
    (receipt,) = sync(replace(project, sources=(source(table),)), SyncOptions(), Silent())
    return receipt


def test_a_hidden_value_is_not_in_the_file_at_all(
    people: None, project: Project, source: MakeSource, landed: Ask, tmp_path: Path
) -> None:
    hiding = table(
        "people", "initial_copy", mask={"email": "sha256", "born": "sha256"}, columns=Columns(exclude=("s*",))
    )
    receipt = landing(project, source, hiding)

    assert (receipt.status, receipt.error) == ("success", None)
    assert landed("SELECT * FROM shop_landing.people ORDER BY id") == [
        (1, SHOWN, hashed(MASKED), hashed("1815-12-10")),
        (2, "Nobody", None, None),
    ]
    assert SHOWN.encode() in written(tmp_path), "this is how a value would be found"
    assert MASKED.encode() not in written(tmp_path)
    assert EXCLUDED.encode() not in written(tmp_path)


def test_increments_are_masked_too_and_their_key_still_matches(
    people: None, project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask, tmp_path: Path
) -> None:
    hiding = table(
        "people",
        "incremental",
        cursor="id",
        primary_key=("email",),
        mask={"email": "sha256"},
        columns=Columns(include=("id", "email")),
    )
    origin.execute("DELETE FROM people WHERE email IS NULL")
    landing(project, source, hiding)
    origin.execute("INSERT INTO people (id, email) VALUES (3, %s)", [MASKED])
    receipt = landing(project, source, hiding)

    assert (receipt.error, receipt.write_disposition, receipt.rows_updated) == (None, "merge", 1)
    assert landed("SELECT * FROM shop_landing.people") == [(3, hashed(MASKED))]
    assert MASKED.encode() not in written(tmp_path)


def test_a_mask_that_is_added_later_also_hides_the_rows_that_landed_before(
    people: None, project: Project, source: MakeSource, landed: Ask
) -> None:
    landing(project, source, table("people", "incremental", cursor="id"))
    receipt = landing(project, source, table("people", "incremental", cursor="id", mask={"email": "sha256"}))
    assert (receipt.write_disposition, receipt.rows_loaded) == ("replace", 2)
    assert landed("SELECT email FROM shop_landing.people ORDER BY id") == [(hashed(MASKED),), (None,)]
    receipt = landing(project, source, table("people", "incremental", cursor="id", mask={"email": "sha256"}))
    assert receipt.write_disposition == "merge"


@pytest.mark.parametrize("kept", [{}, {"history": True}, {"deletes": "soft"}, {"write_disposition": "append"}])
def test_changes_are_masked_like_the_copy(
    people: None,
    project: Project,
    origin: psycopg.Connection,
    source: MakeSource,
    landed: Ask,
    tmp_path: Path,
    kept: dict[str, object],
) -> None:
    """Inserts, updates, deletes, and old values under REPLICA IDENTITY FULL; in the file, its log and its history."""
    hiding = table(
        "people", "cdc", mask={"email": "sha256", "born": "sha256"}, columns=Columns(exclude=("ssn",)), **kept
    )
    slot = f"hidden_{origin.info.dbname}_{len(kept)}"
    followed = replace(project, sources=(replace(source(hiding), slot=slot),))
    origin.execute("ALTER TABLE people REPLICA IDENTITY FULL")
    try:
        sync(followed, SyncOptions(), Silent())
        other, third = "grace@example.com", "barbara@example.com"
        origin.execute("INSERT INTO people VALUES (3, 'Grace', %s, %s, '1906-12-09')", [other, EXCLUDED])
        origin.execute("INSERT INTO people VALUES (4, 'Barbara', %s, %s, NULL)", [third, EXCLUDED])
        origin.execute("UPDATE people SET email = %s, ssn = %s WHERE id = 2", [MASKED, EXCLUDED])
        origin.execute("DELETE FROM people WHERE id = 4")
        (receipt,) = sync(followed, SyncOptions(), Silent())
    finally:
        origin.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [slot]
        )

    assert (receipt.hop, receipt.status, receipt.error) == ("cdc", "success", None)
    assert landed("SELECT DISTINCT email, born FROM shop_landing.people WHERE id = 3") == [
        (hashed(other), hashed("1906-12-09"))
    ]
    assert SHOWN.encode() in written(tmp_path)
    for secret in (MASKED, EXCLUDED, other, third):
        assert secret.encode() not in written(tmp_path), secret


def test_rows_that_would_travel_undecoded_are_masked_in_a_postgres_warehouse(
    people: None, project: Project, origin: psycopg.Connection, database: str, source: MakeSource
) -> None:
    to = conninfo_to_dict(database)
    credentials = {"host": to["host"], "port": to["port"], "user": to["user"], "dbname": to["dbname"]}
    warehouse = WarehouseProfile("postgres", str(to["dbname"]), "public", 2, credentials)
    receipt = landing(
        replace(project, warehouse=warehouse),
        source,
        table("people", "initial_copy", mask={"email": "sha256", "born": "sha256"}, columns=Columns(exclude=("ssn",))),
    )
    assert receipt.error is None
    rows = origin.execute("SELECT * FROM shop_landing.people ORDER BY id").fetchall()
    assert rows == [(1, SHOWN, hashed(MASKED), hashed("1815-12-10")), (2, "Nobody", None, None)]


@pytest.mark.parametrize(
    ("settings", "what", "mend"),
    [
        ({"mask": {"emial": "sha256"}}, "mask: public.people has no column 'emial'", "did you mean 'email'?"),
        ({"columns": Columns(exclude=("snn",))}, "columns: public.people has no column 'snn'", "did you mean 'ssn'?"),
        ({"columns": Columns(include=("id", "name_*"))}, "has no column 'name_*'", "'name'"),
    ],
)
def test_a_slip_in_a_name_lets_no_value_through(
    people: None, project: Project, source: MakeSource, landed: Ask, settings: dict[str, object], what: str, mend: str
) -> None:
    receipt = landing(project, source, table("people", "initial_copy", **settings))
    assert receipt.status == "failed"
    assert what in (receipt.error or "")
    assert mend in (receipt.error or "")
    assert landed("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'shop_landing'") == [(0,)]


def test_what_a_source_hides_in_all_its_tables_need_not_be_in_each(
    people: None, project: Project, source: MakeSource, landed: Ask
) -> None:
    of_source = frozenset(("email", "ssn", "phone", "card_*"))
    columns = Columns(exclude=("ssn", "card_*"))
    hiding = table(
        "people", "initial_copy", mask={"email": "sha256", "phone": "sha256"}, columns=columns, of_source=of_source
    )
    assert landing(project, source, hiding).error is None
    assert landed("SELECT id, email FROM shop_landing.people WHERE id = 1") == [(1, hashed(MASKED))]


def test_a_key_that_does_not_land_is_refused_where_rows_are_merged_by_it(
    people: None, project: Project, source: MakeSource
) -> None:
    receipt = landing(project, source, table("people", "incremental", cursor="born", columns=Columns(exclude=("id",))))
    assert "`columns` leaves out 'id' of public.people" in (receipt.error or "")
    assert landing(project, source, table("people", "initial_copy", columns=Columns(exclude=("id",)))).error is None


@pytest.mark.parametrize(
    "declared",
    [
        ({"mask": {"email": "sha256"}}, {"mask": {"mail": "sha256"}}),
        ({"columns": Columns(exclude=("email",))}, {"columns": Columns(exclude=("mail",))}),
    ],
)
def test_a_hidden_column_that_is_renamed_at_the_origin_stays_hidden(
    people: None,
    project: Project,
    origin: psycopg.Connection,
    source: MakeSource,
    tmp_path: Path,
    declared: tuple[dict[str, object], dict[str, object]],
) -> None:
    """Also where the source says it for all of its tables, so that no table must have the column."""
    slot, (hiding, mended) = f"renamed_{origin.info.dbname}", declared

    def run(**given: object) -> Receipt:
        people = table("people", "cdc", of_source=frozenset(("email",)), **given)
        followed = replace(project, sources=(replace(source(people), slot=slot),))
        return sync(followed, SyncOptions(), Silent())[-1]

    origin.execute("ALTER TABLE people REPLICA IDENTITY FULL")
    assert run(**hiding).status == "success"
    origin.execute("ALTER TABLE people RENAME email TO mail")
    origin.execute("INSERT INTO people (id, mail) VALUES (3, %s)", [MASKED])
    for _ in range(2):  # the second one would copy the table anew
        error = run(**hiding).error or ""
        assert "'email' was renamed to 'mail'" in error and "mail" in error.partition("->")[2]
    assert MASKED.encode() not in written(tmp_path)
    receipt = run(**mended)
    assert (receipt.status, receipt.rows_loaded) == ("success", 3), receipt.error
    assert MASKED.encode() not in written(tmp_path)


def test_a_slip_in_a_mask_is_told_before_anything_that_a_history_keeps(
    people: None, project: Project, origin: psycopg.Connection, source: MakeSource, landed: Ask
) -> None:
    """Whoever followed the other message would drop the old versions for a slip."""

    def run(mask: str) -> Receipt:
        kept = table("people", mask={mask: "sha256"}, history=True, deletes="soft")
        followed = replace(project, sources=(replace(source(kept), slot=f"slip_{origin.info.dbname}"),))
        return sync(followed, SyncOptions(), Silent())[-1]

    assert run("email").status == "success"
    error = run("emial").error or ""
    assert "mask: public.people has no column 'emial'" in error and "did you mean 'email'?" in error
    assert "DROP" not in error
    assert landed("SELECT count(*) FROM shop_landing.people_history") == [(2,)]
    error = run("name").error or ""
    assert "keeps values from before" in error and "DROP TABLE" in error
