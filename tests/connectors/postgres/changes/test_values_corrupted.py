"""Corrupted values raise, or are what Postgres itself reads in the same bytes: never a wrong value, never a crash."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import psycopg
import pyarrow as pa
import pytest

from dbt_bridge.connectors.postgres.changes.messages import (
    BINARY,
    NULL,
    TEXT,
    Cells,
)
from dbt_bridge.connectors.postgres.changes.values.columns import Unfit, decode_column, is_binary_decodable
from dbt_bridge.connectors.postgres.origin.column_types import OriginType, natural_type
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import OriginError

SEED = 20_240_229
OF_TWO_DIGITS = ((7 << 16) | 2) + 4  # the modifier of numeric(7,2)

ORIGINS = {
    "smallint": OriginType("int2"),
    "integer": OriginType("int4"),
    "bigint": OriginType("int8"),
    "oid": OriginType("oid"),
    "real": OriginType("float4"),
    "float8": OriginType("float8"),
    "boolean": OriginType("bool"),
    "numeric(7,2)": OriginType("numeric", OF_TWO_DIGITS),
    "bytea": OriginType("bytea"),
    "uuid": OriginType("uuid"),
    "date": OriginType("date"),
    "time": OriginType("time"),
    "timestamp": OriginType("timestamp"),
    "timestamptz": OriginType("timestamptz"),
    "interval": OriginType("interval"),
    "text": OriginType("text"),
    "integer[]": OriginType("", -1, OriginType("int4")),
    "text[]": OriginType("", -1, OriginType("text")),
    "timestamp[]": OriginType("", -1, OriginType("timestamp")),
}
SAMPLES = {
    "smallint": ["-32768", "7"],
    "integer": ["-2147483648", "70"],
    "bigint": ["9223372036854775807", "-1"],
    "oid": ["4294967295"],
    "real": ["1.5e-07", "NaN", "-Infinity"],
    "float8": ["0.1", "-1.7976931348623157e+308", "Infinity"],
    "boolean": ["t", "f"],
    "numeric(7,2)": ["-99999.99", "0.05", "1200.00"],
    "bytea": [r"\x00ff10de", r"\x"],
    "uuid": ["ffffffff-1234-5678-9abc-def012345678"],
    "date": ["2024-02-29", "0044-03-15 BC", "infinity", "12024-12-31"],
    "time": ["23:59:59.9", "24:00:00"],
    "timestamp": ["2024-02-29 23:59:59.999999", "0044-03-15 00:00:00 BC", "-infinity", "12024-12-31 01:02:03.5"],
    "timestamptz": ["2024-02-29 23:59:59.999999+00", "0044-03-15 00:00:00+00 BC", "infinity"],
    "interval": ["1 year 2 mons -3 days +04:05:06.789", "-00:00:01", "5 days"],
    "text": ["naïve 東京"],
    "integer[]": ["{1,NULL,-3}", "{}"],
    "text[]": [r'{a,"b \"c\" \\",NULL,"NULL",""}', r'{"{x}",y}'],
    "timestamp[]": ['{"2024-02-29 01:02:03",NULL,infinity}'],
}


@pytest.fixture(scope="module")
def origin(server: Server) -> Iterator[psycopg.Connection]:
    options = "-c TimeZone=UTC -c bytea_output=hex -c IntervalStyle=postgres -c extra_float_digits=1"
    with psycopg.connect(server.url(), autocommit=True, options=options) as connection:
        yield connection


def corrupted(value: bytes, chance: random.Random, letters: bytes) -> bytes:
    """One to three bytes changed, added or lost; sometimes cut short, or all of it other bytes."""
    kind = chance.randrange(12)
    if kind == 0:
        return value[: chance.randrange(len(value) + 1)]
    if kind == 1:
        return chance.randbytes(chance.randrange(24))
    found = bytearray(value)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(found) + 1)
        letter = chance.choice(letters) if chance.random() < 0.8 else chance.randrange(256)
        if kind < 4:
            found.insert(at, letter)
        elif kind < 6 and at < len(found):
            del found[at]
        elif at < len(found):
            found[at] = letter
    return bytes(found)


def one(value: bytes, tag: int, between: bytes = b"99") -> Cells:
    """A value in the middle of other bytes that could be read as a part of it."""
    buffer = np.frombuffer(between + value + between, np.uint8)
    return Cells(buffer, np.array([tag], np.uint8), np.array([len(between)]), np.array([len(value)]))


def read(value: bytes, tag: int, name: str) -> pa.Array | None:
    try:
        return decode_column(one(value, tag), ORIGINS[name], natural_type(ORIGINS[name]))
    except (Unfit, OriginError):
        return None


def postgres_reads(origin: psycopg.Connection, name: str, value: bytes, format_: int) -> bytes | None:
    """The value's canonical text; None where Postgres refuses it. Postgres cuts nothing off: numeric(7,2) rounds."""
    oid = origin.execute("SELECT to_regtype(%s)::oid::int4", [name]).fetchone()
    assert oid
    result = origin.pgconn.exec_params(f"SELECT $1::{name}::text".encode(), [value], [oid[0]], [format_])
    return result.get_value(0, 0) if result.ntuples else None


