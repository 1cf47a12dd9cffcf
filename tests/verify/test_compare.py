"""What differs between two sides is found exactly, by every method: SQL over both tables says the same."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.verify.arrow_sides import ArrowSide, HashingOtherwise, HashingSide

from dbt_bridge.errors import OriginError, UsageError
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.verify.compare import compare
from dbt_bridge.verify.request import Bound, Tolerance, VerifyRequest
from dbt_bridge.verify.rows import match, partitions

BEGAN = datetime(2026, 11, 21, tzinfo=UTC)
OPENED = Parity("load", "source.a.b.c", "o", "d", "rows", "failed", "now", BEGAN, BEGAN, 0.0, error="not yet")
NAN = float("nan")

DOMAINS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "k1": (pa.int32(), [*range(-6, 6), None]),
    "k2": (pa.string(), ["", "a", "A", "ä", None]),
    "whole": (pa.int64(), [0, 2**63 - 1, -(2**63), None]),
    "money": (pa.decimal128(12, 2), [Decimal("0.00"), Decimal("1.10"), Decimal("-1.10"), None]),
    "share": (pa.float64(), [0.0, -0.0, NAN, 0.1, float("inf"), None]),
    "words": (pa.string(), ["", "NULL", "e\u0301", "\u00e9", "a\x1fb", None]),
    "bytes": (pa.binary(), [b"", b"\x00", b"NULL", None]),
    "flag": (pa.bool_(), [True, False, None]),
    "day": (pa.date32(), [date(1970, 1, 1), date(1, 1, 1), None]),
    "clock": (pa.time64("us"), [time(0, 0), time(23, 59, 59, 999999), None]),
    "moment": (pa.timestamp("us", "UTC"), [datetime(2026, 1, 1, tzinfo=UTC), datetime(1900, 1, 1, tzinfo=UTC), None]),
    "list": (pa.list_(pa.string()), [[], [None], ["NULL"], ["a", "b"], ["a,b"], None]),
}
SCHEMA = pa.schema([(name, type_) for name, (type_, _) in DOMAINS.items()])
ROW = st.tuples(*(st.sampled_from(values) for _, values in DOMAINS.values()))

Found = dict[str, tuple[str, int, int]]


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(DOMAINS)
    arrays = [pa.array(column, type_) for column, (type_, _) in zip(columns, DOMAINS.values(), strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


@st.composite
def two_tables(draw: st.DrawFn) -> tuple[pa.Table, pa.Table]:
    """The second is the first, in which rows went missing, came twice, came new, or have another value."""
    rows = draw(st.lists(ROW, max_size=12))
    other = list(rows)
    for at in draw(st.lists(st.integers(0, 11), max_size=4)):
        if at >= len(other):
            other.append(draw(ROW))
            continue
        column = draw(st.integers(-2, len(DOMAINS) - 1))
        if column == -2:
            del other[at]
        elif column == -1:
            other.append(other[at])
        else:
            value = draw(st.sampled_from(list(DOMAINS.values())[column][1]))
            other[at] = (*other[at][:column], value, *other[at][column + 1 :])
    return table(rows), table(other)


def told_by_sql(origin: pa.Table, destination: pa.Table, key: tuple[str, ...]) -> tuple[Found, dict[str, int]]:
    """(key -> kind and how many rows each side has, column -> in how many rows it differs)."""
    identity = key or tuple(DOMAINS)
    beside = [name for name in DOMAINS if name not in identity]
    con = duckdb.connect()
    for side, rows in (("o", origin), ("d", destination)):
        con.register(side, rows.set_column(len(DOMAINS) - 2, "moment", rows.column("moment").cast(pa.timestamp("us"))))

    def grouped(side: str) -> str:
        values = "".join(f", list({name}) AS {name}" for name in beside)
        return f"(SELECT {', '.join(identity)}, count(*) AS n{values} FROM {side} GROUP BY {', '.join(identity)})"  # noqa: S608

    on = " AND ".join(f"o.{name} IS NOT DISTINCT FROM d.{name}" for name in identity)
    either = ", ".join(f"CASE WHEN o.n IS NULL THEN d.{name} ELSE o.{name} END AS {name}" for name in identity)
    apart = "".join(f", o.n = 1 AND d.n = 1 AND o.{name} IS DISTINCT FROM d.{name} AS x_{name}" for name in beside)
    query = f"""
        SELECT {either}, coalesce(o.n, 0) AS n0, coalesce(d.n, 0) AS n1{apart}
        FROM {grouped("o")} AS o
        FULL JOIN {grouped("d")} AS d ON {on}"""  # noqa: S608
    found: Found = {}
    columns: dict[str, int] = {}
    for row in con.execute(query).to_arrow_table().to_pylist():
        differing = [name for name in beside if row[f"x_{name}"]]
        if (kind := kind_of(row["n0"], row["n1"], bool(differing), bool(key))) is not None:
            found[spelled(row, identity)] = (kind, row["n0"], row["n1"])
            columns.update({name: columns.get(name, 0) + 1 for name in differing})
    return found, columns


def kind_of(n0: int, n1: int, differs: bool, has_key: bool) -> str | None:
    if has_key and max(n0, n1) > 1:
        return "duplicate"
    if n0 != n1:
        return "only_in_origin" if n0 > n1 else "only_in_destination"
    return "different" if differs else None


def spelled(row: dict[str, Any], identity: tuple[str, ...]) -> str:
    told = {name: row[name] for name in identity}
    told |= {"share": 0.0} if told.get("share") == 0 else {}
    told |= {"moment": told["moment"].replace(tzinfo=None)} if told.get("moment") else {}
    return repr(told)


def told_by(parity: Parity, identity: tuple[str, ...]) -> tuple[Found, dict[str, int]]:
    rows = parity.keys.to_pylist() if parity.keys is not None else []
    found = {spelled(row, identity): (row["_kind"], row["_origin_rows"], row["_destination_rows"]) for row in rows}
    assert len(found) == len(rows)
    return found, dict(parity.columns)


SIDES = {
    "values": (ArrowSide, ArrowSide),
    "digests": (HashingSide, ArrowSide),
    "digests of both": (HashingSide, HashingSide),
    "digests of the destination": (ArrowSide, HashingSide),
    "buckets": (HashingSide, ArrowSide),
}


@pytest.mark.parametrize("key", [("k1",), ("k1", "k2"), ()], ids=["key", "composite key", "no key"])
@settings(max_examples=6, deadline=None, print_blob=True)
@given(tables=two_tables())
def test_every_method_finds_what_sql_finds(key: tuple[str, ...], tables: tuple[pa.Table, pa.Table]) -> None:
    expected = told_by_sql(*tables, key)
    unique = tables[0].group_by(key).aggregate([]).num_rows == tables[0].num_rows if key else False
    for name, (one, other) in SIDES.items():
        asked = VerifyRequest(method=name.split(maxsplit=1)[0], key=key)  # type: ignore[arg-type]
        origin = one("orders", tables[0], 3, key=key if unique else ())
        parity = compare(OPENED, origin, other("landed", tables[1], 3), asked)

        assert told_by(parity, key or tuple(DOMAINS)) == expected, name
        assert parity.status == ("different" if expected[0] else "equal")
        assert (parity.rows_origin, parity.rows_destination) == (tables[0].num_rows, tables[1].num_rows)


def shop(rows: int, first: int = 0) -> pa.Table:
    ids = np.arange(first, first + rows)
    return pa.table(
        {
            "id": ids,
            "amount": pa.array(ids * 7 % 1000, pa.int32()),
            "name": pa.array([f"customer {i % 1000}" for i in ids]),
            "at": pa.array(ids * 1_000_000, pa.timestamp("us", "UTC")),
        }
    )


def replaced(rows: pa.Table, column: str, at: list[int], values: list[Any]) -> pa.Table:
    mask = np.zeros(rows.num_rows, bool)
    mask[at] = True
    array = rows.column(column).combine_chunks()
    given = pa.array(values, array.type)
    changed = pc.replace_with_mask(array, pa.array(mask), given)
    return rows.set_column(rows.schema.get_field_index(column), rows.schema.field(column), changed)


@pytest.mark.parametrize("name", SIDES)
def test_twenty_differences_in_200_000_rows_are_found_exactly(name: str) -> None:
    origin = shop(200_000)
    changed = list(range(5_000, 200_000, 20_000))
    destination = replaced(origin, "amount", changed, [-1] * len(changed))
    gone = [77_777, 77_778, 100_001, 150_000, 199_999]
    keep = np.ones(200_000, bool)
    keep[gone] = False
    destination = pa.concat_tables([destination.filter(pa.array(keep)), shop(5, first=300_000)])
    sides = SIDES[name]

    parity = compare(
        OPENED,
        sides[0]("orders", origin, 50_000, key=("id",)),
        sides[1]("landed", destination, 50_000),
        VerifyRequest(key=("id",), method=name.split(maxsplit=1)[0]),  # type: ignore[arg-type]
    )

    assert parity.keys is not None
    found = {(row["id"], row["_kind"]) for row in parity.keys.to_pylist()}
    assert found == (
        {(key, "different") for key in changed}
        | {(key, "only_in_origin") for key in gone}
        | {(key, "only_in_destination") for key in range(300_000, 300_005)}
    )
    assert (parity.different, parity.only_in_origin, parity.only_in_destination) == (10, 5, 5)
    assert parity.columns == {"amount": 10}
    assert parity.method == name.split(maxsplit=1)[0]


@pytest.mark.parametrize(
    ("key", "at_once"), [(("id",), 20_000), ((), 1 << 20)], ids=["pieces of parts", "several parts"]
)
def test_many_rows_meet_in_files(key: tuple[str, ...], at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitions, "_ROWS_PER_WRITE", 1000)
    monkeypatch.setattr(match, "_BYTES_AT_ONCE", at_once)
    origin = shop(60_000)
    destination = replaced(origin, "name", [5, 59_999], [None, "other"]).slice(1)
    parity = compare(
        OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), VerifyRequest(key=key, memory_mb=1)
    )
    counts = (parity.different, parity.only_in_origin, parity.only_in_destination)
    assert counts == ((2, 1, 0) if key else (0, 3, 2))


def test_few_suspicious_rows_are_asked_for_by_key_and_many_in_one_reading() -> None:
    origin = shop(2_000)
    few, many = ([3], [0]), (list(range(1000)), [0] * 1000)
    for (at, values), by_key in ((few, 1), (many, 0)):
        sides = HashingSide("orders", origin), ArrowSide("landed", replaced(origin, "at", at, values))
        parity = compare(OPENED, *sides, VerifyRequest(key=("id",), method="digests"))
        assert parity.different == len([1 for row in at if row != 0])
        assert [side.asked_by_key for side in sides] == [by_key, by_key]


def test_equal_tables_cost_less_than_a_hundredth_of_their_bytes_with_buckets() -> None:
    rows = shop(100_000)
    side = HashingSide("orders", rows, key=("id",))
    parity = compare(OPENED, side, ArrowSide("landed", rows), VerifyRequest(key=("id",), method="buckets"))
    assert parity.is_equal
    assert parity.rows_origin == parity.rows_destination == 100_000
    assert side.wire_bytes < rows.nbytes / 100


def test_the_wire_decides_between_digests_and_buckets() -> None:
    rows = shop(100_000)
    landed = ArrowSide("landed", rows)
    fast, slow = (HashingSide("orders", rows, rate=rate, key=("id",)) for rate in (800e6, 100e3))
    assert [compare(OPENED, side, landed, VerifyRequest(key=("id",))).method for side in (fast, slow)] == [
        "digests",
        "buckets",
    ]
    assert "the wire to orders carries 800 MB/s" in compare(OPENED, fast, landed, VerifyRequest(key=("id",))).why


def test_where_most_buckets_differ_the_digests_of_all_rows_are_sent() -> None:
    rows = shop(10_000)
    other = replaced(rows, "amount", list(range(0, 10_000, 50)), [-1] * 200)
    asked = VerifyRequest(key=("id",), method="buckets")
    parity = compare(OPENED, HashingSide("orders", rows, key=("id",)), ArrowSide("landed", other), asked)
    assert (parity.method, parity.different) == ("digests", 200)
    assert "buckets differed" in parity.why


def test_a_key_that_comes_twice_on_both_sides_is_found_though_sums_are_alike() -> None:
    rows = pa.concat_tables([shop(10), shop(1)])
    asked = VerifyRequest(key=("id",), method="buckets")
    parity = compare(OPENED, HashingSide("orders", rows), ArrowSide("landed", rows), asked)
    assert (parity.method, parity.duplicates) == ("digests", 1)
    assert "no primary key forbids it" in parity.why


@pytest.mark.parametrize("method", ["auto", "digests", "buckets"])
def test_a_server_that_hashes_otherwise_sends_values(method: Any) -> None:
    rows = shop(100)
    asked = VerifyRequest(key=("id",), method=method)
    parity = compare(OPENED, HashingOtherwise("orders", rows, key=("id",)), ArrowSide("landed", rows), asked)
    assert (parity.method, parity.status) == ("values", "equal")
    assert "hashes otherwise" in parity.why


def test_what_is_only_spelled_differently_is_equal() -> None:
    origin = pa.table(
        {
            "id": pa.array([Decimal(1), Decimal(2)], pa.decimal128(20, 0)),
            "money": pa.array(["1.5", "2.00"], pa.string()),
            "doc": pa.array(['{"b": 1, "a": [1.0]}', "{}"], pa.json_()),
            "flag": pa.array([True, False]),
        }
    )
    destination = pa.table(
        {
            "ID": pa.array([2, 1], pa.int64()),
            "money": pa.array([Decimal("2.0"), Decimal("1.5")], pa.decimal128(10, 1)),
            "doc": pa.array(["{}", '{"a":[1],"b":1}'], pa.json_()),
            "flag": pa.array([0, 1], pa.int8()),
        }
    )
    columns = {"id": "ID", "money": "money", "doc": "doc", "flag": "flag"}
    for key in (("id",), ("doc",), ()):
        asked = VerifyRequest(key=key, columns=columns)
        parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), asked)
        assert (parity.status, parity.keys) == ("equal", None), key


def test_the_keys_that_differ_have_the_types_of_the_origin() -> None:
    origin = pa.table({"id": pa.array([1, 2], pa.int32()), "v": [1, 2]})
    destination = pa.table({"id": pa.array([Decimal(2), Decimal(3)], pa.decimal128(10, 0)), "v": [3, 3]})
    parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), VerifyRequest(key=("id",)))
    assert parity.keys is not None
    assert parity.keys.schema.field("id").type == pa.int32()
    assert sorted(row["id"] for row in parity.keys.to_pylist()) == [1, 2, 3]


def test_masked_values_are_told_nowhere() -> None:
    origin, destination = (pa.table({"id": ["k" * 64], "email": [c * 64], "v": [c]}) for c in "ab")
    asked = VerifyRequest(key=("id",), masked=frozenset({"id", "email"}))
    parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), asked)
    (example,) = parity.examples
    assert example.columns == ("email", "v")
    assert (example.key, dict(example.origin), dict(example.destination)) == ({}, {"v": "a"}, {"v": "b"})
    asked = VerifyRequest(level="aggregates", key=("id",), masked=frozenset({"id", "email"}))
    parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), asked)
    assert {a.what for a in parity.aggregates if a.column == "email"} == {"nulls", "distinct"}


def test_examples_are_of_every_kind_and_tell_both_values() -> None:
    origin = shop(1_000)
    destination = replaced(origin, "amount", list(range(500, 700)), [-1] * 200).slice(1)
    destination = pa.concat_tables([destination, shop(1, first=5_000), destination.slice(10, 1)])
    parity = compare(
        OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), VerifyRequest(key=("id",), shown=10)
    )
    kinds = [example.kind for example in parity.examples]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "different": 7, "only_in_origin": 1, "only_in_destination": 1, "duplicate": 1,
    }  # fmt: skip
    first = parity.examples[0]
    at = int(first.key["id"] or 0)
    assert (first.columns, first.origin, first.destination) == (
        ("amount",), {"amount": str(at * 7 % 1000)}, {"amount": "-1"},
    )  # fmt: skip
    missing = next(example for example in parity.examples if example.kind == "only_in_origin")
    assert dict(missing.origin) == {"amount": "0", "name": "customer 0", "at": "1970-01-01 00:00:00"}
    assert next(example.rows for example in parity.examples if example.kind == "duplicate") == (1, 2)


def test_rows_that_a_destination_never_deletes_may_stay() -> None:
    origin, destination = shop(10).slice(3), shop(10)
    asked = VerifyRequest(key=("id",), extra="allowed")
    parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), asked)
    assert (parity.status, parity.allowed, parity.only_in_destination, parity.examples) == ("equal", 3, 0, ())


@pytest.mark.parametrize(
    ("tolerance", "different"),
    [
        (Tolerance(Decimal("0.5")), {2, 5}),
        (Tolerance(Decimal("0.02"), relative=True), set()),
        (Tolerance(Decimal("0.001"), relative=True), {1, 2, 5}),
    ],
)
@pytest.mark.parametrize("type_", [pa.float64(), pa.decimal128(38, 2)])
def test_values_within_their_tolerance_are_the_same(tolerance: Tolerance, different: set[int], type_: Any) -> None:
    def side(*values: float | None) -> pa.Table:
        if type_ == pa.float64():
            return pa.table({"id": [1, 2, 3, 4, 5], "v": pa.array(values, type_)})
        numbers = [None if value is None or value is NAN else Decimal(str(value)) for value in values]
        return pa.table({"id": [1, 2, 3, 4, 5], "v": pa.array(numbers, type_)})

    origin, destination = side(100.0, 100.0, NAN, None, 1e12), side(100.5, 101.0, NAN, None, 1.01e12)
    asked = VerifyRequest(key=("id",), tolerances={"v": tolerance})
    parity = compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), asked)
    assert {row["id"] for row in (parity.keys.to_pylist() if parity.keys else [])} == different
    assert parity.different == len(different)


@pytest.mark.parametrize(
    ("origin", "destination", "tolerance", "is_near"),
    [
        (float("inf"), 5.0, Tolerance(Decimal("0.01"), relative=True), False),  # a hundredth of infinity is infinity
        (float("-inf"), float("inf"), Tolerance(Decimal("0.01"), relative=True), False),
        (NAN, 5.0, Tolerance(Decimal("0.01"), relative=True), False),
        (1e308, -1e308, Tolerance(Decimal("1.5"), relative=True), False),
        (float("inf"), float("inf"), Tolerance(Decimal("0.01"), relative=True), True),
        (100.0, 129.0, Tolerance(Decimal("0.29"), relative=True), True),  # 0.29 * 100 is 28.999999999999996
        (100, 129, Tolerance(Decimal("0.29"), relative=True), True),
        (100, 130, Tolerance(Decimal("0.29"), relative=True), False),
        ("1.0000000000001", "1.0000000000002", Tolerance(Decimal(0)), False),  # numerics without digits
        ("1.0000000000001", "1.0000000000002", Tolerance(Decimal("1e-14")), False),
        ("1.0000000000004", "1.0000000000016", Tolerance(Decimal("0.000000000001")), False),
        ("1.0000000000001", "1.009", Tolerance(Decimal("0.01")), True),
        ("1.00", "1.01", Tolerance(Decimal("0.01")), True),
        ("NaN", "5", Tolerance(Decimal("0.01"), relative=True), False),
        ("Infinity", "5", Tolerance(Decimal("0.01"), relative=True), False),
        ("Infinity", "-Infinity", Tolerance(Decimal(5)), False),
        # More digits than an engine's decimal has, on the way or in the tolerance.
        (f"1{'0' * 30}.5", f"1{'0' * 29}1.5", Tolerance(Decimal("0.01"), relative=True), True),
        (f"1{'0' * 30}.5", f"102{'0' * 28}.5", Tolerance(Decimal("0.01"), relative=True), False),
        (f"1{'0' * 30}.5", f"1{'0' * 29}1.5", Tolerance(Decimal("0.5")), False),
        (f"1{'0' * 9}.{'0' * 29}1", f"1{'0' * 9}.{'0' * 29}9", Tolerance(Decimal("0.5")), True),
        (f"{'9' * 26}.5", "0.5", Tolerance(Decimal("1e-13")), False),
        (2**63 - 1, 1, Tolerance(Decimal("1e-23")), False),
        (2**63 - 1, 1 - 2**63, Tolerance(Decimal(5)), False),
    ],
)
def test_no_tolerance_reaches_to_infinity_or_is_rounded_away(
    origin: Any, destination: Any, tolerance: Tolerance, is_near: bool
) -> None:
    name = "numeric" if isinstance(origin, str) else ""
    sides = [ArrowSide(name, pa.table({"id": [1], "v": [v]})) for name, v in (("o", origin), ("d", destination))]
    for side in sides:
        side.table = replace(
            side.table, columns=(side.table.columns[0], replace(side.table.columns[1], origin_type=name))
        )
    parity = compare(OPENED, *sides, VerifyRequest(key=("id",), tolerances={"v": tolerance}))
    assert (parity.status == "equal") == is_near


def test_floats_of_32_bits_are_told_as_people_know_them_where_both_sides_have_them() -> None:
    """Beside a double the same number needs its own digits, as it is another one than 32.38."""
    real = pa.table({"id": [1, 2], "v": pa.array([32.38, -0.1], pa.float32())})
    changed = pa.table({"id": [1, 3], "v": pa.array([1e-7, -0.1], pa.float32())})
    doubles = pa.table({"id": [1, 2], "v": pa.array([32.38, -0.1], pa.float64())})
    sides = ArrowSide("orders", real), ArrowSide("landed", changed)
    parity = compare(OPENED, *sides, VerifyRequest(key=("id",)))
    told = {e.kind: (e.origin.get("v"), e.destination.get("v")) for e in parity.examples}
    assert told == {
        "different": ("32.38", "1e-07"), "only_in_origin": ("-0.1", None), "only_in_destination": (None, "-0.1"),
    }  # fmt: skip
    ends = {
        a.what: (a.origin, a.destination) for a in compare(OPENED, *sides, VerifyRequest(level="aggregates")).aggregates
    }
    assert (ends["min"], ends["max"]) == (("-0.1", "-0.1"), ("32.38", "1e-07"))
    sides = ArrowSide("orders", real.slice(0, 1)), ArrowSide("landed", doubles.slice(0, 1))
    (example,) = compare(OPENED, *sides, VerifyRequest(key=("id",))).examples
    assert (example.origin["v"], example.destination["v"]) == ("32.380001068115234", "32.38")


def test_a_number_beyond_128_bits_is_not_taken_for_the_small_one_that_it_wraps_around_to() -> None:
    def side(name: str, number: str) -> ArrowSide:
        side = ArrowSide(name, pa.table({"id": [1], "v": [number]}))
        columns = (side.table.columns[0], replace(side.table.columns[1], origin_type="numeric"))
        side.table = replace(side.table, columns=columns)
        return side

    for one, other in (("5", str(2**128 + 5)), ("0", "1" + "0" * 128), ("0", "1." + "0" * 130)):
        assert compare(OPENED, side("orders", one), side("landed", other), VerifyRequest(key=("id",))).different == 1


@pytest.mark.parametrize("of", [pa.timestamp("us"), pa.timestamp("ns")])
def test_a_nanosecond_is_a_difference_that_is_told(of: pa.DataType) -> None:
    moment = 1_704_067_200_000_000_000
    origin = pa.table({"id": [1, 2, 3], "at": pa.array([moment, moment, None]).view(pa.timestamp("ns")).cast(of)})
    fine = pa.array([moment, moment + 1, None]).view(pa.timestamp("ns"))
    sides = ArrowSide("orders", origin), ArrowSide("landed", pa.table({"id": [1, 2, 3], "at": fine}))
    (told,) = compare(OPENED, *sides, VerifyRequest(key=("id",))).examples
    assert (told.origin["at"], told.destination["at"]) == ("2024-01-01 00:00:00", "2024-01-01 00:00:00.000000001")
    apart = [
        a for a in compare(OPENED, *sides, VerifyRequest(level="aggregates", key=("id",))).aggregates if not a.same
    ]
    assert ("at", "max", "2024-01-01 00:00:00.000000001") in {(a.column, a.what, a.destination) for a in apart}


def test_null_is_within_no_tolerance_of_a_number() -> None:
    origin, destination = (pa.table({"id": [1], "v": pa.array([v], pa.int64())}) for v in (0, None))
    asked = VerifyRequest(key=("id",), tolerances={"v": Tolerance(Decimal(1000))})
    assert compare(OPENED, ArrowSide("orders", origin), ArrowSide("landed", destination), asked).different == 1


@pytest.mark.parametrize("sides", [(ArrowSide, ArrowSide), (HashingSide, ArrowSide), (HashingSide, HashingSide)])
@pytest.mark.parametrize("key", [("id",), ()])
def test_rows_in_flight_are_left_out_on_both_sides(sides: Any, key: tuple[str, ...]) -> None:
    # The origin went on after 00:01:39: row 5 has changed since, 100 to 104 are new; 300 was deleted since.
    moved = replaced(shop(105), "at", [5], [datetime(1970, 1, 1, 1, tzinfo=UTC)])
    landed = pa.concat_tables([shop(100), shop(1, first=300)])
    bound = Bound("at", "1970-01-01 00:01:39+00")
    parity = compare(
        OPENED,
        sides[0]("orders", moved),
        sides[1]("landed", landed),
        VerifyRequest(key=key, bound=bound, method="auto"),
    )
    if key:
        assert (parity.status, parity.in_flight) == ("equal", 7)
    else:  # the row as it was is in no other row's flight
        assert (parity.only_in_origin, parity.only_in_destination, parity.in_flight) == (0, 1, 6)
    wrong = replaced(landed, "amount", [7], [-1])
    parity = compare(
        OPENED, sides[0]("orders", moved), sides[1]("landed", wrong), VerifyRequest(key=("id",), bound=bound)
    )
    assert [example.key for example in parity.examples] == [{"id": "7"}]


def test_a_cursor_that_is_not_compared_bounds_all_the_same() -> None:
    bound = Bound("at", "1970-01-01 00:01:39Z")
    asked = VerifyRequest(key=("id",), columns={"id": "id", "name": "name"}, bound=bound)
    sides = ArrowSide("orders", shop(105)), ArrowSide("landed", replaced(shop(100), "at", [3], [None]))
    parity = compare(OPENED, *sides, asked)
    assert (parity.status, parity.in_flight) == ("equal", 5)
    for level in ("counts", "aggregates"):
        again = compare(OPENED, *sides, VerifyRequest(level=level, key=("id",), columns=asked.columns, bound=bound))
        assert (again.status, again.in_flight, again.rows_origin, again.rows_destination) == ("equal", 5, 100, 100)


@pytest.mark.parametrize(
    ("at_most", "in_flight"),
    [("1970-01-01 02:01:39+02", 5), ("1970-01-01 00:01:39", 5), ("1970-01-01T00:01:38.999999Z", 6), ("infinity", 0)],
)
def test_a_bound_is_a_moment_in_its_zone(at_most: str, in_flight: int) -> None:
    asked = VerifyRequest(key=("id",), bound=Bound("at", at_most))
    parity = compare(OPENED, ArrowSide("orders", shop(105)), ArrowSide("landed", shop(105)), asked)
    assert (parity.status, parity.in_flight) == ("equal", in_flight)


@pytest.mark.parametrize(
    ("cursor", "at_most", "in_flight"), [("amount", "41", 4), ("amount", "-1", 10), ("name", "customer 5", 4)]
)
def test_a_cursor_may_be_a_number_or_a_text(cursor: str, at_most: str, in_flight: int) -> None:
    asked = VerifyRequest(key=("id",), bound=Bound(cursor, at_most))
    parity = compare(OPENED, ArrowSide("orders", shop(10)), ArrowSide("landed", shop(10)), asked)
    assert (parity.status, parity.in_flight) == ("equal", in_flight)


@pytest.mark.parametrize(
    ("values", "at_most", "in_flight"),
    [
        (["1.5", "200.5", "200.6", "1e40", "NaN"], "200.5", 3),  # numerics without digits travel as text
        ([Decimal("1.50"), Decimal("200.50"), Decimal("201.00")], "200.5", 1),
        ([200, 201, None], "200.5", 1),
        ([-200, -201, None], "-200.5", 1),
    ],
)
def test_a_bound_between_two_numbers_is_not_rounded(values: list[Any], at_most: str, in_flight: int) -> None:
    sides = [ArrowSide(name, pa.table({"id": list(range(len(values))), "at": values})) for name in ("orders", "landed")]
    for side in sides:
        kind = "numeric" if isinstance(values[0], str) else ""
        columns = (side.table.columns[0], replace(side.table.columns[1], origin_type=kind))
        side.table = replace(side.table, columns=columns)
    parity = compare(OPENED, *sides, VerifyRequest(key=("id",), bound=Bound("at", at_most)))
    assert (parity.status, parity.in_flight) == ("equal", in_flight)


def test_a_bound_that_is_no_value_of_the_cursor_is_refused() -> None:
    asked = VerifyRequest(key=("id",), bound=Bound("at", "yesterday-ish"))
    with pytest.raises(UsageError, match="no value of the cursor at"):
        compare(OPENED, ArrowSide("orders", shop(1)), ArrowSide("landed", shop(1)), asked)


def test_a_column_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="landed has no column amount"):
        compare(
            OPENED, ArrowSide("orders", shop(1)), ArrowSide("landed", shop(1).drop_columns(["amount"])), VerifyRequest()
        )


class BreaksOff(ArrowSide):
    """The server goes away in the middle."""

    def _sent(self, rows: pa.Table) -> pa.RecordBatchReader:
        def batches() -> Any:
            yield from rows.to_batches(10)[:3]
            raise OriginError("the server went away")

        return pa.RecordBatchReader.from_batches(rows.schema, batches())


@pytest.mark.parametrize("level", ["rows", "aggregates"])
@pytest.mark.parametrize("sides", [(BreaksOff, ArrowSide), (ArrowSide, BreaksOff)])
def test_a_side_that_breaks_off_is_a_failure_and_never_a_match(sides: Any, level: Any) -> None:
    with pytest.raises(OriginError, match="went away"):
        compare(
            OPENED,
            sides[0]("orders", shop(100)),
            sides[1]("landed", shop(100)),
            VerifyRequest(level=level, key=("id",)),
        )


def test_counts_are_those_of_the_sides() -> None:
    for rows, status in ((10, "equal"), (11, "different")):
        parity = compare(
            OPENED, ArrowSide("orders", shop(10)), ArrowSide("landed", shop(rows)), VerifyRequest(level="counts")
        )
        assert (parity.status, parity.rows_origin, parity.rows_destination) == (status, 10, rows)
        assert (parity.level, parity.differences) == ("counts", None)
