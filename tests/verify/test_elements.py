"""Values of every type that a side may give are brought to one form, in which equal means equal."""

from __future__ import annotations

import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_bridge.contracts.canon import Canon, choose_canon
from dbt_bridge.errors import TypeRefused
from dbt_bridge.nouns.table import Column
from dbt_bridge.verify.canonical.elements import to_canonical
from dbt_bridge.verify.canonical.row_digest import CHUNK, compute_digests

U = "00112233-4455-6677-8899-aabbccddeeff"
MOMENT = dt.datetime(2024, 2, 29, 1, 2, 3, 4000)
INFINITE = pa.array([2**63 - 1]).view(pa.timestamp("us"))

EQUAL = {
    "int and decimal": (pa.array([5, None], pa.int8()), pa.array([Decimal("5.00"), None], pa.decimal128(9, 2))),
    "uint64 and int": (pa.array([2**63, 1], pa.uint64()), pa.array([Decimal(2**63), Decimal(1)], pa.decimal128(38, 0))),
    "bool and int": (pa.array([True, False]), pa.array([1, 0])),
    "decimals": (pa.array([Decimal("-1.5")]), pa.array([Decimal("-1.500000")], pa.decimal256(60, 6))),
    "decimal and its text": (pa.array([Decimal("-0.10")]), pa.array(["-.1"])),
    "a long decimal and its text": (pa.array([Decimal("1" * 35)]), pa.array([f"{'1' * 35}.000"])),
    "decimal and double": (pa.array([Decimal("0.10"), Decimal("3.30")]), pa.array([0.1, 3.3])),
    "half and double": (pa.array([np.float16(0.5)], pa.float16()), pa.array([0.5])),
    "zero and minus zero": (pa.array([0.0]), pa.array([-0.0])),
    "dictionary and string": (pa.array(["é", None]).dictionary_encode(), pa.array(["é", None], pa.large_string())),
    "views": (pa.array(["a" * 20], pa.string_view()), pa.array(["a" * 20])),
    "uuid and text": (pa.array([bytes.fromhex(U.replace("-", ""))], pa.uuid()), pa.array([U.upper()])),
    "uuid and 16 bytes": (pa.array([bytes(16)], pa.uuid()), pa.array([bytes(16)], pa.binary(16))),
    "bytes": (pa.array([b"abcd"], pa.binary(4)), pa.array([b"abcd"], pa.large_binary())),
    "date and moment": (pa.array([dt.date(2024, 2, 29)]), pa.array([dt.datetime(2024, 2, 29)], pa.timestamp("s"))),
    "zones": (pa.array([MOMENT], pa.timestamp("ms", "Europe/Vilnius")), pa.array([MOMENT], pa.timestamp("us"))),
    "nanoseconds": (pa.array([MOMENT], pa.timestamp("ns")), pa.array([MOMENT], pa.timestamp("us"))),
    "times": (pa.array([dt.time(1, 2, 3)], pa.time32("s")), pa.array([dt.time(1, 2, 3)], pa.time64("us"))),
    "duration and interval": (
        pa.array([dt.timedelta(seconds=1)]),
        pa.array([(0, 0, 10**9)], pa.month_day_nano_interval()),
    ),
    "lists": (
        pa.array([[1, None], [], None], pa.list_(pa.int8())),
        pa.array([[1, None], [], None], pa.large_list(pa.int64())),
    ),
    "fixed lists": (pa.array([[1.5, 2]], pa.list_(pa.float32(), 2)), pa.array([[1.5, 2.0]])),
    "a map and JSON": (pa.array([[("b", 1), ("a", 2)]], pa.map_(pa.string(), pa.int8())), pa.array(['{"a":2,"b":1}'])),
    "structs": (pa.array([{"a": 1, "b": "x"}]), pa.array([{"b": "x", "a": 1}])),
    "a timestamp and its text": (pa.array([MOMENT]), pa.array(["2024-02-29 01:02:03.004"])),
    "infinity and its text": (INFINITE, pa.array(["infinity"])),
}