@pytest.mark.parametrize(("tag", "format_"), [(TEXT, 0), (BINARY, 1)], ids=["text", "binary"])
@pytest.mark.parametrize("name", ORIGINS)
def test_corrupted_bytes_are_refused_or_are_another_value(
    origin: psycopg.Connection, name: str, tag: int, format_: int
) -> None:
    if tag == BINARY and not is_binary_decodable(ORIGINS[name], natural_type(ORIGINS[name])):
        pytest.skip("the binary form of this type is not read")
    chance = random.Random(f"{SEED}{name}")
    wrong, kept = [], 0
    for _ in range(250):
        original = chance.choice(SAMPLES[name]).encode()
        if tag == BINARY:
            result = origin.pgconn.exec_params(f"SELECT $1::text::{name}".encode(), [original], result_format=1)
            original = result.get_value(0, 0) or b""
        value = corrupted(original, chance, original + b'0123456789-+:. ,"{}\\NULLinfBC')
        found = read(value, tag, name)
        if found is None:
            continue
        kept += 1
        canonical = None if b"\0" in value and tag == TEXT else postgres_reads(origin, name, value, format_)
        expected = None if canonical is None else read(_output(canonical, name), TEXT, name)
        if canonical is None or expected is None or not _same(found, expected):
            wrong.append((value, found, canonical))
    assert kept, "some changed bytes are another value of the type"
    assert not [w for w in wrong if not (b"\0" in w[0] and "text" in name)]


def _output(text: bytes, name: str) -> bytes:
    return text[:1] if name == "boolean" else text


def _same(found: pa.Array, expected: pa.Array) -> bool:
    return found.equals(expected) or repr(found.to_pylist()) == repr(expected.to_pylist())  # NaN


@pytest.mark.parametrize("value", [b"", b"x", b"4294967296 years", b"9223372036854775807 years", b"99999999999:00:00"])
@pytest.mark.parametrize("name", [name for name in ORIGINS if name not in ("text", "bytea")])
def test_no_value_and_numbers_beyond_64_bits_are_refused(name: str, value: bytes) -> None:
    for values in ([value], [value, value]):
        cells = Cells(
            np.frombuffer(b"".join(values), np.uint8),
            np.full(len(values), TEXT, np.uint8),
            np.arange(len(values)) * len(value),
            np.full(len(values), len(value)),
        )
        with pytest.raises(Unfit):
            decode_column(cells, ORIGINS[name], natural_type(ORIGINS[name]))


def test_a_value_that_is_not_utf8_is_refused_and_shown() -> None:
    cells = one(b"caf\xe9", TEXT)
    with pytest.raises(Unfit, match="caf"):
        decode_column(cells, OriginType("text"), pa.string())


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, 5), (4, 1), (2**40, 1), (1, -1), (2**63 - 2, 5)])
def test_cells_outside_of_the_buffer_are_an_error_and_not_a_crash(start: int, length: int) -> None:
    cells = Cells(np.frombuffer(b"1234", np.uint8), np.array([TEXT], np.uint8), np.array([start]), np.array([length]))
    for origin in ("text", "int4", "bool", "uuid", "date", "timestamptz", "time"):
        with pytest.raises(OriginError):
            decode_column(cells, OriginType(origin), natural_type(OriginType(origin)))


