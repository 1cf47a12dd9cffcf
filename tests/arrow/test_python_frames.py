"""Python rows and frames become Arrow without losing a value, or are refused."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import uuid
from contextlib import closing
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.arrow import python_frames
from dbt_bridge.arrow.python_frames import cast_reader, to_frames
from dbt_bridge.errors import TypeRefused, UsageError

NOON = dt.datetime(2026, 1, 2, 12, 0, 0, 7)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def table(data):
    (frame,) = to_frames(data, "s.t")
    with closing(frame):
        return frame.batches.read_all()


@pytest.mark.parametrize("rows", [[], [{"v": 1}], [{"v": n} for n in range(python_frames.ROWS_PER_BATCH + 1)]])
def test_rows_that_were_spooled_are_read_again_from_their_beginning(rows):
    (frame,) = to_frames(iter(rows), "s.t")
    with closing(frame):
        next(iter(frame.batches), None)
        again = [frame.reopen().batches.read_all() for _ in range(2)]
    assert [found.num_rows for found in again] == [len(rows)] * 2


def test_a_stream_is_read_once():
    (frame,) = to_frames(pa.table({"v": [1]}).to_reader(), "s.t")
    assert frame.reopen() is None


def column(*values):
    return table([{"v": value} for value in values]).column("v")


def test_nan_among_integers_is_refused_also_where_each_batch_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_frames, "ROWS_PER_BATCH", 1)
    with pytest.raises(TypeRefused, match="NaN is a float"):
        column(1, math.nan, None)
    assert column(1, math.nan, 2.5).to_pylist()[::2] == [1.0, 2.5], "beside a float it is one"
    assert column(None, math.nan).type == pa.float64()


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, None], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([2**63, 1], pa.decimal128(38, 0)),
        ([Decimal("1.50"), 2], pa.decimal128(3, 2)),
        ([True, None], pa.bool_()),
        (["a", "\N{SNOWMAN}"], pa.string()),
        ([b"a\x00"], pa.binary()),
        ([dt.date(2026, 1, 2)], pa.date32()),
        ([NOON], pa.timestamp("us")),
        ([NOON.replace(tzinfo=dt.UTC)], pa.timestamp("us", "UTC")),
        ([dt.time(1, 2, 3, 4)], pa.time64("us")),
        ([dt.timedelta(days=1, microseconds=1)], pa.duration("us")),
        ([ID, None], pa.uuid()),
        ([None, None], pa.null()),
    ],
)
def test_values_keep_their_types(values, type_):
    assert column(*values).type == type_
    assert column(*values).to_pylist() == values


class Color(str, enum.Enum):  # noqa: UP042 - whose str() is not its value, other than that of a StrEnum
    RED = "red"


def test_values_of_pandas_and_of_subclasses_keep_what_they_are():
    exact = pd.Timestamp("2026-01-01T00:00:00.123456789")
    assert column(exact, NOON, None, pd.NaT).cast(pa.int64()).to_pylist() == [
        1767225600123456789, 1767355200000007000, None, None,
    ]  # fmt: skip
    assert column(exact.tz_localize("UTC")).type == pa.timestamp("ns", "UTC")
    assert column(pd.Timestamp("2026-01-01"), pd.NaT).type == pa.timestamp("us")
    assert column(Color.RED, "blue").to_pylist() == ["red", "blue"]
    assert column(1.5, math.nan, None).null_count == 1, "NaN is a value of a float"
    assert json.loads(column({"at": pd.NaT, "n": pd.NA}).to_pylist()[0]) == {"at": None, "n": None}


@pytest.mark.parametrize("values", [pd.period_range("2026-01", periods=1, freq="M"), pd.interval_range(0, 1)])
def test_what_only_pandas_knows_is_refused(values):
    with pytest.raises(TypeRefused, match=r"column 'v' is (period|interval).*only pandas knows") as refused:
        table(pd.DataFrame({"v": values}))
    assert refused.value.mend == "df['v'] = df['v'].astype(str)"
    df = pd.DataFrame({"v": values})
    df["v"] = df["v"].astype(str)
    assert table(df)["v"].type in (pa.string(), pa.large_string())


def test_a_date_among_times_becomes_midnight_instead_of_cutting_the_times():
    assert column(dt.date(2026, 1, 2), NOON).to_pylist() == [dt.datetime(2026, 1, 2), NOON]


def test_times_of_other_zones_are_the_same_moments():
    berlin = NOON.replace(tzinfo=dt.timezone(dt.timedelta(hours=2)))
    assert column(berlin, NOON.replace(tzinfo=dt.UTC)).to_pylist() == [berlin, NOON.replace(tzinfo=dt.UTC)]


def test_nested_values_are_json_and_so_are_their_neighbours():
    nested = column({"a": [1, None], "at": NOON, "d": Decimal("1.10")}, [1], "text", 5, None)
    assert nested.type == pa.json_()
    read = [None if v is None else json.loads(v) for v in nested.to_pylist()]
    assert read == [{"a": [1, None], "at": "2026-01-02T12:00:00.000007", "d": "1.10"}, [1], "text", 5, None]


@pytest.mark.parametrize(
    "values",
    [
        [1, "a"],
        [True, 1],
        [1, 0, True],
        [2**53 + 1, 1.5],
        [NOON, NOON.replace(tzinfo=dt.UTC)],
        [1.5, Decimal("1")],
        [{"a": math.nan}],
        [{1: "a", "1": "b"}],
        [{"a": [{None: 1, "null": 2}]}],
        [1, math.nan],
        ["a", math.nan],
        [dt.time(10, tzinfo=dt.UTC)],
        [pd.Timedelta("1ns")],
        [pd.Period("2026-01")],
        [10**60],
        [object()],
    ],
)
def test_values_that_no_one_type_keeps_are_refused(values):
    with pytest.raises(TypeRefused, match="column 'v'"):
        column(*values)


def test_columns_may_appear_late_and_types_may_widen_between_chunks(monkeypatch):
    monkeypatch.setattr(python_frames, "ROWS_PER_BATCH", 2)
    rows = [{"a": 1}, {"a": None}, {"a": 2.5, "b": "x"}, {"b": None}, {"a": 3, "c": {"k": 1}}, {"c": "text"}]
    assert table(iter(rows)).to_pylist() == [
        {"a": 1.0, "b": None, "c": None},
        {"a": None, "b": None, "c": None},
        {"a": 2.5, "b": "x", "c": None},
        {"a": None, "b": None, "c": None},
        {"a": 3.0, "b": None, "c": '{"k": 1}'},
        {"a": None, "b": None, "c": '"text"'},
    ]


@pytest.mark.parametrize("later", ["text", True, NOON, b"b"])
def test_a_kind_that_changes_between_chunks_is_refused(monkeypatch, later):
    monkeypatch.setattr(python_frames, "ROWS_PER_BATCH", 1)
    with pytest.raises(TypeRefused, match="column 'v' is int64 in earlier rows"):
        column(1, later)


def test_an_integer_that_a_float_column_cannot_hold_is_refused_between_chunks_too(monkeypatch):
    monkeypatch.setattr(python_frames, "ROWS_PER_BATCH", 1)
    with pytest.raises(TypeRefused, match="'v'"):
        column(2**53 + 1, 1.5)


SCALARS = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.dates(),
    st.datetimes(),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9), max_value=10**9),
)


@given(st.lists(SCALARS, max_size=8), st.integers(1, 4))
def test_whatever_the_mix_every_value_comes_back_equal_or_the_column_is_refused(values, rows_per_batch):
    before, python_frames.ROWS_PER_BATCH = python_frames.ROWS_PER_BATCH, rows_per_batch
    try:
        back = column(*values).to_pylist() if values else []
    except TypeRefused:
        return
    finally:
        python_frames.ROWS_PER_BATCH = before
    for sent, got in zip(values, back, strict=True):
        same_day = (
            isinstance(sent, dt.date) and isinstance(got, dt.datetime) and got == dt.datetime(*sent.timetuple()[:3])
        )
        assert got == sent or same_day, (sent, got)


def test_pages_rows_and_frames_may_mix():
    data = iter([[{"a": 1}, {"a": 2}], {"a": 3}, pa.table({"a": [4]}), pd.DataFrame({"a": [5]}), []])
    assert table(data).to_pylist() == [{"a": n} for n in range(1, 6)]


def test_a_pandas_frame_keeps_integers_text_and_missing_values():
    frame = pd.DataFrame({"i": [1, 2], "t": ["a", None], "o": [{"k": 1}, None]}, index=[7, 8])
    assert table(frame).to_pylist() == [{"i": 1, "t": "a", "o": '{"k": 1}'}, {"i": 2, "t": None, "o": None}]


def test_an_empty_frame_keeps_its_columns():
    assert table(pa.table({"a": pa.array([], pa.int32())})).schema == pa.schema({"a": pa.int32()})
    assert table(iter([pa.table({"a": pa.array([], pa.int32())})])).schema == pa.schema({"a": pa.int32()})
    assert table([]).schema == pa.schema([])


@pytest.mark.parametrize(("data", "what"), [(5, "from a int"), ("rows", "from a str"), ([(1, 2)], "a row is a int")])
def test_what_is_not_rows_is_named(data, what):
    with pytest.raises(UsageError, match=what):
        table(data)


def test_a_destination_s_types_are_reached_without_loss_or_not_at_all():
    def seconds(reader):
        return cast_reader(reader, lambda _: pa.timestamp("us", "UTC"), "s.t").read_all()

    exact = pa.table({"at": pa.array([1_000], pa.timestamp("ns", "UTC"))})
    assert seconds(exact.to_reader()).column("at").cast(pa.int64()).to_pylist() == [1]
    with pytest.raises(TypeRefused, match="column 'at'"):
        seconds(pa.table({"at": pa.array([1_001], pa.timestamp("ns", "UTC"))}).to_reader())
