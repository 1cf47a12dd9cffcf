"""Two keys have one code where the origin calls them equal, and only there."""

from __future__ import annotations

import math
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbt_bridge.replicate.key_codes import encode, encode_rows, find_incomparable, match_rows

_INTERVAL = pa.month_day_nano_interval()
_small = st.integers(-40, 40)
_floats = st.sampled_from([0.0, -0.0, 1.5, -1.5, math.nan, struct.unpack("<d", struct.pack("<Q", 0xFFF8 << 48))[0]])
_intervals = st.builds(lambda m, d, h: (m, d, h * 3_600_000_000_000), st.integers(-2, 2), _small, _small)
_fields = {"a": st.none() | st.integers(0, 1), "b": st.sampled_from(["", "x", None])}
VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), _small),
    "text": (pa.string(), st.sampled_from(["", "a", "A", "b", "ab"])),
    "float": (pa.float64(), _floats),
    "real": (pa.float32(), _floats),
    "interval": (_INTERVAL, _intervals),
    "uuid": (pa.uuid(), st.sampled_from([b"0" * 16, b"1" * 16])),
    "list": (pa.list_(pa.float64()), st.lists(st.none() | _floats, max_size=3)),
    "texts": (pa.list_(pa.string()), st.lists(st.sampled_from(["", "a", "ab", None]), max_size=3)),
    "lists": (pa.list_(pa.list_(pa.int8())), st.lists(st.none() | st.lists(st.integers(0, 1), max_size=2), max_size=2)),
    "struct": (pa.struct([("a", pa.int8()), ("b", pa.string())]), st.fixed_dictionaries(_fields)),
    "map": (pa.map_(pa.string(), pa.int8()), st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), max_size=2)),
}  # fmt: skip


def as_origin(value: Any) -> Any:
    """A value that Python compares as PostgreSQL compares this one."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    if isinstance(value, tuple) and len(value) == 3:
        months, days, nanoseconds = value
        return (months * 30 + days) * 86_400_000_000_000 + nanoseconds
    if isinstance(value, list):
        return tuple(map(as_origin, value))
    if isinstance(value, dict):
        return (value["a"], value["b"])
    return value


@pytest.mark.parametrize("kind", VALUES)
@settings(max_examples=40, deadline=None, print_blob=True)
@given(data=st.data())
def test_equal_keys_have_one_code(kind: str, data: st.DataObject) -> None:
    type_, values = VALUES[kind]
    drawn = data.draw(st.lists(st.none() | values, max_size=12))
    skipped = data.draw(st.integers(0, len(drawn)))
    codes = encode(pa.array(drawn, type_).slice(skipped)).tolist()
    expected = list(map(as_origin, drawn[skipped:]))
    same = [[a == b for b in codes] for a in codes]
    assert same == [[type(a) is type(b) and a == b for b in expected] for a in expected]
    assert [code == -1 for code in codes] == [value is None for value in expected]


def test_rows_are_numbered_by_all_of_their_columns() -> None:
    columns = [pa.chunked_array([[1, 1], [1, None, None]]), pa.chunked_array([["a", "b", "a", None, None]])]
    first, other, again, nothing, nothing_again = encode_rows(columns).tolist()
    assert first == again and nothing == nothing_again and len({first, other, nothing}) == 3


def test_rows_are_found_by_keys_of_any_type() -> None:
    rows = pa.table({"k": pa.array([[1], [2, None], [], [1]])})
    wanted = pa.table({"k": pa.array([[], [1], [7]], pa.list_(pa.int64()))})
    places, keys = match_rows(rows, wanted)
    assert (places.tolist(), keys.tolist()) == ([0, 2, 3], [1, 0, 1])


def test_what_cannot_be_compared_is_named() -> None:
    union = pa.dense_union([pa.field("a", pa.int8())])
    assert find_incomparable(pa.list_(pa.struct([("u", union)]))) == union
    assert all(find_incomparable(type_) is None for type_, _ in VALUES.values())
