"""SQLite as an origin: every value lands as it is, or is refused."""
# ruff: noqa: S608

from __future__ import annotations

import re
import sqlite3
import threading
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from tests.connectors.sqlalchemy.conftest import MakeSqlite
from tests.projects import landing_source, table

from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.contracts.origin import Increment
from dbt_bridge.errors import ConnectionFailed, OriginError, TypeRefused, UsageError
from dbt_bridge.nouns.bridge_keys import Columns
from dbt_bridge.nouns.project import LandingTable, Project, WarehouseProfile
from dbt_bridge.nouns.table import TableName
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync


def read(origin: SqlOrigin, table: str, types: dict[str, pa.DataType] | None = None, **more: Any) -> dict[str, Any]:
    described = origin.describe(TableName("", table)).table
    columns = described.with_types(types or {}).columns
    return origin.rows(described.name, columns, more.get("increment")).read_all().to_pydict()


def test_declared_types_decide_how_values_land(make: MakeSqlite) -> None:
    with make(
        "CREATE TABLE t (i INTEGER, big BIGINT, b BOOLEAN, r REAL, n NUMERIC, d DECIMAL(10,2), dt DATE, ts DATETIME,"
        " x BLOB, s VARCHAR(10), j JSON, tm TIME)",
        "INSERT INTO t VALUES (1, 9223372036854775807, 1, 0.1, 2.5, 0.99, '2024-02-29', '2024-02-29T12:00:00.123456',"
        " x'00ff', 'é', '{\"a\": 1}', '23:59:59.5')",
        "INSERT INTO t VALUES (NULL, -9223372036854775808, 0, -1e308, 7, 12345678, '0001-01-01', '2024-01-01', x'',"
        " '', 5, NULL)",
    ) as origin:
        table = origin.describe(TableName("", "t")).table
        rows = read(origin, "t")

    assert [(c.name, str(c.type)) for c in table.columns] == [
        ("i", "int64"), ("big", "int64"), ("b", "bool"), ("r", "double"), ("n", "double"),
        ("d", "decimal128(10, 2)"), ("dt", "date32[day]"), ("ts", "timestamp[us]"), ("x", "binary"), ("s", "string"),
        ("j", "string"), ("tm", "time64[us]"),
    ]  # fmt: skip
    assert rows["i"] == [1, None]
    assert rows["big"] == [2**63 - 1, -(2**63)]
    assert rows["b"] == [True, False]
    assert rows["r"] == [0.1, -1e308]
    assert rows["n"] == [2.5, 7.0]
    assert rows["d"] == [Decimal("0.99"), Decimal("12345678.00")]
    assert rows["dt"] == [date(2024, 2, 29), date(1, 1, 1)]
    assert rows["ts"] == [datetime(2024, 2, 29, 12, 0, 0, 123456), datetime(2024, 1, 1)]
    assert rows["x"] == [b"\x00\xff", b""]
    assert rows["s"] == ["é", ""]
    assert rows["j"] == ['{"a": 1}', "5"]
    assert [str(v) for v in rows["tm"]] == ["23:59:59.500000", "None"]