@pytest.mark.parametrize("of", [b"7", b"t", b"12:00:00", b"ffffffff-1234-5678-9abc-def012345678", b"2024-02-29"])
def test_a_value_at_the_very_end_of_the_buffer_is_read(of: bytes) -> None:
    cells = Cells(
        np.frombuffer(of, np.uint8), np.array([TEXT, NULL], np.uint8), np.array([0, len(of)]), np.array([len(of), 0])
    )
    names: dict[bytes, str] = {b"7": "int4", b"t": "bool", b"12:00:00": "time", b"2024-02-29": "date"}
    origin = OriginType(names.get(of, "uuid"))
    found = decode_column(cells, origin, natural_type(origin))
    assert str(found[0].as_py()) == {b"t": "True"}.get(of, of.decode())
    assert found[1].as_py() is None


@pytest.mark.parametrize("make", [lambda n: [], lambda n: [NULL] * n], ids=["no cells", "only NULL"])
@pytest.mark.parametrize("name", ORIGINS)
def test_without_values_there_is_an_array_of_the_type(name: str, make: Callable[[int], list[int]]) -> None:
    tags = np.array(make(3), np.uint8)
    zeros = np.zeros(len(tags), np.int64)
    found = decode_column(Cells(np.empty(0, np.uint8), tags, zeros, zeros), ORIGINS[name], natural_type(ORIGINS[name]))
    assert found.type == natural_type(ORIGINS[name])
    assert found.null_count == len(found) == len(tags)


def test_values_beyond_2_gib_of_a_buffer_are_read_where_they_are() -> None:
    far = 2**31 + 10
    buffer = np.zeros(far + 100, np.uint8)  # the system gives memory only to the pages that are written
    buffer[5:8] = list(b"abc")
    buffer[far : far + 5] = list(b"12345")
    cells = Cells(buffer, np.array([TEXT, TEXT, TEXT], np.uint8), np.array([5, far, far + 2]), np.array([3, 2, 3]))
    assert decode_column(cells, OriginType("text"), pa.string()).to_pylist() == ["abc", "12", "345"]
    numbers = Cells(buffer, cells.tag[1:], cells.start[1:], cells.length[1:])
    assert decode_column(numbers, OriginType("int4"), pa.int32()).to_pylist() == [12, 345]


def test_more_text_than_one_array_can_hold_is_an_error() -> None:
    count = 2**11 + 1
    zeros = np.zeros(count, np.int64)
    cells = Cells(np.zeros(2**20, np.uint8), np.full(count, TEXT, np.uint8), zeros, zeros + 2**20)
    with pytest.raises(OriginError, match="2 GiB"):
        decode_column(cells, OriginType("text"), pa.string())


def test_values_need_not_lie_in_the_order_of_their_rows() -> None:
    buffer = np.frombuffer(b"aabbbcccc", np.uint8)
    tags = np.array([TEXT, NULL, TEXT, TEXT], np.uint8)
    cells = Cells(buffer, tags, np.array([5, 0, 0, 2]), np.array([4, 0, 2, 3]))
    assert decode_column(cells, OriginType("text"), pa.string()).to_pylist() == ["cccc", None, "aa", "bbb"]


def test_decoding_imports_no_pandas() -> None:
    """It takes a second and 70 MB, and pyarrow imports it, where it is installed, for every Python value in a call."""
    code = """
import sys, numpy, pyarrow
from dbt_bridge.connectors.postgres.changes import messages
from dbt_bridge.connectors.postgres.changes.values import columns
from dbt_bridge.connectors.postgres.origin import column_types
for name, value in {"interval": b"1 mon", "bool": b"t", "text": b"x", "uuid": b"0" * 32, "date": b"infinity"}.items():
    cells = messages.Cells(
        numpy.frombuffer(value, "u1"), numpy.array([messages.TEXT], "u1"), numpy.array([0]), numpy.array([len(value)])
    )
    origin = column_types.OriginType(name)
    columns.decode_column(cells, origin, column_types.natural_type(origin))
    columns.decode_column(cells, origin, pyarrow.string())
sys.exit("pandas" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
