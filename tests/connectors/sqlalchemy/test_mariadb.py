"""MariaDB as an origin: every value lands as it is, or is refused."""
# ruff: noqa: S608

from __future__ import annotations

import math
import random
import struct
import threading
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pymysql
import pytest
from tests.chance import SEED

from dbt_bridge.connectors.sqlalchemy.origin import SqlOrigin
from dbt_bridge.contracts.origin import Increment
from dbt_bridge.errors import BridgeError, ConnectionFailed, OriginError, TypeRefused, UsageError
from dbt_bridge.nouns.table import TableName

if TYPE_CHECKING:
    from tests.connectors.conftest import MariaDatabase


def opened(mariadb: MariaDatabase) -> SqlOrigin:
    return SqlOrigin("shop_my", mariadb.url)


def read(origin: SqlOrigin, table: str, types: dict[str, pa.DataType] | None = None, **more: Any) -> dict[str, Any]:
    described = origin.describe(TableName("", table)).table
    columns = described.with_types(types or {}).columns
    return origin.rows(described.name, columns, more.get("increment")).read_all().to_pydict()


def test_numbers_keep_every_digit(mariadb: MariaDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (a TINYINT, b SMALLINT UNSIGNED, c MEDIUMINT UNSIGNED, d INT UNSIGNED ZEROFILL, e BIGINT,"
        " f BIGINT UNSIGNED, g DECIMAL(65,30), h DECIMAL(10,2) ZEROFILL, i TINYINT(1), j YEAR, k BIT(1), l BIT(64),"
        " m BIT(5), n DECIMAL(38,0))"
    )
    mariadb.execute(
        "INSERT INTO t VALUES (-128, 65535, 16777215, 7, -9223372036854775808, 18446744073709551615,"
        " -99999999999999999999999999999999999.999999999999999999999999999999, 1.5, 2, 2155, b'1', b'1' << 63, 21,"
        " -99999999999999999999999999999999999999)"
    )
    mariadb.execute("INSERT INTO t () VALUES ()")
    with opened(mariadb) as origin:
        rows = read(origin, "t")
        types = [str(c.type) for c in origin.describe(TableName("", "t")).table.columns]

    assert [values[0] for values in rows.values()] == [
        -128, 65535, 16777215, 7, -(2**63), 2**64 - 1,
        Decimal("-" + "9" * 35 + "." + "9" * 30), Decimal("1.50"), 2, 2155, True, 2**63, 21, Decimal("-" + "9" * 38),
    ]  # fmt: skip
    assert all(values[1] is None for values in rows.values())
    assert types == [
        "int8", "int32", "int32", "int64", "int64", "decimal128(20, 0)", "decimal256(65, 30)", "decimal128(10, 2)",
        "int8", "int16", "bool", "decimal128(20, 0)", "int64", "decimal128(38, 0)",
    ]  # fmt: skip


def test_floats_and_doubles_keep_every_bit(mariadb: MariaDatabase) -> None:
    seed = SEED
    print("seed", seed)
    dice = random.Random(seed)
    doubles = [struct.unpack("d", dice.randbytes(8))[0] for _ in range(500)] + [5e-324, 1.7976931348623157e308]
    singles = [struct.unpack("f", dice.randbytes(4))[0] for _ in range(500)] + [16777216.0, 0.10000000149011612]
    pairs = [
        (d, f) for d, f in zip(doubles, singles, strict=True) if math.isfinite(d) and math.isfinite(f)
    ]  # MariaDB has neither NaN nor infinity, nor -0
    mariadb.execute("CREATE TABLE t (id INT, d DOUBLE, f FLOAT)")
    with mariadb.connection.cursor() as cur:
        cur.executemany("INSERT INTO t VALUES (%s, %s, %s)", [(n, d, f) for n, (d, f) in enumerate(pairs)])
    with opened(mariadb) as origin:
        rows = read(origin, "t")

    found = {n: (d, f) for n, d, f in zip(*rows.values(), strict=True)}
    assert [struct.pack("2d", *found[n]) for n in range(len(pairs))] == [struct.pack("2d", *pair) for pair in pairs]


def test_texts_bytes_and_the_rest(mariadb: MariaDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (a CHAR(5), b VARCHAR(20) CHARACTER SET latin1, c LONGTEXT, d VARBINARY(10), e BLOB,"
        " f ENUM('x', 'é'), g SET('a', 'b', 'c'), h JSON, i UUID, j INET6, k BINARY(3), l POINT)"
    )
    mariadb.execute(
        "INSERT INTO t VALUES ('ab', 'Zürich ÿ', '😀 \\0 \\'\"', x'00ff', x'', 'é', 'c,a', '{\"a\": [1, 2.50]}',"
        " '123e4567-e89b-12d3-a456-426655440000', '::1', 'a', POINT(1, 0.1))"
    )
    with opened(mariadb) as origin:
        row = {name: values[0] for name, values in read(origin, "t").items()}
        text = read(origin, "t", {"l": pa.string()})["l"]

    assert row.pop("l") == b"\0\0\0\0" + struct.pack("<bI2d", 1, 1, 1.0, 0.1)
    assert text == ["POINT(1 0.1)"]
    assert list(row.values()) == [
        "ab", "Zürich ÿ", "😀 \0 '\"", b"\x00\xff", b"", "é", "a,c", '{"a": [1, 2.50]}',
        "123e4567-e89b-12d3-a456-426655440000", "::1", b"a\0\0",
    ]  # fmt: skip


def test_times_have_microseconds_and_timestamps_are_moments(mariadb: MariaDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (a DATE, b DATETIME(6), c TIMESTAMP(6) NULL, d TIME(6), e DATETIME, f TIMESTAMP(3) NULL)"
    )
    mariadb.execute("SET time_zone = '+05:30'")
    mariadb.execute(
        "INSERT INTO t VALUES ('9999-12-31', '1000-01-01 00:00:00.000001', '2024-06-01 12:00:00.123456',"
        " '23:59:59.999999', '2024-02-29 23:59:59', '1970-01-02 05:30:00.5')"
    )
    with opened(mariadb) as origin:
        row = [values[0] for values in read(origin, "t").values()]

    assert row == [
        date(9999, 12, 31),
        datetime(1000, 1, 1, 0, 0, 0, 1),
        datetime(2024, 6, 1, 6, 30, 0, 123456, tzinfo=UTC),
        time(23, 59, 59, 999999),
        datetime(2024, 2, 29, 23, 59, 59),
        datetime(1970, 1, 2, 0, 0, 0, 500000, tzinfo=UTC),
    ]


@pytest.mark.parametrize(
    ("declared", "literal", "text"),
    [
        ("DATE", "'0000-00-00'", "0000-00-00"),
        ("DATE", "'2024-00-15'", "2024-00-15"),
        ("DATETIME", "'0000-00-00 00:00:00'", "0000-00-00 00:00:00"),
        ("TIMESTAMP NULL", "'0000-00-00 00:00:00'", "0000-00-00 00:00:00"),
        ("TIME", "'838:59:59'", "838:59:59"),
        ("TIME", "'-01:00:00'", "-01:00:00"),
        ("TIME", "'24:00:00'", "24:00:00"),
    ],
)
def test_what_no_calendar_has_is_refused_and_kept_as_text(
    mariadb: MariaDatabase, declared: str, literal: str, text: str
) -> None:
    mariadb.execute("SET sql_mode = 'ALLOW_INVALID_DATES'")
    mariadb.execute(f"CREATE TABLE t (id INT, v {declared})")
    mariadb.execute(f"INSERT INTO t VALUES (1, NULL), (2, {literal})")
    with opened(mariadb) as origin:
        with pytest.raises(TypeRefused, match=rf"t, column 'v' .*'{text}'") as refused:
            read(origin, "t")
        assert "types: {v: text}" in refused.value.mend
        assert read(origin, "t", {"v": pa.string()})["v"] == [None, text]


def test_overrides_cast_strictly(mariadb: MariaDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (flag TINYINT(1), price DECIMAL(10,3), code VARCHAR(9), raw VARBINARY(9), one FLOAT)"
    )
    mariadb.execute("INSERT INTO t VALUES (1, 1.500, '42', 'abc', 0.1), (0, 2.250, '-7', 'é', NULL)")
    with opened(mariadb) as origin:
        assert read(
            origin,
            "t",
            {"flag": pa.bool_(), "price": pa.float64(), "code": pa.int32(), "raw": pa.string(), "one": pa.string()},
        ) == {
            "flag": [True, False],
            "price": [1.5, 2.25],
            "code": [42, -7],
            "raw": ["abc", "é"],
            "one": ["0.10000000149011612", None],
        }
        assert read(origin, "t", {"price": pa.decimal128(4, 2)})["price"] == [Decimal("1.50"), Decimal("2.25")]
        with pytest.raises(TypeRefused, match=r"column 'price'.*cannot be kept exactly as decimal128"):
            read(origin, "t", {"price": pa.decimal128(3, 1)})
        mariadb.execute("INSERT INTO t VALUES (2, 0, 'x', x'ff', 0)")
    with opened(mariadb) as origin:
        for column, kind in {"flag": pa.bool_(), "code": pa.int32(), "raw": pa.string()}.items():
            with pytest.raises(TypeRefused, match=f"column '{column}'"):
                read(origin, "t", {column: kind})


def test_hostile_names_are_only_names(mariadb: MariaDatabase) -> None:
    name, column = 'a`b"; DROP TABLE t; -- %s :x é', "c`o%l:y'\\"
    quote_table_name, quoted_column = (text.replace("`", "``") for text in (name, column))
    mariadb.execute(
        f"CREATE TABLE `{quote_table_name}` (`{quoted_column}` INT PRIMARY KEY, `select` FLOAT, `{'x' * 64}` INT)"
    )
    mariadb.execute(f"INSERT INTO `{quote_table_name}` VALUES (7, 1, 2)")
    with opened(mariadb) as origin:
        assert origin.tables(None) == [TableName(mariadb.name, name)]
        assert read(origin, name, increment=Increment(column, "7")) == {column: [7], "select": [1.0], "x" * 64: [2]}
        assert origin.newest(TableName("", name), column) == "7"
        assert origin.describe(TableName("", name)).table.key == (column,)


def test_tables_that_differ_by_case_and_keys_in_their_order(mariadb: MariaDatabase) -> None:
    mariadb.execute("CREATE TABLE Orders (a INT, b INT, PRIMARY KEY (b, a))")
    mariadb.execute("CREATE TABLE orders (c INT)")
    mariadb.execute("CREATE VIEW v AS SELECT c FROM orders")
    with opened(mariadb) as origin:
        assert [name.name for name in origin.tables(mariadb.name)] == ["Orders", "orders"]
        assert origin.describe(TableName("", "Orders")).table.key == ("b", "a")
        assert [c.name for c in origin.describe(TableName("", "orders")).table.columns] == ["c"]
        assert [c.name for c in origin.describe(TableName("", "v")).table.columns] == ["c"]


def test_all_tables_are_of_one_moment_in_several_threads(mariadb: MariaDatabase) -> None:
    mariadb.execute("CREATE TABLE a (n INT)")
    mariadb.execute("CREATE TABLE b (n INT)")
    mariadb.execute("INSERT INTO a SELECT seq FROM seq_1_to_30000")
    mariadb.execute("INSERT INTO b SELECT seq FROM seq_1_to_30000")
    found: dict[str, int] = {}
    with opened(mariadb) as origin:
        origin.tables(None)
        mariadb.execute("INSERT INTO a VALUES (0)")
        mariadb.execute("DELETE FROM b")

        def work(table: str) -> None:
            found[table] = len(read(origin, table)["n"])

        threads = [threading.Thread(target=work, args=(table,)) for table in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(180)
        assert origin.newest(TableName("", "b"), "n") == "30000"
    assert found == {"a": 30000, "b": 30000}


def test_a_reader_that_is_dropped_keeps_neither_the_turn_nor_the_rest_of_the_rows(mariadb: MariaDatabase) -> None:
    mariadb.execute("CREATE TABLE a (n INT, pad CHAR(200) DEFAULT '')")
    mariadb.execute("INSERT INTO a (n) SELECT seq FROM seq_1_to_200000")
    with opened(mariadb) as origin:
        table = origin.describe(TableName("", "a")).table
        reader = origin.rows(table.name, table.columns)
        first = reader.read_next_batch().num_rows
        del reader
        mariadb.execute("INSERT INTO a (n) VALUES (0)")
        assert 0 < first < 200000
        assert len(read(origin, "a")["n"]) == 200000


def test_closing_breaks_off_a_reader_in_another_thread(mariadb: MariaDatabase) -> None:
    mariadb.execute("CREATE TABLE a (n INT)")
    mariadb.execute("INSERT INTO a SELECT seq FROM seq_1_to_200000")
    origin = opened(mariadb)
    table = origin.describe(TableName("", "a")).table
    reader = origin.rows(table.name, table.columns)
    reader.read_next_batch()
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            origin.describe(table.name)
        except BridgeError as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    origin.close()
    thread.join(180)
    assert not thread.is_alive()
    assert "closed" in str(waiting[0])
    with pytest.raises(Exception, match="closed"):
        reader.read_all()


def test_increments(mariadb: MariaDatabase) -> None:
    mariadb.execute(
        "CREATE TABLE t (id BIGINT UNSIGNED, price DECIMAL(10,2), at DATETIME(6), moment TIMESTAMP(3), day DATE)"
    )
    mariadb.execute("SET time_zone = '+00:00'")
    for n in range(1, 5):
        mariadb.execute(
            f"INSERT INTO t VALUES ({n}, {n}.5, '2024-01-0{n} 12:00', '2024-01-0{n} 12:00', '2024-01-0{n}')"
        )
    with opened(mariadb) as origin:
        name = TableName("", "t")
        newest = {c: origin.newest(name, c) for c in ("id", "price", "at", "moment", "day")}
        assert newest == {
            "id": "4",
            "price": "4.50",
            "at": "2024-01-04 12:00:00",
            "moment": "2024-01-04 12:00:00+00:00",
            "day": "2024-01-04",
        }
        for column, value in newest.items():
            assert read(origin, "t", increment=Increment(column, value))["id"] == [4]
        for column, lag in {"id": 2, "price": 1.5, "at": 86400 * 2 - 1, "moment": 86400, "day": 3600}.items():
            late = Increment(column, newest[column], lag)
            bound = origin.lower_bound(name, late)
            assert bound is not None
            exact = read(origin, "t", increment=Increment(column, bound))["id"]
            assert read(origin, "t", increment=late)["id"] == exact
            assert exact == {"id": [2, 3, 4], "price": [3, 4], "at": [3, 4], "moment": [3, 4], "day": [3, 4]}[column]


def test_cursors_that_cannot_be_trusted_are_refused(mariadb: MariaDatabase) -> None:
    mariadb.execute("CREATE TABLE t (n INT, s VARCHAR(9), ok BIT(1))")
    with opened(mariadb) as origin:
        assert origin.newest(TableName("", "t"), "n") is None
    mariadb.execute("INSERT INTO t VALUES (1, 'a', 1), (NULL, 'b', 0)")
    with opened(mariadb) as origin:
        for column, why in {
            "n": "NULLs",
            "s": "a cursor is a number",
            "ok": "a cursor is a number",
            "x": "no column",
        }.items():
            with pytest.raises(UsageError, match=why):
                origin.newest(TableName("", "t"), column)


def test_errors_name_the_mend_and_never_the_password(mariadb: MariaDatabase) -> None:
    server = mariadb.server
    mariadb.execute("CREATE TABLE t (n INT)")
    mariadb.execute("CREATE TABLE secret (n INT)")
    mariadb.execute("CREATE USER IF NOT EXISTS reader@'%%' IDENTIFIED BY 'reader-canary'")
    mariadb.execute(f"GRANT SELECT ON `{mariadb.name}`.t TO reader@'%%'")
    seen: list[BridgeError] = []
    for url in (
        server.url(mariadb.name, password="canary-wrong"),
        server.url("absent_database"),
        f"mysql+pymysql://root:canary-password@127.0.0.1:1/{mariadb.name}",
        f"mysql+pymysql://root:canary-password@no-such-host.invalid/{mariadb.name}",
    ):
        with pytest.raises(ConnectionFailed) as failed, SqlOrigin("shop_my", url) as origin:
            origin.tables(None)
        seen.append(failed.value)
    with SqlOrigin("shop_my", server.url(mariadb.name, "reader", "reader-canary")) as origin:
        assert [name.name for name in origin.tables(None)] == ["t"]
        with pytest.raises(OriginError, match="no schema 'shopp'"):
            origin.tables("shopp")
        with pytest.raises(OriginError, match="privilege") as failed_table:
            origin.describe(TableName("", "secret"))
        seen.append(failed_table.value)
        table = TableName(mariadb.name, "secret")
        with pytest.raises(Exception, match="may not read") as denied:
            origin.rows(table, origin.describe(TableName("", "t")).table.columns).read_all()
        assert "GRANT SELECT" in str(denied.value)
        mariadb.execute("ALTER TABLE t RENAME COLUMN n TO m")
    assert all(error.mend for error in seen)
    assert not any("canary" in str(error) + repr(error.__cause__) for error in seen)
    assert "absent_database" in str(seen[1])


def test_a_server_that_goes_away_in_the_middle_is_said(mariadb: MariaDatabase) -> None:
    mariadb.execute("CREATE TABLE a (n INT, pad CHAR(250) DEFAULT '')")
    mariadb.execute("INSERT INTO a (n) SELECT seq FROM seq_1_to_300000")
    with opened(mariadb) as origin:
        table = origin.describe(TableName("", "a")).table
        reader = origin.rows(table.name, table.columns)
        reader.read_next_batch()
        for number, _, _, database, *_ in mariadb.execute("SHOW PROCESSLIST"):
            if database == mariadb.name and number != mariadb.connection.thread_id():
                mariadb.execute(f"KILL {number}")
        with pytest.raises(OriginError, match="broke off while"):
            reader.read_all()


def test_an_invisible_driver_is_named(mariadb: MariaDatabase) -> None:
    del mariadb
    with pytest.raises(UsageError, match="needs the driver 'MySQLdb'") as missing:
        SqlOrigin("shop_my", "mysql+mysqldb://u:p@127.0.0.1/x").tables(None)
    assert missing.value.mend == "pip install mysqlclient"
    assert pymysql.VERSION