@pytest.mark.parametrize(
    ("declared", "literal"),
    [
        ("INTEGER", "'abc'"),
        ("INTEGER", "1.5"),
        ("BOOLEAN", "2"),
        ("REAL", "'x'"),
        ("NUMERIC", "9007199254740993"),
        ("DECIMAL(4,2)", "0.123"),
        ("DECIMAL(4,2)", "100"),
        ("DECIMAL(4,2)", "'12.3x'"),
        ("DATE", "'2024-02-30'"),
        ("DATE", "'2024-02-01 10:00:00'"),
        ("DATETIME", "1700000000"),
        ("DATETIME", "'yesterday'"),
        ("DATETIME", "'2024-01-01 00:00:00.1234567'"),
        ("TIME", "'24:00:01'"),
        ("TEXT", "x'ff'"),
        ("BLOB", "'text'"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(make: MakeSqlite, declared: str, literal: str) -> None:
    with (
        make(f"CREATE TABLE t (id INTEGER, v {declared})", f"INSERT INTO t VALUES (1, NULL), (2, {literal})") as origin,
        pytest.raises(TypeRefused, match=r"main\.t, column 'v'") as refused,
    ):
        read(origin, "t")
    assert f"types: {{v: {'bytes' if declared == 'TEXT' else 'text'}}}" in refused.value.mend


@pytest.mark.parametrize(
    ("declared", "literal", "text"),
    [
        ("INTEGER", "'abc'", "abc"),
        ("REAL", "0.1 + 0.2", "0.30000000000000004"),
        ("DATETIME", "1700000000", "1700000000"),
        ("NUMERIC", "9007199254740993", "9007199254740993"),
        ("BLOB", "x'c3a9'", "é"),
    ],
)
def test_the_override_text_keeps_what_would_be_refused(
    make: MakeSqlite, declared: str, literal: str, text: str
) -> None:
    with make(f"CREATE TABLE t (v {declared})", f"INSERT INTO t VALUES ({literal}), (NULL)") as origin:
        assert read(origin, "t", {"v": pa.string()})["v"] == [text, None]


def test_overrides_cast_strictly(make: MakeSqlite) -> None:
    with make("CREATE TABLE t (v TEXT, w REAL)", "INSERT INTO t VALUES ('12.50', 3.0), ('7', 4.0)") as origin:
        assert read(origin, "t", {"v": pa.decimal128(6, 2), "w": pa.int64()}) == {
            "v": [Decimal("12.50"), Decimal("7.00")],
            "w": [3, 4],
        }
        with pytest.raises(TypeRefused, match=r"'12\.50' cannot be kept exactly as int64"):
            read(origin, "t", {"v": pa.int64()})


def test_hostile_names_are_only_names(make: MakeSqlite) -> None:
    name, column = 'a"b; DROP TABLE t; -- %s :x é', "c\"o%l:y'`"
    quote_table_name, quoted_column = name.replace('"', '""'), column.replace('"', '""')
    with make(
        f'CREATE TABLE "{quote_table_name}" ("{quoted_column}" INTEGER PRIMARY KEY)',
        f'INSERT INTO "{quote_table_name}" VALUES (7)',
    ) as origin:
        assert origin.tables(None) == [TableName("main", name)]
        assert read(origin, name, increment=Increment(column, "7")) == {column: [7]}
        assert origin.newest(TableName("", name), column) == "7"
        assert origin.describe(TableName("", name)).table.key == (column,)


def test_keys_sizes_and_views(make: MakeSqlite) -> None:
    with make(
        "CREATE TABLE t (b INT, a INT, c INT AS (a + b), PRIMARY KEY (a, b)) WITHOUT ROWID",
        "INSERT INTO t (a, b) VALUES (1, 2)",
        "CREATE TABLE u (a INT)",
        "INSERT INTO u VALUES (1), (2), (3)",
        "CREATE VIEW v AS SELECT a FROM u",
    ) as origin:
        assert [name.name for name in origin.tables(None)] == ["t", "u"]
        assert origin.describe(TableName("", "t")).table.key == ("a", "b")
        assert read(origin, "t") == {"b": [2], "a": [1], "c": [3]}
        assert origin.describe(TableName("main", "u")).rows == 3
        assert read(origin, "v") == {"a": [1, 2, 3]}


def test_everything_is_of_one_moment(make: MakeSqlite, file: Path) -> None:
    with make("PRAGMA journal_mode = WAL", "CREATE TABLE t (a INT)", "INSERT INTO t VALUES (1)") as origin:
        origin.tables(None)
        make("INSERT INTO t VALUES (2)")
        assert read(origin, "t") == {"a": [1]}
        assert origin.newest(TableName("", "t"), "a") == "1"


def test_an_empty_table_has_its_columns(make: MakeSqlite) -> None:
    with make("CREATE TABLE t (a INT, b TEXT)") as origin:
        described = origin.describe(TableName("", "t")).table
        found = origin.rows(described.name, described.columns).read_all()
    assert found.schema.names == ["a", "b"]
    assert found.num_rows == 0


def test_a_missing_file_a_missing_table_and_a_closed_origin(make: MakeSqlite, tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match="no SQLite file"):
        SqlOrigin("lite", f"sqlite:///{tmp_path / 'absent.db'}").tables(None)
    assert not (tmp_path / "absent.db").exists()
    (tmp_path / "text.db").write_text("this is no database, but it is long enough to look like one" * 20)
    with pytest.raises(ConnectionFailed, match="not a database"):
        SqlOrigin("lite", f"sqlite:///{tmp_path / 'text.db'}").tables(None)
    with make("CREATE TABLE t (a INT)") as origin, pytest.raises(OriginError, match=r"no table main\.nope"):
        origin.describe(TableName("", "nope"))
    with pytest.raises(OriginError, match="closed"):
        origin.tables(None)


def test_many_threads_read_at_once_and_one_may_stop_early(make: MakeSqlite) -> None:
    tables = [f"t{n}" for n in range(4)]
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n"
    with make(*(f"CREATE TABLE {t} AS {numbers}" for t in tables)) as origin:
        found: dict[str, int] = {}

        def work(table: str) -> None:
            described = origin.describe(TableName("", table)).table
            reader = origin.rows(described.name, described.columns)
            found[table] = reader.read_next_batch().num_rows if table == "t0" else reader.read_all().num_rows

        threads = [threading.Thread(target=work, args=(t,)) for t in tables]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(180)
    assert {t: n for t, n in found.items() if t != "t0"} == {"t1": 20000, "t2": 20000, "t3": 20000}
    assert 0 < found["t0"] < 20000


def test_increments_by_number_and_by_time_however_the_time_is_written(make: MakeSqlite) -> None:
    with make(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, at DATETIME)",
        "INSERT INTO t VALUES (1, '2024-01-01'), (2, '2024-01-02T10:00:00'), (3, '2024-01-02 11:00:00.5'),"
        " (4, '2024-01-02T09:59:59.999999')",
    ) as origin:
        name = TableName("", "t")
        assert origin.newest(name, "id") == "4"
        assert origin.newest(name, "at") == "2024-01-02 11:00:00.500000"
        assert read(origin, "t", increment=Increment("id", "3"))["id"] == [3, 4]
        assert read(origin, "t", increment=Increment("id", "4", lag=2))["id"] == [2, 3, 4]
        assert read(origin, "t", increment=Increment("at", "2024-01-02 10:00:00"))["id"] == [2, 3]
        late = Increment("at", "2024-01-02 10:00:00", lag=1)
        assert origin.lower_bound(name, late) == "2024-01-02 09:59:59"
        assert read(origin, "t", increment=late)["id"] == [2, 3, 4]
        assert origin.lower_bound(name, Increment("at")) is None


def test_cursors_that_cannot_be_trusted_are_refused(make: MakeSqlite) -> None:
    with make(
        "CREATE TABLE t (n INTEGER, s TEXT, at DATETIME, bad INTEGER)",
        "INSERT INTO t VALUES (1, 'a', 'soon', 'x'), (NULL, 'b', '2024-01-01', 2)",
    ) as origin:
        name = TableName("", "t")
        with pytest.raises(UsageError, match="NULLs"):
            origin.newest(name, "n")
        with pytest.raises(UsageError, match="a cursor is a number, a date or a timestamp"):
            origin.newest(name, "s")
        with pytest.raises(UsageError, match="no column 'nope'"):
            origin.newest(name, "nope")
        with pytest.raises(TypeRefused, match="'soon'"):
            origin.newest(name, "at")
        with pytest.raises(TypeRefused, match="'x'"):
            origin.newest(name, "bad")


HOSTILE: dict[str, tuple[object, ...]] = {
    "TEXT": ("ü", b"\x00\xff"), "BLOB": (b"\x00\xff", "text"), "DATETIME": ("2026-01-01T10:00:00Z", 1598313600),
    "TIMESTAMP": (1598313600,), "NUMERIC": (2**53 + 1, 0.5), "BOOLEAN": ("true", 0), "INT": ("abc", 1.5, 7),
    "DATE": (b"2026-01-01", "2026-02-30"), "DECIMAL(5,2)": (1.005, "x"), "REAL": ("x", b"\xff"), "JSON": (b"\xff", 1),
    "TIME": ("25:00:00",),
}  # fmt: skip


@pytest.mark.parametrize("asked", [None, "text", "timestamptz", "bigint", "bytes"])
def test_the_mend_of_every_refusal_works_as_it_is_printed(
    asked: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most two of them, one after the other: as text, then as bytes or not at all."""
    name = "an odd: name"
    with closing(sqlite3.connect(tmp_path / "origin.db")) as connection:
        for number, (declared, values) in enumerate(HOSTILE.items()):
            connection.execute(f'CREATE TABLE t{number} (id INTEGER PRIMARY KEY, "{name}" {declared})')
            connection.executemany(f"INSERT INTO t{number} VALUES (?, ?)", list(enumerate(values)))
        connection.commit()
    monkeypatch.setenv("SOURCES__SHOP_PG__CREDENTIALS", f"sqlite:///{tmp_path / 'origin.db'}")
    credentials = {"type": "duckdb", "path": str(tmp_path / "wh.duckdb"), "schema": "main"}
    profile = WarehouseProfile("duckdb", "wh", "main", 1, credentials)
    keys: dict[str, dict[str, Any]] = {f"t{number}": {} for number in range(len(HOSTILE))}
    if asked:
        keys = {table_name: {"types": {name: asked}} for table_name in keys}
    for _ in range(3):
        tables = [read_keys(table_name, said) for table_name, said in keys.items()]
        source = landing_source(*tables, replication="initial_copy", origin_schema=None)
        receipts = sync(Project(tmp_path, "shop", profile, (source,), ()), SyncOptions(), Silent())
        for receipt in [receipt for receipt in receipts if receipt.status == "failed"]:
            table_name = receipt.node.rpartition(".")[2]
            mend = re.search(r"`(\w+: \{.*\})`", str(receipt.error))
            assert mend is not None, receipt.error
            assert yaml.safe_load(mend[1]) != keys[table_name], f"{receipt.error} was tried"
            keys[table_name] = yaml.safe_load(mend[1])
    assert [(r.node, r.error) for r in receipts if r.status == "failed"] == []
    assert [r.rows_loaded for r in receipts] == [len(values) for values in HOSTILE.values()]


def read_keys(name: str, keys: dict[str, Any]) -> LandingTable:
    """A table with these keys of its bridge block."""
    columns = Columns(exclude=tuple(keys.get("columns", {}).get("exclude", ())))
    return table(name, "initial_copy", types=keys.get("types", {}), columns=columns)


def test_moments_with_and_without_an_offset_are_one_type(make: MakeSqlite) -> None:
    with make(
        "CREATE TABLE t (id INTEGER, v DATETIME)",
        "INSERT INTO t VALUES (1, '2026-01-01T10:00:00Z'), (2, '2026-01-01 10:00:00'), (3, '2026-01-01'),"
        " (4, '2026-01-01 10:00:00.5+02:00'), (5, NULL)",
    ) as origin:
        found = read(origin, "t", {"v": pa.timestamp("us", "UTC")})["v"]
    assert [None if v is None else v.isoformat() for v in found] == [
        "2026-01-01T10:00:00+00:00", "2026-01-01T10:00:00+00:00", "2026-01-01T00:00:00+00:00",
        "2026-01-01T08:00:00.500000+00:00", None,
    ]  # fmt: skip