@pytest.mark.parametrize("pair", EQUAL.values(), ids=EQUAL)
def test_equal_values_of_two_types_have_one_form_and_one_digest(pair: tuple[pa.Array, pa.Array]) -> None:
    one, other = pair
    canon = choose_canon(Column("a", one.type), Column("b", other.type))
    assert to_canonical(one, canon).equals(to_canonical(other, canon))
    assert compute_digests([one], [canon]).tolist() == compute_digests([other], [canon]).tolist()


DIFFERENT = {
    "one more digit": (pa.array([Decimal("1.10")]), pa.array(["1.101"])),
    "no number": (pa.array([Decimal("1.10")]), pa.array(["1,10"])),
    "a number that is not": (pa.array([Decimal("0.00")]), pa.array(["NaN"])),
    "a nanosecond": (pa.array([MOMENT]), pa.array([np.datetime64("2024-02-29T01:02:03.004000001", "ns")])),
    "infinity and its neighbour": (INFINITE, pa.array([2**62], pa.int64()).view(pa.timestamp("s"))),
    "no uuid": (pa.array([bytes(16)], pa.uuid()), pa.array(["0"])),
    "empty and NULL": (pa.array([""]), pa.array([None], pa.string())),
    "zero and NULL": (pa.array([0.0]), pa.array([None], pa.float64())),
    "a trailing space": (pa.array(["a"]), pa.array(["a "])),
    "composed and decomposed": (pa.array(["\u00e9"]), pa.array(["e\u0301"])),
    "months and days": (
        pa.array([(1, 0, 0)], pa.month_day_nano_interval()),
        pa.array([(0, 30, 0)], pa.month_day_nano_interval()),
    ),
    "an empty list and NULL": (pa.array([[]], pa.list_(pa.int64())), pa.array([None], pa.list_(pa.int64()))),
    "NULL in a list": (pa.array([["NULL"]]), pa.array([[None]], pa.list_(pa.string()))),
    "quotes in a list": (pa.array([["a,b"]]), pa.array([["a", "b"]])),
}


@pytest.mark.parametrize("pair", DIFFERENT.values(), ids=DIFFERENT)
def test_different_values_differ_in_form_and_digest(pair: tuple[pa.Array, pa.Array]) -> None:
    one, other = pair
    canon = choose_canon(Column("a", one.type), Column("b", other.type))
    assert not to_canonical(one, canon).equals(to_canonical(other, canon))
    assert compute_digests([one], [canon]).tolist() != compute_digests([other], [canon]).tolist()


def test_json_is_compared_by_value_and_a_digest_of_its_text_only_suspects() -> None:
    canon = choose_canon(Column("a", pa.json_()), Column("b", pa.string()))
    one = pa.array(['{"b": [1.50, null], "a": "é"}', '{"x": 1}', "no json", None], pa.json_(pa.string()))
    other = pa.array(['{"a":"\\u00e9","b":[15e-1,null]}', '{"x": 2}', "no json", None])
    assert to_canonical(one, canon).to_pylist() == ['{"a":"é","b":[1.5,null]}', '{"x":1}', "no json", None]
    assert to_canonical(other, canon).to_pylist() == ['{"a":"é","b":[1.5,null]}', '{"x":2}', "no json", None]
    assert compute_digests([one], [canon])[1] != compute_digests([other], [canon])[1]


def test_a_struct_is_compared_with_json_by_value() -> None:
    struct = pa.array([{"a": Decimal("1.50"), "t": [True, None]}])
    canon = choose_canon(Column("a", struct.type), Column("b", pa.json_()))
    assert to_canonical(struct, canon).equals(to_canonical(pa.array(['{"t":[true,null],"a":1.5}']), canon))


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.binary(), pa.int64(), pa.decimal128(30, 4), pa.list_(pa.int32()), pa.null()]
)
def test_columns_of_nulls_and_of_nothing_have_digests(type_: pa.DataType) -> None:
    canon = choose_canon(Column("a", type_), Column("b", type_))
    assert compute_digests([pa.nulls(3, type_)], [canon]).tolist() == [0, 0, 0]
    assert compute_digests([pa.nulls(0, type_)], [canon]).tolist() == []
    assert compute_digests([pa.chunked_array([], type_)], [canon]).tolist() == []


