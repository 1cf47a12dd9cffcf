"""The digest that PostgreSQL computes where its rows are is the one of the rows that the initial copy lands.

Hypothesis makes values of every type; PostgreSQL stores them, digests them, and sends them through the origin as a
landing gets them. The two hashes share no code: one is the server's C, the other numpy.
"""

from __future__ import annotations

import datetime as dt
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dbt_bridge.arrow.mask import mask_array
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.connectors.postgres.wire.digest_sql import (
    FIRST_VERSION,
    PROBE,
    PROBE_SQL,
    build_bucket_select,
    build_digest_select,
    build_element,
    build_row_digest,
)
from dbt_bridge.connectors.postgres.wire.session import READ_SETTINGS
from dbt_bridge.contracts.canon import (
    Canon,
    Digested,
    NoDigests,
    choose_canon,
)
from dbt_bridge.contracts.side import BucketSelection
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.table import Column, TableName, quote_identifier
from dbt_bridge.verify.canonical.row_digest import compute_digests, mix_digests

T = TableName("public", "t")
EXAMPLES = settings(
    phases=(Phase.generate,),  # a table of seven columns takes minutes to shrink, and an assertion names the column
    max_examples=4,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

characters = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
texts = st.one_of(st.text(characters, max_size=12), st.integers(0, 40).map(lambda n: "abcdefghijklm"[n % 13] * n))
moments = st.one_of(
    st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31)).map(str),
    st.sampled_from(["infinity", "-infinity", "4713-11-24 10:00:00 BC", "1969-12-31 23:59:59.999999", "294246-12-31"]),
)
dates = st.one_of(st.dates().map(str), st.sampled_from(["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"]))
floats = st.one_of(st.floats().map(repr), st.sampled_from(["0", "-0", "NaN", "Infinity", "-Infinity", "1e15", "1e-5"]))
singles = st.one_of(
    st.floats(width=32).map(lambda f: repr(np.float32(f).item())), st.sampled_from(["-0", "1e6", "0.1"])
)
hours = st.integers(-2_000_000, 2_000_000)
intervals = st.builds(
    "{} mons {} days {}:{}:{}.{:06}".format, hours, hours, hours, *[st.integers(0, 59)] * 2, st.integers(0, 999_999)
)
clocks = st.one_of(st.times().map(str), st.just("24:00:00"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(characters, max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(characters, max_size=3), inner, max_size=3),
    max_leaves=5,
).map(lambda value: __import__("json").dumps(value))


def integers(bits: int) -> st.SearchStrategy[str]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(str)


def decimals(digits: int, places: int) -> st.SearchStrategy[str]:
    number = st.one_of(st.integers(-(10**digits) + 1, 10**digits - 1), st.integers(-20_000, 20_000))
    return number.map(lambda unscaled: f"{unscaled}e{-places}")


def arrays(elements: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def written(values: list[str | None]) -> str:
        quoted_ = ['"' + v.replace("\\", "\\\\").replace('"', '\\"') + '"' if v is not None else "NULL" for v in values]
        return "{" + ",".join(quoted_) + "}"

    return st.lists(st.none() | elements, max_size=4).map(written)


TYPES: dict[str, st.SearchStrategy[str]] = {
    "smallint": integers(16),
    "integer": integers(32),
    "bigint": st.one_of(integers(64), integers(33)),
    "oid": st.integers(0, 2**32 - 1).map(str),
    "boolean": st.sampled_from(["t", "f"]),
    "real": singles,
    "double precision": floats,
    "numeric(12,2)": decimals(12, 2),
    "numeric(10,4)": decimals(10, 4),
    "numeric(18,6)": decimals(18, 6),
    "numeric(20,0)": decimals(20, 0),
    "numeric(38,7)": decimals(38, 7),
    "numeric(38,38)": decimals(38, 38),
    "numeric(5,-3)": decimals(5, -3),
    "numeric": st.one_of(decimals(60, 20), st.sampled_from(["NaN", "Infinity", "-Infinity", "1.10", "1e-30", "0.000"])),
    "text": texts,
    "varchar(50)": texts.map(lambda text: text[:50]),
    "character(7)": st.text(characters, max_size=7),
    "name": st.text(characters, max_size=10),
    '"char"': st.sampled_from(["", "a", "\\377"]),
    "bytea": st.binary(max_size=40).map(lambda data: "\\x" + data.hex()),
    "uuid": st.uuids().map(str),
    "json": json_values,
    "jsonb": json_values.filter(lambda text: "\\u0000" not in text),
    "date": dates,
    "time": clocks,
    "timetz": clocks.map(lambda time: time + "+03:30"),
    "timestamp": moments,
    "timestamptz": moments.map(lambda moment: moment if "infinity" in moment else moment.replace(" BC", "+00 BC")),
    "interval": intervals,
    "inet": st.ip_addresses().map(str),
    "bit varying": st.text("01", max_size=20),
    "int4range": st.integers(0, 99).map(lambda n: f"[{n},{n + 5})"),
    "an_enum": st.sampled_from(["happy", "so so"]),
    "money_domain": decimals(10, 2),
    "char_domain": st.sampled_from(["", "a", "ab "]),
    "integer[]": arrays(integers(32)),
    "bigint[]": arrays(integers(64)),
    "boolean[]": arrays(st.sampled_from(["t", "f"])),
    "real[]": arrays(singles),
    "double precision[]": arrays(floats),
    "numeric(7,3)[]": arrays(decimals(7, 3)),
    "text[]": arrays(texts | st.sampled_from(["NULL", "", 'a"b', "{c}", "d\\e", " f"])),
    "bytea[]": arrays(st.binary(max_size=9).map(lambda data: "\\x" + data.hex())),
    "uuid[]": arrays(st.uuids().map(str)),
    "date[]": arrays(dates),
    "time[]": arrays(clocks),
    "timestamp[]": arrays(moments),
    "interval[]": arrays(intervals),
    "jsonb[]": arrays(st.sampled_from(['{"a": 1}', "null", "[]"])),
    "an_enum[]": arrays(st.sampled_from(["happy", "so so"])),
    "money_domain[]": arrays(decimals(10, 2)),
}


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE digests")
    with psycopg.connect(server.url("digests"), autocommit=True) as connection:
        connection.execute("CREATE TYPE an_enum AS ENUM ('happy', 'so so')")
        connection.execute("CREATE DOMAIN money_domain AS numeric(10,2)")
        connection.execute("CREATE DOMAIN char_domain AS character(5)")
    yield server.url("digests")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE digests WITH (FORCE)")


def settled(connection: psycopg.Connection) -> None:
    """The settings of an origin's connection."""
    for name, value in READ_SETTINGS:
        if name != "transaction_timeout":
            connection.execute("SELECT set_config(%s, %s, false)", [name, value])


def stored(url: str, types: Sequence[str], rows: Sequence[Sequence[str | None]]) -> tuple[tuple[Column, ...], pa.Table]:
    """A table of these rows (columns v0, v1, ...) and one of NULLs; its columns, and its rows as they land."""
    names = [f"v{i}" for i in range(len(types))]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        columns = ", ".join(f"{name} {type_}" for name, type_ in zip(names, types, strict=True))
        connection.execute(f"CREATE TABLE t (i int, {columns})".encode())
        casts = ", ".join(f"{name}::{type_}" for name, type_ in zip(names, types, strict=True))
        texts_ = ", ".join(["%s::text[]"] * len(types))
        source = f"unnest({texts_}) WITH ORDINALITY AS v ({', '.join(names)}, i)"
        values = [[*column, None] for column in zip(*rows, strict=True)]
        connection.execute(f"INSERT INTO t SELECT i, {casts} FROM {source}".encode(), values)  # noqa: S608
    with PostgresOrigin("pg", url) as origin:
        found = origin.describe(T).table.columns
        return found[1:], origin.rows(T, found).read_all().sort_by("i").drop_columns("i")


def at_server(url: str, *columns: Digested) -> list[tuple[int, ...]]:
    """Each column's digests, as the server computes them."""
    statements = [build_digest_select("public.t", [], [column], selected=["i"]) for column in columns]
    with psycopg.connect(url) as connection:
        settled(connection)
        return [
            next(zip(*connection.execute(f"SELECT _row FROM ({s}) AS s ORDER BY i".encode()).fetchall(), strict=True))  # noqa: S608
            for s in statements
        ]


def same(column: Column) -> Digested:
    """The column compared with one of its own type."""
    return Digested(column, choose_canon(column, replace(column, origin_type="")))


FAMILIES = [list(TYPES)[i : i + 7] for i in range(0, len(TYPES), 7)]


@pytest.mark.parametrize("types", FAMILIES, ids=lambda types: types[0])
def test_a_value_of_every_type_has_the_digest_of_what_lands(url: str, types: list[str]) -> None:
    @EXAMPLES
    @given(st.lists(st.tuples(*[TYPES[type_] for type_ in types]), min_size=3, max_size=12))
    def all_alike(rows: list[tuple[str, ...]]) -> None:
        columns, landed = stored(url, types, rows)
        digested = [same(column) for column in columns]
        for column, found, array in zip(digested, at_server(url, *digested), landed.columns, strict=True):
            assert list(found) == compute_digests([array], [column.canon]).tolist(), column

    all_alike()


@pytest.mark.parametrize(
    "type_", ["integer", "numeric(12,2)", "text", "character(7)", "inet", "timestamptz", "an_enum"]
)
def test_a_masked_column_is_digested_as_its_hash(url: str, type_: str) -> None:
    values = {
        "text": ["", "é", "x"],
        "inet": ["10.0.0.1"],
        "timestamptz": ["2024-01-01 00:00:00+05"],
        "an_enum": ["happy"],
    }
    (column,), _ = stored(url, [type_], [[value] for value in values.get(type_, ["1", "2"])])
    with PostgresOrigin("pg", url) as origin:
        text = origin.rows(T, [Column("i", pa.int32()), column.as_text()]).read_all().sort_by("i").column(1)
    hashes = mask_array(text.combine_chunks(), "sha256")
    (found,) = at_server(url, Digested(column, Canon("text"), "sha256"))
    assert list(found) == compute_digests([hashes], [Canon("text")]).tolist()


@pytest.mark.parametrize(
    ("type_", "values", "landed"),
    [
        ("integer", ["-5", "70000"], pa.array([Decimal("-5.00"), Decimal("70000.00"), None], pa.decimal128(12, 2))),
        ("bigint", ["1", str(2**53)], pa.array([1.0, 2.0**53, None])),
        ("boolean", ["t", "f"], pa.array([1, 0, None], pa.int16())),
        ("numeric(12,2)", ["1.10", "-3"], pa.array(["1.1", " -3.000 ", None])),
        ("numeric(12,2)", ["0.10", "-0.3"], pa.array([0.1, -0.3, None])),
        ("numeric", ["1.10", "-3e30"], pa.array([Decimal("1.1"), Decimal("-3e30"), None], pa.decimal128(38, 5))),
        ("integer", ["1", "-2"], pa.array([1, -2, None], pa.int64())),
        ("real", ["0.5", "NaN"], pa.array([0.5, float("nan"), None], pa.float64())),
        ("date", ["2024-02-29", "-infinity"], pa.array([1709164800, None, None], pa.timestamp("s"))),
        ("timestamptz", ["2024-02-29 01:00+01"], pa.array([dt.datetime(2024, 2, 29), None], pa.timestamp("ms"))),
        ("timestamp", ["2024-02-29 00:00:00.000001"], pa.array([1709164800000001000, None], pa.timestamp("ns"))),
        ("interval", ["1:00:00.5"], pa.array([dt.timedelta(seconds=3600.5), None], pa.duration("ms"))),
        ("time", ["01:00:00.5"], pa.array([3600500, None], pa.int32()).cast(pa.time32("ms"))),
        ("uuid", ["00112233-4455-6677-8899-aabbccddeeff"], pa.array(["00112233-4455-6677-8899-AABBCCDDEEFF", None])),
        ("character(5)", ["ab", ""], pa.array(["ab", "", None])),
        ("text", ["é", ""], pa.array(["é".encode(), b"", None], pa.large_binary())),
        ("text", ["é", ""], pa.array(["é", "", None], pa.string_view())),
        ("text", ["é", "é"], pa.array(["é", "é", None]).dictionary_encode()),
        ("date", ["2024-02-29", "0044-03-15 BC"], pa.array(["2024-02-29", "0044-03-15 BC", None])),
        ("timestamptz[]", ["{2024-02-29 00:00:00+00}"], pa.array([[dt.datetime(2024, 2, 29)], None])),
    ],
)
def test_the_same_value_of_another_type_has_the_same_digest(
    url: str, type_: str, values: list[str], landed: pa.Array
) -> None:
    (column,), _ = stored(url, [type_], [[value] for value in values])
    canon = choose_canon(column, Column("v", landed.type))
    if type_ == "date" and landed.type == pa.timestamp("s"):  # that infinity has no seconds
        landed = pa.array([1709164800000000, -(2**63) + 1, None]).view(pa.timestamp("us"))
    (found,) = at_server(url, Digested(column, canon))
    assert list(found) == compute_digests([landed], [canon]).tolist()


beyond_bigints = st.builds(lambda m, e: repr(float(m * 2**e)), st.integers(2**52, 2**53 - 1), st.integers(0, 971))
ends = [float(sign * (2**e + d)) for e in (53, 62, 63, 64) for d in (-1025, 0, 2049) for sign in (1, -1)]
doubles_of_all_sizes = st.one_of(floats, beyond_bigints, st.sampled_from(ends).map(repr))


@pytest.mark.parametrize("other", [pa.int64(), pa.decimal128(38, 7)], ids=str)
def test_a_float_beside_a_number_has_the_digest_of_the_number_that_it_is_written_as(
    url: str, other: pa.DataType
) -> None:
    @EXAMPLES
    @given(st.lists(st.tuples(doubles_of_all_sizes, singles), min_size=3, max_size=12))
    def all_alike(rows: list[tuple[str, ...]]) -> None:
        columns, landed = stored(url, ["double precision", "real"], rows)
        digested = [Digested(column, choose_canon(column, Column("n", other))) for column in columns]
        for column, found, array in zip(digested, at_server(url, *digested), landed.columns, strict=True):
            assert list(found) == compute_digests([array], [column.canon]).tolist(), column

    all_alike()


def test_values_that_are_easily_taken_for_each_other_differ(url: str) -> None:
    """NULL, empty, zero, NaN, the infinities: PostgreSQL's own hashes of some of these are the same."""
    alike = {
        "numeric": ["0", "NaN", "Infinity", "-Infinity", "1", "-1", "10000", "0.0001"],
        "double precision": ["0", "NaN", "Infinity", "-Infinity", "1", "-1"],
        "bigint": ["0", "-1", "4294967295", "4294967296", str(2**63 - 1), str(-(2**63))],
        "text": ["", " ", "NULL", "0"],
        "bytea": ["", "\\x00", "\\x0000"],
        "text[]": ["{}", "{NULL}", "{NULL,NULL}", '{""}', '{"NULL"}', '{"a,b"}', "{a,b}"],
        "interval": ["1 mon", "30 days", "720:00:00", "0"],
        "timestamp": ["infinity", "-infinity", "2000-01-01"],
    }
    for type_, values in alike.items():
        (column,), landed = stored(url, [type_], [[value] for value in values])
        (found,) = at_server(url, same(column))
        assert list(found) == compute_digests(landed.columns, [same(column).canon]).tolist()
        assert len(set(found)) == len(values) + 1, type_


def test_an_array_that_no_list_holds_is_like_no_list(url: str) -> None:
    (column,), _ = stored(url, ["int[]"], [["{1,2,3,4}"]])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO t VALUES (3, '{{1,2},{3,4}}'), (4, '[0:3]={1,2,3,4}')")
    (found,) = at_server(url, same(column))
    assert len(set(found)) == 4
    (column,), _ = stored(url, ["text[]"], [['{"{{a,b}}"}'], ['{"[0:0]={a}"}']])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO t VALUES (4, '{{a,b}}'), (5, '[0:0]={a}')")
    (found,) = at_server(url, same(column))
    assert len(set(found)) == 5


def test_rows_keys_and_buckets_are_those_of_arrow(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS t")
        connection.execute('CREATE TABLE t ("a ""k""" int, b text, c numeric(9,2), d date)')
        connection.execute(
            "INSERT INTO t SELECT i, 'k' || i % 7, nullif(i % 5, 3) / 4.0, '2024-01-01'::date + i"
            " FROM generate_series(1, 500) i"
        )
    with PostgresOrigin("pg", url) as origin:
        columns = origin.describe(T).table.columns
        rows = origin.rows(T, columns).read_all().sort_by('a "k"')
    both = [Digested(c, choose_canon(c, c)) for c in columns]
    key, values = both[:2], both[2:]
    keys = compute_digests([rows.column(0), rows.column(1)], [d.canon for d in key])
    of_rows = compute_digests([rows.column(2), rows.column(3)], [d.canon for d in values])
    name = quote_identifier('a "k"')
    with psycopg.connect(url) as connection:
        settled(connection)
        statement = build_digest_select("public.t", key, values, selected=[name, "b"], condition=f"{name} > 0")
        found = sorted(connection.execute(statement.encode()).fetchall())
        assert [row[2] for row in found] == of_rows.tolist()
        in_two = build_digest_select("public.t", key, values, selected=[name, "b"], within=BucketSelection(8, [1, 6]))
        some = connection.execute(in_two.encode()).fetchall()
        assert sorted(some) == [row for row, k in zip(found, keys.tolist(), strict=True) if k & 7 in (1, 6)]
        sums = connection.execute(build_bucket_select("public.t", key, values, 8).encode()).fetchall()
        whole = connection.execute(build_digest_select("public.t", [], both).encode()).fetchall()
    mixes = mix_digests(keys, of_rows)
    expected = {b: (int((keys & 7 == b).sum()), sum(mixes[keys & 7 == b].tolist())) for b in range(8)}
    assert {bucket: (rows, int(total)) for bucket, rows, total in sums} == {b: v for b, v in expected.items() if v[0]}
    together = compute_digests(rows.columns, [d.canon for d in both]).tolist()
    assert sorted(whole) == sorted((digest,) for digest in together)


def test_a_few_long_values_among_short_ones_have_the_servers_digest_and_take_no_minutes(url: str) -> None:
    (column,), landed = stored(url, ["text"], [["x" * length] for length in (5, 10_000_007, 11, 900, 5000, 5003)])
    started = time.monotonic()
    found = compute_digests(landed.columns, [same(column).canon]).tolist()
    assert time.monotonic() - started < 30  # block by block in numpy: 90 s
    (expected,) = at_server(url, same(column))
    assert found == list(expected)


def test_two_rows_that_swap_a_value_change_their_buckets_total() -> None:
    keys = np.array([11, 12], np.int64)
    rows = np.array([-5, 2**40], np.int64)
    assert mix_digests(keys, rows).sum() != mix_digests(keys, rows[::-1].copy()).sum()


def test_every_supported_server_hashes_as_numpy_does(each_server: Server) -> None:
    with psycopg.connect(each_server.url()) as connection:
        if connection.info.server_version < FIRST_VERSION:
            pytest.skip("no hash_record_extended before PostgreSQL 14")
        assert connection.execute(PROBE_SQL.encode()).fetchone() == PROBE


def test_the_probe_is_what_arrow_arrays_hash_to() -> None:
    short, long_, text, number = Canon("int", bits=32), Canon("int"), Canon("text"), Canon("decimal")

    def row(*values: tuple[pa.Array, Canon]) -> int:
        return int(compute_digests([array for array, _ in values], [canon for _, canon in values])[0])

    def raw(value: int, integer: pa.DataType, type_: pa.DataType) -> pa.Array:
        return pa.array([value], integer).view(type_)

    moment = raw(2**63 - 1, pa.int64(), pa.timestamp("us"))
    assert (
        True,
        row(
            (pa.array([1]), short), (pa.array([-2]), short), (pa.array([True]), short), (pa.nulls(1, pa.int32()), short)
        ),
        row((pa.array([2**63 - 1]), long_)),
        int(mix_digests(np.array([7766554433221100]), np.array([-5]))[0]),
        row(
            (pa.array([1.5]), Canon("float")),
            (pa.array([-struct.unpack("d", b"\0" * 6 + b"\xf8\x7f")[0]]), Canon("float")),
        ),
        row(*[(pa.array([value]), text) for value in ("", "eleven char", "x" * 40)]),
        row((pa.array([bytes.fromhex("00112233445566778899aabbccddeeff")], pa.binary(16)), Canon("uuid"))),
        row(
            (pa.array([dt.date(1999, 12, 31)]), Canon("date")), (raw(1 - 2**31, pa.int32(), pa.date32()), Canon("date"))
        ),
        row((moment, Canon("timestamp")), (pa.array([dt.time(12, 34, 56, 789000)]), Canon("time"))),
        row(*[(pa.array([value]), number) for value in ("1234567.89", "-0.00000305", "NaN")]),
        row((pa.array([["a", None]]), Canon("list", of=text))),
    ) == PROBE


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.text(max_size=30), st.floats()), min_size=1), st.data())
@settings(deadline=None, max_examples=60, print_blob=True)
def test_one_flipped_bit_changes_the_digest_of_its_row_alone(
    rows: list[tuple[int, str, float]], data: st.DataObject
) -> None:
    canons = [Canon("int"), Canon("binary"), Canon("binary")]
    columns = [
        [row[0] for row in rows],
        [row[1].encode("utf-8", "surrogatepass") + b"." for row in rows],
        [struct.pack("d", row[2]) for row in rows],
    ]
    types = [pa.int64(), pa.binary(), pa.binary()]
    before = compute_digests([pa.array(c, t) for c, t in zip(columns, types, strict=True)], canons)
    at, column = data.draw(st.integers(0, len(rows) - 1)), data.draw(st.integers(0, 2))
    value = columns[column][at]
    raw = bytearray(struct.pack("q", value) if isinstance(value, int) else value)
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    columns[column][at] = struct.unpack("q", raw)[0] if isinstance(value, int) else bytes(raw)
    after = compute_digests([pa.array(c, t) for c, t in zip(columns, types, strict=True)], canons)
    assert np.flatnonzero(before != after).tolist() == [at]


def test_what_postgres_cannot_digest_exactly_is_said() -> None:
    for origin_type, canon in [
        ("text", Canon("decimal", scale=2)),
        ("numeric(4,1)", Canon("int")),
        ("text", Canon("text", form="uuid")),
    ]:
        with pytest.raises(NoDigests, match="has no digest"):
            build_element('"x"', origin_type, canon)


def test_a_row_of_more_elements_than_postgres_takes_has_no_digest() -> None:
    number = Digested(Column("n", pa.decimal128(9, 2), "numeric(9,2)"), Canon("decimal", scale=2))
    assert build_row_digest([number] * 832)
    with pytest.raises(NoDigests, match="more elements"):
        build_row_digest([number] * 833)
