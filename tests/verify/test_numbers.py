"""Numbers of two types are equal where exact arithmetic says so: by each method, whatever side has which type."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.verify.arrow_sides import ArrowSide, HashingSide

from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.nouns.parity import Method, Parity
from dbt_bridge.nouns.table import TableName
from dbt_bridge.prove.sides import make_origin_side
from dbt_bridge.verify.compare import compare
from dbt_bridge.verify.request import VerifyRequest

BEGAN = datetime(2026, 11, 21, tzinfo=UTC)
OPENED = Parity("load", "model.a.b", "o", "d", "rows", "failed", "now", BEGAN, BEGAN, 0.0, error="not yet")
METHODS: tuple[Method, ...] = ("digests", "buckets", "values")
NUMERIC = "numeric"  # without digits: it travels as text
TYPES: dict[str, pa.DataType] = {
    "bigint": pa.int64(), "integer": pa.int32(), "numeric(38,0)": pa.decimal128(38, 0), "boolean": pa.bool_(),
    "numeric(20,2)": pa.decimal128(20, 2), "numeric(30,10)": pa.decimal128(30, 10), NUMERIC: pa.string(),
    "double precision": pa.float64(), "real": pa.float32(),
}  # fmt: skip
FLOATS = ("double precision", "real")

FRACTIONS = [*map(Fraction, ("0.1", "0.15", "0.30000000000000004", "12345678901.0123456789", "90071992547409.93"))]

near_ends = st.builds(
    lambda end, beside, sign: Fraction(sign * (end + beside)),
    st.sampled_from([0, 2**24, 2**31, 2**53, 2**54, 2**62, 2**63, 10**15, 10**16, 10**22, 10**23, 10**29]),
    st.integers(-3, 3),
    st.sampled_from([1, -1]),
)
numbers = st.one_of(
    near_ends,
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**16), max_value=10**16).map(Fraction),
    st.floats(allow_nan=False, allow_infinity=False, width=32).map(Fraction),
    st.floats(-1e20, 1e20).map(Fraction),
    st.sampled_from(["0.1", "0.15", "0.30000000000000004", "12345678901.0123456789", "7.0000000000000009"]).map(
        Fraction
    ),
)


def hold(number: Fraction, type_: str) -> Any:
    """The nearest value of a type; None where there is none."""
    arrow = TYPES[type_]
    if type_ in FLOATS:
        with np.errstate(over="ignore"):
            held = float(np.float32(float(number))) if type_ == "real" else float(number)
        return held if np.isfinite(held) else None
    if type_ == "boolean":
        return bool(number)
    if pa.types.is_integer(arrow):
        whole = round(number)
        return whole if -(2 ** (arrow.bit_width - 1)) <= whole < 2 ** (arrow.bit_width - 1) else None
    scale = 30 if type_ == NUMERIC else arrow.scale
    unscaled = round(number * 10**scale)
    if abs(unscaled) >= 10 ** (38 if type_ == NUMERIC else arrow.precision):
        return None
    decimal = Decimal(unscaled).scaleb(-scale)
    return f"{decimal:f}" if type_ == NUMERIC else decimal


def means(value: Any, type_: str) -> Fraction:
    """What a value is beside a number of another kind; docs/reconcile.md says it in words."""
    if type_ not in FLOATS:
        return Fraction(value)
    return (
        Fraction(value) if abs(value) >= 2**53 else Fraction(np.format_float_positional(np.float64(value), unique=True))
    )


def are_equal(one: Any, of: str, other: Any, other_of: str) -> bool:
    if one is None or other is None:
        return one is None and other is None
    if of in FLOATS and other_of in FLOATS:
        return bool(one == other)
    return means(one, of) == means(other, other_of)


def side(name: str, values: list[Any], type_: str, *, hashing: bool = False) -> ArrowSide:
    rows = pa.table({"id": list(range(len(values))), "v": pa.array(values, TYPES[type_])})
    made = (HashingSide if hashing else ArrowSide)(name, rows)
    known, column = made.table.columns
    made.table = replace(made.table, columns=(known, replace(column, origin_type=type_ if type_ == NUMERIC else "")))
    return made


def differing(sides: tuple[Any, Any], method: Method) -> int:
    parity = compare(OPENED, *sides, VerifyRequest(key=("id",), method=method))
    assert parity.error is None, parity.error
    assert (parity.only_in_origin, parity.only_in_destination, parity.duplicates) == (0, 0, 0)
    assert parity.different is not None
    return parity.different


pairs = st.tuples(numbers, st.one_of(st.none(), numbers))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(TYPES)), st.sampled_from(sorted(TYPES)), st.lists(pairs, min_size=1, max_size=30))
def test_two_types_by_each_method(one: str, other: str, rows: list[tuple[Fraction, Fraction | None]]) -> None:
    ours = [hold(number, one) for number, _ in rows]
    theirs = [hold(number if changed is None else changed, other) for number, changed in rows]
    expected = sum(not are_equal(a, one, b, other) for a, b in zip(ours, theirs, strict=True))
    for method in METHODS:
        hashing = method != "values"
        assert differing((side("ours", ours, one, hashing=hashing), side("theirs", theirs, other)), method) == expected
        assert differing((side("ours", theirs, other), side("theirs", ours, one, hashing=hashing)), method) == expected


@pytest.mark.parametrize("method", METHODS)
def test_postgres_beside_every_type(database: str, origin: psycopg.Connection, method: Method) -> None:
    ends = [e + d for e in (0, 2**24, 2**53, 2**63, 10**22, 10**29) for d in (-1, 0, 1)]
    given_ = [*(Fraction(sign * end) for end in ends for sign in (1, -1)), *FRACTIONS]
    for one in TYPES:
        ours = [hold(number, one) for number in given_]
        origin.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t (id bigint PRIMARY KEY, v {one})".encode())
        with origin.cursor() as cur:
            cur.executemany("INSERT INTO t VALUES (%s, %s)", list(enumerate(ours)))
        with PostgresOrigin("pg", database) as opened:
            described = opened.describe(TableName("public", "t")).table
            legacy = make_origin_side(opened, described, described.columns, {}, 1, "pg: t")
            for other in TYPES:
                theirs = [hold(number, other) for number in given_]
                expected = sum(not are_equal(a, one, b, other) for a, b in zip(ours, theirs, strict=True))
                assert differing((legacy, side("model", theirs, other)), method) == expected, (one, other)
