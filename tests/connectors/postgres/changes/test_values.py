"""Values of changes, in text and in binary, are those of the initial copy: random values, refusals, corrupted bytes.

Postgres writes each value in both of its forms; both lie between other bytes, as in a run of messages. The initial
copy of the same table, which has property tests of its own, is the judge, and for corrupted text Postgres's parser.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from dbt_bridge.connectors.postgres.changes.messages import (
    BINARY,
    NULL,
    TEXT,
    UNCHANGED,
    Cells,
)
from dbt_bridge.connectors.postgres.changes.values.columns import Unfit, decode_column, is_binary_decodable
from dbt_bridge.connectors.postgres.origin import catalog
from dbt_bridge.connectors.postgres.origin.column_types import OriginType, natural_type, resolve_reading
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.wire.bulk import BulkConnection, Error
from dbt_bridge.connectors.postgres.wire.session import CONTROL_SETTINGS, build_settings_sql
from dbt_bridge.demo.postgres import Server
from dbt_bridge.nouns.table import TableName

EXAMPLES = settings(
    max_examples=6, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

REFUSALS = (Error, OSError, pa.ArrowException, ValueError)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
tricky = st.text(st.sampled_from('ab ",\\{}N'), max_size=6)
unbounded = st.decimals(allow_nan=False, allow_infinity=False)


def places(p: int, s: int) -> st.SearchStrategy[str]:
    return st.integers(-(10**p) + 1, 10**p - 1).map(lambda n: f"{n}e{-s}")


def of_number(first: int, last: int, epoch: str, unit: str) -> st.SearchStrategy[str]:
    return st.integers(first, last).map(lambda n: f"{n}|{epoch}|{unit}")


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "smallint": st.integers(-(2**15), 2**15 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "oid": st.integers(0, 2**32 - 1),
    "real": st.floats(width=32),
    "double precision": st.floats(),
    "boolean": st.booleans(),
    "numeric(4,0)": places(4, 0),
    "numeric(9,2)": places(9, 2),
    "numeric(18,5)": places(18, 5),
    "numeric(20,3)": places(20, 3),
    "numeric(37,1)": places(37, 1),
    "numeric(38,4)": places(38, 4),
    "numeric(38,38)": places(38, 38),
    "numeric(5,-7)": places(5, -7),
    "numeric(3,6)": places(3, 6),
    "numeric": st.one_of(unbounded.map(str), st.sampled_from(["NaN", "Infinity", "0.00", "1e-30", "1e20"])),
    "text": texts,
    "varchar(40)": texts,
    "char(40)": texts,
    "json": texts.map(lambda t: psycopg.types.json.Json([t])),
    "jsonb": texts.map(lambda t: psycopg.types.json.Jsonb([t])),
    "bytea": st.binary(max_size=40),
    "uuid": st.uuids(),
    "date": st.one_of(
        st.dates(), st.sampled_from(["infinity", "-infinity", "4714-11-24 BC", "0045-02-29 BC", "5874897-12-31"])
    ),
    "time": st.one_of(st.times(), st.just("24:00:00")),
    "timestamp": st.one_of(
        st.datetimes(),
        st.sampled_from(["infinity", "4714-11-24 00:00 BC", "0001-12-31 23:59:59.5 BC", "10000-01-01", "294246-12-31"]),
    ),
    "timestamptz": st.one_of(
        st.datetimes(timezones=st.just(dt.UTC)),
        st.sampled_from(["-infinity", "0044-03-15 12:00:00.25+00 BC", "25000-02-28 01:02:03.000004+00"]),
    ),
    "interval": st.tuples(
        st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.integers(-(10**15), 10**15)
    ).map(lambda v: f"{v[0]} mons {v[1]} days {v[2]} us"),
    "bigint[]": st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=5),
    "text[]": st.lists(st.one_of(st.none(), texts, tricky, st.sampled_from(["null", "NULL", ""])), max_size=5),
    "boolean[]": st.lists(st.one_of(st.none(), st.booleans()), max_size=5),
    "float8[]": st.lists(st.one_of(st.none(), st.floats()), max_size=5),
    "bytea[]": st.lists(st.one_of(st.none(), st.binary(max_size=9)), max_size=5),
    "timestamp[]": st.lists(st.one_of(st.none(), st.datetimes()), max_size=5),
    "numeric(38,4)[]": st.lists(st.one_of(st.none(), st.integers(-(10**34) + 1, 10**34 - 1)), max_size=5),
    "jsonb[]": st.lists(st.one_of(st.none(), tricky.map(lambda t: psycopg.types.json.Jsonb([t]))), max_size=3),
}

OVERRIDES = (
    pa.string(), pa.bool_(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.decimal128(5, 1),
    pa.decimal128(38, 10), pa.date32(), pa.time64("us"), pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.uuid(),
    pa.json_(), pa.binary(),
)  # fmt: skip

# Values that some overrides take and others refuse.
OVERRIDDEN = {
    "text": ["1", "1.5", "12.55", "true", "t", "2024-02-29", "2024-02-29 01:02:03", "2024-02-29 01:02:03+00",
             "01:02:03", "{ffffffff-1234-5678-9abc-def012345678}", "ffff-ffff-1234-5678-9abc-def0-1234-5678",
             '{"a": 1}', "NaN", "Infinity", "1e400", "1e39", "", "{} x", "é"],
    "bigint": ["0", "1", "40000", "9223372036854775807"],
    "double precision": ["1.5", "1e300", "NaN", "0.1", "7"],
    "real": ["0.1", "3"],
    "numeric": ["1.5", "12.55", "1.50", "NaN", "1e40", "-99999.9"],
    "numeric(12,2)": ["1.50", "12.55", "99999.90"],
    "boolean": ["true", "false"],
    "timestamp": ["2024-02-29 00:00", "2024-02-29 01:02:03.5", "infinity", "0044-03-15 BC"],
    "timestamptz": ["2024-02-29 00:00+00", "infinity"],
    "date": ["2024-02-29", "infinity", "0044-03-15 BC"],
    "time": ["01:02:03.5", "24:00:00"],
    "uuid": ["ffffffff-1234-5678-9abc-def012345678"],
    "jsonb": ['{"a": 1}', "1", "true"],
    "bytea": [r"\x00ff", r"\x"],
    "interval": ["1 day"],
    "inet": ["10.0.0.1"],
    "integer[]": ["{1,2}"],
    "public.mood": ["happy"],
}  # fmt: skip


@pytest.fixture(scope="module")
def url(server: Server) -> Iterator[str]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE changed_values")
    with psycopg.connect(server.url("changed_values"), autocommit=True) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('happy', 'so-so')")
    yield server.url("changed_values")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE changed_values WITH (FORCE)")


@pytest.fixture(scope="module")
def origin(url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(build_settings_sql(CONTROL_SETTINGS, for_transaction=False).encode())
        yield connection


@pytest.fixture(scope="module")
def bulk(url: str) -> Iterator[BulkConnection]:
    connection = BulkConnection(url)
    connection.execute(build_settings_sql(CONTROL_SETTINGS, for_transaction=False))
    yield connection
    connection.close()


class Stored:
    """Values of one type in a table: both of their forms, and what the initial copy makes of them."""

    def __init__(self, origin: psycopg.Connection, bulk: BulkConnection, name: str, values: Sequence[Any]) -> None:
        type_ = sql.SQL(name)  # type: ignore[arg-type]
        self._bulk = bulk
        origin.execute("DROP TABLE IF EXISTS public.t")
        origin.execute(sql.SQL("CREATE TABLE public.t (i int, v {})").format(type_))
        with origin.cursor() as cur:
            statement = sql.SQL("INSERT INTO public.t VALUES (%s, %s::{})").format(type_)
            cur.executemany(statement, list(enumerate(values)))
        connections = Connections("pg", origin.info.dsn)
        self.type = catalog.describe_relation(connections, TableName("public", "t")).types["v"]
        connections.close()
        self.text, self.binary = (
            [result.get_value(i, 0) for i in range(result.ntuples)]
            for result in (
                origin.pgconn.exec_params(b"SELECT v FROM public.t ORDER BY i", [], result_format=format_)
                for format_ in (0, 1)
            )
        )

    def copied(self, wanted: pa.DataType, condition: str = "true") -> pa.Array:
        """Raises one of REFUSALS."""
        way = resolve_reading(self.type, wanted)
        query = f"SELECT {way.expression('v')} AS v FROM public.t WHERE {condition} ORDER BY i"  # noqa: S608
        arrays = [batch.column(0) for batch in self._bulk.stream(query)]
        array = way.decode(pa.concat_arrays(arrays))
        return pa.RecordBatch.from_arrays([array], schema=pa.schema([("v", wanted)])).column(0)


def laid(cells: Sequence[tuple[int, bytes]], gaps: random.Random | None = None) -> Cells:
    """Cells (tag, value) between other bytes of a buffer, which ends with the last value."""
    buffer, start = b"", []
    for tag, value in cells:
        buffer += (gaps or random.Random(7)).randbytes(gaps.randrange(9) if gaps else 5)
        start.append(len(buffer))
        buffer += value if tag in (TEXT, BINARY) else b""
    length = [len(value) if tag in (TEXT, BINARY) else 0 for tag, value in cells]
    return Cells(
        np.frombuffer(buffer, np.uint8),
        np.array([tag for tag, _ in cells], np.uint8),
        np.array(start, np.int64),
        np.array(length, np.int64),
    )


def same(found: pa.Array, expected: pa.Array) -> bool:
    """Equal, where every NaN is the same, and -0 is not 0."""
    if pa.types.is_list(expected.type):
        return found.offsets.equals(expected.offsets) and same(found.values, expected.values)
    if pa.types.is_floating(expected.type) and found.type == expected.type:
        nan = pa.scalar(float("nan"), expected.type)
        bits = pa.int32() if pa.types.is_float32(expected.type) else pa.int64()
        found, expected = (pc.if_else(pc.is_nan(array), nan, array).view(bits) for array in (found, expected))
    return found.type == expected.type and found.equals(expected)


@EXAMPLES
@given(data=st.data())
@pytest.mark.parametrize("name", VALUES)
def test_any_mixture_of_forms_is_what_the_initial_copy_lands(
    origin: psycopg.Connection, bulk: BulkConnection, name: str, data: st.DataObject
) -> None:
    values = data.draw(st.lists(VALUES[name], min_size=1, max_size=40))
    stored = Stored(origin, bulk, name, [str(v) if name == "real" else v for v in values])
    wanted = natural_type(stored.type)
    expected = stored.copied(wanted)
    forms = {TEXT: stored.text, BINARY: stored.binary}
    tags = [TEXT, NULL, UNCHANGED] + [BINARY] * is_binary_decodable(stored.type, wanted)
    chosen = data.draw(st.lists(st.sampled_from(tags), min_size=len(values), max_size=len(values)))
    for mixture in (*([tag] * len(values) for tag in tags if tag in forms), chosen):
        cells = [(tag, forms[tag][i] or b"") if tag in forms else (tag, b"") for i, tag in enumerate(mixture)]
        found = decode_column(laid(cells, random.Random(len(values))), stored.type, wanted)
        sent = pa.array([tag in forms for tag in mixture])
        assert found.is_valid().equals(sent)
        assert found.null_count == len(values) - sum(sent.to_pylist())
        assert same(found.filter(sent), expected.filter(sent)), (found, expected)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_override_gives_or_refuses_what_the_initial_copy_does(
    origin: psycopg.Connection, bulk: BulkConnection, name: str
) -> None:
    stored = Stored(origin, bulk, name, OVERRIDDEN[name])
    wrong = []
    for wanted in OVERRIDES:
        for i, value in enumerate(OVERRIDDEN[name]):
            try:
                expected = stored.copied(wanted, f"i = {i}")
            except REFUSALS:
                expected = None
            forms = [(TEXT, stored.text[i])] + [(BINARY, stored.binary[i])] * is_binary_decodable(stored.type, wanted)
            for form in forms:
                try:
                    found = decode_column(laid([form]), stored.type, wanted)
                except Unfit:
                    found = None
                if (found is None) != (expected is None) or (found is not None and not same(found, expected)):
                    wrong.append((value, str(wanted), form, found, expected))
    assert not wrong


def test_a_number_that_is_too_large_does_not_become_infinity(origin: psycopg.Connection, bulk: BulkConnection) -> None:
    stored = Stored(origin, bulk, "text", ["1e400"])
    with pytest.raises(ValueError, match="1e400"):
        stored.copied(pa.float64())
    with pytest.raises(Unfit, match="1e400"):
        decode_column(laid([(TEXT, b"1e400")]), stored.type, pa.float64())


def test_the_refusal_names_the_first_value_that_does_not_fit() -> None:
    cells = laid([(TEXT, b"1"), (NULL, b""), (TEXT, b"x" * 200), (TEXT, b"y")])
    with pytest.raises(Unfit) as refusal:
        decode_column(cells, OriginType("text"), pa.int64())
    assert "x" * 80 in str(refusal.value)
    assert "x" * 81 not in str(refusal.value)


def test_a_numeric_is_named_in_the_refusal_as_postgres_writes_it(
    origin: psycopg.Connection, bulk: BulkConnection
) -> None:
    for value in ("NaN", "-Infinity", "-120000.0450", "0.00012", "1e30"):
        stored = Stored(origin, bulk, "numeric", [value])
        with pytest.raises(Unfit) as refusal:
            decode_column(laid([(BINARY, stored.binary[0] or b"")]), stored.type, pa.decimal128(3, 1))
        assert f"'{(stored.text[0] or b'').decode()}'" in str(refusal.value)