values: dict[Any, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.string(): st.text(max_size=40),
    pa.decimal128(38, 3): st.integers(-(10**38) + 1, 10**38 - 1).map(lambda n: Decimal(f"{n}e-3")),
    pa.list_(pa.string()): st.lists(st.none() | st.text(max_size=3), max_size=3),
    pa.bool_(): st.booleans(),
    pa.uuid(): st.binary(min_size=16, max_size=16),
}


@given(st.data())
@settings(deadline=None, max_examples=60, print_blob=True)
def test_a_digest_depends_on_the_values_alone_and_not_on_how_they_lie_in_memory(data: st.DataObject) -> None:
    type_ = data.draw(st.sampled_from(list(values)))
    rows = data.draw(st.lists(st.none() | values[type_], min_size=1, max_size=30))
    storage = pa.binary(16) if isinstance(type_, pa.UuidType) else type_
    array = pa.array(rows, storage)
    canon = choose_canon(Column("a", type_), Column("b", type_))
    whole = compute_digests([array], [canon]).tolist()
    at = data.draw(st.integers(0, len(rows)))
    assert compute_digests([array.slice(at)], [canon]).tolist() == whole[at:]
    assert compute_digests([pa.chunked_array([array.slice(0, at), array.slice(at)])], [canon]).tolist() == whole
    assert [compute_digests([pa.array([row], storage)], [canon])[0] for row in rows] == whole


def test_rows_are_cut_into_chunks_without_a_trace() -> None:
    rows = CHUNK + 5
    arrays = [pa.array(range(rows)), pa.array([[str(i)] if i % 3 else None for i in range(rows)])]
    canons = [Canon("int"), Canon("list", of=Canon("text"))]
    found = compute_digests(arrays, canons)
    assert len(np.unique(found)) == rows
    assert compute_digests([a.slice(CHUNK - 2) for a in arrays], canons).tolist() == found[CHUNK - 2 :].tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.date32(), pa.int64()),
        (pa.binary(), pa.int64()),
        (pa.list_(pa.int64()), pa.int64()),
        (pa.time64("us"), pa.date32()),
    ],
)
def test_types_without_a_common_form_are_refused(one: pa.DataType, other: pa.DataType) -> None:
    with pytest.raises(TypeRefused, match=r"column 'a' .* cannot be compared with column 'b'"):
        choose_canon(Column("a", one), Column("b", other))


@given(st.lists(st.none() | st.uuids(), min_size=1, max_size=40), st.data())
@settings(deadline=None, max_examples=40, print_blob=True)
def test_uuids_that_a_side_gives_as_text_are_read(uuids: list[uuid.UUID | None], data: st.DataObject) -> None:
    spelled = data.draw(st.sampled_from([str, lambda value: str(value).upper(), lambda value: "{" + str(value) + "}"]))
    texts = pa.array([None if value is None else spelled(value) for value in uuids], pa.string())
    expected = pa.array([None if value is None else value.bytes for value in uuids], pa.binary(16))
    at = data.draw(st.integers(0, len(uuids)))
    assert to_canonical(texts.slice(at), Canon("uuid")).equals(expected.slice(at))


def test_a_text_that_is_no_uuid_is_refused_where_both_sides_have_uuids() -> None:
    for wrong in ("0" * 36, U[:-1] + "g", U[:-1], U.replace("-", "_"), U[:-1] + "\x19", U[:-1] + " ", U[:-2] + "_f"):
        with pytest.raises(TypeRefused, match="cannot be compared as uuid"):
            to_canonical(pa.array([wrong]), Canon("uuid"))
