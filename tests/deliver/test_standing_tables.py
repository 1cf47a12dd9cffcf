"""Tables that a destination had already are never altered: rows change, or the delivery is refused."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from tests.deliver.contacts import Send, make_send

from dbt_bridge.nouns.project import Project

COLUMNS = """
    SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = 'app.contact'::regclass AND attnum > 0 AND NOT attisdropped
"""


@pytest.fixture
def send(project: Project, warehouse_file: Path, origin: psycopg.Connection) -> Send:
    origin.execute("CREATE SCHEMA app")
    return make_send(project, warehouse_file)


# type in the application's table, its own value, what the model has
UNFIT = [
    ("numeric(10,1)", "9.5", "2.25::DECIMAL(10,2)"),
    ("integer", "7", "2.5::DECIMAL(10,2)"),
    ("integer", "7", "5000000000::BIGINT"),
    ("smallint", "7", "0.5::DOUBLE"),
    ("real", "0.15", "0.1::DOUBLE"),
    ("real", "0.15", "16777217::INTEGER"),
    ("integer", "7", "'5'"),
    ("text", "'x'", "5::INTEGER"),
    ("varchar(3)", "'xyz'", "'abcdef'"),
    ("char(4)", "'ab'", "'abcdef'"),
    ("app.mood", "'a'", "'other'"),
    ("app.positive", "5", "-6::INTEGER"),
    ("date", "'2026-01-01'", "TIMESTAMP '2026-01-01 10:00'"),
    ("timestamp(0)", "'2026-01-01'", "TIMESTAMP '2026-01-01 10:00:00.5'"),
    ("timestamptz", "'2026-01-01'", "TIMESTAMP '2026-01-01 10:00'"),
    ("boolean", "true", "1::INTEGER"),
    ("integer NOT NULL", "7", "NULL::INTEGER"),
    ("integer CHECK (v < 10)", "7", "11::INTEGER"),
    ("varchar(3)[]", "'{a}'", "['abcd']"),
]


@pytest.mark.parametrize(
    ("disposition", "is_empty", "unfit"),
    [("merge", False, UNFIT), ("append", True, UNFIT[::5]), ("replace", False, UNFIT[::6])],
)
def test_a_value_that_does_not_fit_is_refused_and_nothing_changes(
    send: Send, origin: psycopg.Connection, disposition: str, is_empty: bool, unfit: list[tuple[str, str, str]]
) -> None:
    origin.execute("CREATE TYPE app.mood AS ENUM ('a', 'b')")
    origin.execute("CREATE DOMAIN app.positive AS integer CHECK (value > 0)")
    for type_, own, incoming in unfit:
        origin.execute(f"CREATE TABLE app.contact (id int PRIMARY KEY, v {type_})")
        if not is_empty:
            origin.execute(f"INSERT INTO app.contact VALUES (99, {own})")  # noqa: S608
        before = origin.execute(COLUMNS).fetchall(), origin.execute("SELECT id, v::text FROM app.contact").fetchall()

        receipt = send(f"SELECT 1::INTEGER AS id, {incoming} AS v", write_disposition=disposition)

        after = origin.execute(COLUMNS).fetchall(), origin.execute("SELECT id, v::text FROM app.contact").fetchall()
        assert receipt.status == "failed", (type_, incoming)
        assert "'v'" in (receipt.error or ""), receipt.error
        assert type_.split()[0].split("(")[0].removeprefix("var") in _spelled(receipt.error or ""), receipt.error
        assert after == before, type_
        origin.execute("DROP TABLE app.contact")


def _spelled(error: str) -> str:
    """As a person writes the types."""
    for long, short in (("character varying", "varchar"), ("character(", "char("), ("with time zone", "timestamptz")):
        error = error.replace(long, short)
    return error


FIT = [
    ("integer", "5::BIGINT", "5"),
    ("integer", "3.00::DECIMAL(10,2)", "3"),
    ("bigint", "170::HUGEINT", "170"),
    ("numeric(10,1)", "2.50::DECIMAL(10,2)", "2.5"),
    ("numeric(10,2)", "1.5::DOUBLE", "1.50"),
    ("real", "0.5::DOUBLE", "0.5"),
    ("double precision", "2.5::DECIMAL(10,2)", "2.5"),
    ("varchar(3)", "'ab'", "ab"),
    ("char(4)", "'cd'", "cd"),
    ("date", "TIMESTAMP '2026-01-02 00:00:00'", "2026-01-02"),
    ("timestamp(0)", "TIMESTAMP '2026-01-02 00:00:01'", "2026-01-02 00:00:01"),
    ("app.mood", "'b'", "b"),
    ("app.positive", "6::INTEGER", "6"),
    ("jsonb", "'{\"a\":1}'", '{"a": 1}'),
    ("integer", "NULL", None),
]


def test_a_value_that_fits_as_it_is_arrives_and_the_column_stays(send: Send, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TYPE app.mood AS ENUM ('a', 'b')")
    origin.execute("CREATE DOMAIN app.positive AS integer CHECK (value > 0)")
    for type_, incoming, there in FIT:
        origin.execute(f"CREATE TABLE app.contact (id int PRIMARY KEY, v {type_})")
        before = origin.execute(COLUMNS).fetchall()

        receipt = send(f"SELECT 1::INTEGER AS id, {incoming} AS v")

        assert receipt.status == "success", receipt.error
        assert origin.execute("SELECT v::text FROM app.contact").fetchall() == [(there,)], type_
        assert origin.execute(COLUMNS).fetchall() == before
        assert receipt.note is None
        origin.execute("DROP TABLE app.contact")


def test_a_column_that_is_not_there_is_refused_or_left_out(send: Send, origin: psycopg.Connection) -> None:
    origin.execute(
        "CREATE TABLE app.contact (id int PRIMARY KEY, name text, total int GENERATED ALWAYS AS (id) STORED)"
    )
    query = "SELECT 1::INTEGER AS id, 'Ann' AS name, 'new' AS nane"

    refused = send(query)
    generated = send("SELECT 1::INTEGER AS id, 1::INTEGER AS total")
    left_out = send(query, columns=("id", "name"))

    assert refused.status == "failed"
    assert "no column 'nane'" in (refused.error or "") and "did you mean 'name'?" in (refused.error or "")
    assert "is generated" in (generated.error or "")
    assert (left_out.status, left_out.note) == ("success", "left out: nane"), left_out.error


def test_a_replace_keeps_the_table_with_all_that_hangs_on_it(send: Send, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE app.contact (id int, name text, list text)")  # bare: nothing hangs on it yet
    origin.execute("INSERT INTO app.contact VALUES (7, 'theirs', 'x')")
    oid = origin.execute("SELECT 'app.contact'::regclass::oid").fetchall()

    receipt = send("SELECT 1::INTEGER AS id, 'Ann' AS name", write_disposition="replace")

    assert (receipt.status, receipt.rows_deleted, receipt.rows_inserted) == ("success", 1, 1), receipt.error
    assert origin.execute("SELECT 'app.contact'::regclass::oid").fetchall() == oid
    assert origin.execute("SELECT * FROM app.contact").fetchall() == [(1, "Ann", None)]


def test_a_replace_never_deletes_rows_of_other_tables(send: Send, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE app.contact (id int PRIMARY KEY)")
    origin.execute("CREATE TABLE app.visits (contact int REFERENCES app.contact ON DELETE CASCADE)")
    origin.execute("INSERT INTO app.contact VALUES (1); INSERT INTO app.visits VALUES (1)")

    receipt = send("SELECT 1::INTEGER AS id", write_disposition="replace")

    assert receipt.status == "failed"
    assert "app.visits" in (receipt.error or "") and "CASCADE" in (receipt.error or "")
    assert origin.execute("SELECT count(*) FROM app.visits").fetchone() == (1,)


def test_evolve_alters_the_table_and_says_so_before_and_after(send: Send, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE app.contact (id int PRIMARY KEY, code varchar(3))")
    query = "SELECT 1::INTEGER AS id, 'abcdef' AS code, 5::INTEGER AS score"

    looked = send(query, evolve=True, dry_run=True)
    before = origin.execute(COLUMNS).fetchone()
    done = send(query, evolve=True)

    told = "altered the column code: character varying(3) -> text; added the column score integer"
    assert (looked.status, looked.note) == ("success", told), looked.error
    assert before == ("id integer, code character varying(3)",)
    assert (done.status, done.note) == ("success", told), done.error
    assert origin.execute(COLUMNS).fetchone() == ("id integer, code text, score integer",)


def test_what_a_delivery_created_it_may_alter_until_the_application_makes_it_anew(
    send: Send, origin: psycopg.Connection
) -> None:
    created = send("SELECT 1::INTEGER AS id, 1::INTEGER AS n")
    widened = send("SELECT 1::INTEGER AS id, 5000000000 AS n, 'x' AS extra")
    origin.execute("DROP TABLE app.contact; CREATE TABLE app.contact (id int PRIMARY KEY, n int)")
    refused = send("SELECT 1::INTEGER AS id, 5000000000 AS n")

    assert (created.status, created.note) == ("success", "created the table"), created.error
    assert widened.note == "altered the column n: integer -> bigint; added the column extra text", widened.error
    assert refused.status == "failed" and "not the bridge's own" in (refused.error or "")


def test_a_table_of_another_project_is_not_ours(send: Send, origin: psycopg.Connection) -> None:
    send("SELECT 1::INTEGER AS id, 1::INTEGER AS n")

    theirs = send("SELECT 1::INTEGER AS id, 5000000000 AS n", node="exposure.blog.contacts")

    assert theirs.status == "failed" and "not the bridge's own" in (theirs.error or "")


def test_a_replace_of_our_own_table_keeps_a_column_that_somebody_added(send: Send, origin: psycopg.Connection) -> None:
    send("SELECT 1::INTEGER AS id", write_disposition="replace")
    origin.execute("ALTER TABLE app.contact ADD COLUMN remark text")

    again = send("SELECT 2::INTEGER AS id, 'x' AS name", write_disposition="replace")

    assert (again.status, again.note) == ("success", "added the column name text"), again.error
    assert origin.execute(COLUMNS).fetchone() == ("id integer, remark text, name text",)


def test_keys_that_are_one_to_the_destination_are_refused(send: Send, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE app.contact (id char(4), v int)")

    receipt = send("SELECT * FROM (VALUES ('a', 1::INTEGER), ('a ', 2::INTEGER)) AS t(id, v)")

    assert receipt.status == "failed"
    assert origin.execute("SELECT count(*) FROM app.contact").fetchone() == (0,)


def test_no_mend_of_a_refused_delivery_replaces_or_drops_anything(send: Send, origin: psycopg.Connection) -> None:
    origin.execute("CREATE TABLE app.base (id int, v int); INSERT INTO app.base VALUES (1, 1), (1, 2)")
    origin.execute("CREATE VIEW app.contact AS SELECT * FROM app.base")
    of_view = send("SELECT 1::INTEGER AS id, 1::INTEGER AS v")
    origin.execute("DROP VIEW app.contact; ALTER TABLE app.base RENAME TO contact")
    of_doubles = send("SELECT 1::INTEGER AS id, 1::INTEGER AS v")
    origin.execute("CREATE VIEW app.seen AS SELECT v FROM app.contact")
    of_evolving = send("SELECT 5::INTEGER AS id, 5000000000 AS v", evolve=True)

    for receipt in (of_view, of_doubles, of_evolving):
        mend = (receipt.error or "").partition("->")[2].lower()
        assert receipt.status == "failed"
        assert mend and "drop" not in mend and "replace" not in mend and "full-refresh" not in mend, receipt.error


def test_infinity_arrives_in_a_list_too(send: Send, origin: psycopg.Connection) -> None:
    receipt = send(
        "SELECT 1::INTEGER AS id, ['infinity'::DATE, DATE '2026-01-01', NULL] AS d,"
        " ['infinity'::TIMESTAMP, TIMESTAMP '2026-01-01 10:00:00.5'] AS t, [make_timestamptz(0), '-infinity'] AS z"
    )

    assert receipt.status == "success", receipt.error
    origin.execute("SET TimeZone = 'UTC'")
    rows = origin.execute("SELECT d::text, t::text, z::text, pg_typeof(z)::text FROM app.contact").fetchall()
    assert rows == [
        (
            "{infinity,2026-01-01,NULL}",
            '{infinity,"2026-01-01 10:00:00.5"}',
            '{"1970-01-01 00:00:00+00",-infinity}',
            "timestamp with time zone[]",
        )
    ]


def test_the_mends_of_refused_types_work_as_they_are_told(send: Send, origin: psycopg.Connection) -> None:
    for value, arrives in (("union_value(n := 1)", "1"), ("DATE '5881580-07-10'", "5881580-07-10")):
        query = f"SELECT 1::INTEGER AS id, {value} AS v"

        refused = send(query)
        mended = send(query, types={"v": "text"})

        assert refused.status == "failed" and "types: {v: text}" in (refused.error or ""), refused.error
        assert mended.status == "success", mended.error
        assert origin.execute("SELECT v, pg_typeof(v)::text FROM app.contact").fetchall() == [(arrives, "text")]
        origin.execute("DROP TABLE app.contact")
    nul = send("SELECT 1::INTEGER AS id, 'goo' || chr(0) || 'se' AS v")
    assert "replace(v, chr(0), '')" in (nul.error or ""), nul.error
