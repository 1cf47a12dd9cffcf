"""Python rows become Arrow exactly: values decide the types, and no value is dropped or rounded.

    None                     fits every column
    int, float               a float column where every int is exact in it
    int, Decimal             decimal
    int beyond 64 bits       decimal(38,0)
    bool, str, bytes, date, time, datetime, timedelta, UUID   their own; not mixed with others
    date with datetime       timestamp
    nanoseconds of pandas    timestamp with nanoseconds; of a timedelta they are refused
    time with a zone         refused
    NaT, NA                  as None; NaN is a float: with others than floats it is refused
    dict, list, tuple        JSON; other values in the same column are encoded as JSON too

pyarrow's own inference is not used across types: it cuts a datetime to a date, and takes a naive time for UTC.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.arrow import decimals
from dbt_bridge.errors import TypeRefused, UsageError

_NESTED = (dict, list, tuple, set, frozenset)
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NO_FLOATS = "NaN is a float, and the others are none: yield None for a value that is missing"
_ONLY_NAN = {"dbt_bridge": "only NaN"}  # of a column that decides its type only beside those of other batches


def make_batch(rows: Sequence[Mapping[str, Any]], where: str) -> pa.RecordBatch:
    """Rows as one batch; its columns in the order in which their names first appear.

    Raises:
        UsageError: a row is not a mapping with text keys.
        TypeRefused: a column mixes values of different kinds.
    """
    names: dict[str, None] = {}
    for row in rows:
        names.update(dict.fromkeys(_require_mapping(row, where)))
    arrays = {name: make_array([row.get(name) for row in rows], name, where) for name in names}
    fields = [
        pa.field(name, array.type, metadata=_ONLY_NAN if _holds_only_nan(array) else None)
        for name, array in arrays.items()
    ]
    return pa.record_batch(list(arrays.values()), schema=pa.schema(fields))


def _holds_only_nan(array: pa.Array) -> bool:
    if not pa.types.is_floating(array.type) or array.null_count == len(array):
        return False
    return bool(pc.all(pc.is_nan(array)).as_py())


def _require_mapping(row: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(row, Mapping):
        raise UsageError(
            f"{where}: a row is a {type(row).__name__}, not a dict",
            mend="yield dicts, lists of dicts, data frames or Arrow tables",
        )
    return row


def make_array(values: Sequence[Any], column: str, where: str) -> pa.Array:
    """One column of Python values as Arrow.

    Raises:
        TypeRefused: no one type holds them all exactly.
    """
    types = set(map(type, values))
    if any(is_missing_mark(type_) for type_ in types):
        values = [None if is_missing_mark(type(v)) else v for v in values]
    kinds = {_kind_of(type_) for type_ in types if not is_missing_mark(type_)} - {"null"}
    try:
        if "float" in kinds and len(kinds) > 1:
            _refuse_nan(values)
        return _make_array_of(values, kinds)
    except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
        what = " and ".join(sorted(kinds)) or "null"
        raise TypeRefused(
            f"{where}: column {column!r} mixes or holds values that no one type keeps ({what}): {error}",
            mend=f"convert {column!r} to one type before it is yielded, for example str(row[{column!r}])",
        ) from None


def is_missing_mark(type_: type) -> bool:
    """Whether this is the type of pandas's NaT or NA, which say that there is no value."""
    return type_.__name__ in ("NaTType", "NAType")


def _refuse_nan(values: Sequence[Any]) -> None:
    """NaN among integers or texts most likely stands for a missing value, as pandas writes it; as a value it would make
    doubles of integers."""
    if not any(isinstance(v, float) and not math.isnan(v) for v in values):
        raise ValueError(_NO_FLOATS)


def _kind_of(type_: type) -> str:
    for kind, classes in _KINDS:
        if issubclass(type_, classes):
            return kind
    return "other"


_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("null", (type(None),)),
    ("bool", (bool,)),
    ("int", (int,)),
    ("float", (float,)),
    ("decimal", (Decimal,)),
    ("str", (str,)),
    ("nested", _NESTED),
    ("datetime", (dt.datetime,)),
    ("date", (dt.date,)),
    ("time", (dt.time,)),
    ("timedelta", (dt.timedelta,)),
    ("uuid", (uuid.UUID,)),
)


def _make_array_of(values: Sequence[Any], kinds: set[str]) -> pa.Array:
    if "nested" in kinds or isinstance(next((v for v in values if v is not None), None), Mapping):
        return pa.ExtensionArray.from_storage(
            pa.json_(), pa.array([None if v is None else to_json(v) for v in values], pa.string())
        )
    if kinds == {"int"}:
        return _make_integers(values)
    if kinds == {"int", "float"}:
        return pa.array(values, pa.float64())  # pyarrow raises for an int that is not exact in a double
    if kinds == {"int", "decimal"}:
        return pa.array([Decimal(v) if isinstance(v, int) else v for v in values])
    if kinds == {"date", "datetime"}:
        return _make_datetimes([v if v is None or isinstance(v, dt.datetime) else _to_midnight(v) for v in values])
    if kinds == {"datetime"}:
        return _make_datetimes(values)
    if kinds == {"uuid"}:
        raw = pa.array([None if v is None else v.bytes for v in values], pa.binary(16))
        return pa.ExtensionArray.from_storage(pa.uuid(), raw)
    if kinds == {"str"}:
        # Not str(v): that of an enum of texts is its member's name.
        return pa.array([None if v is None else str.__str__(v) for v in values], pa.string())
    if len(kinds) > 1:
        raise TypeError("different kinds of values")
    if kinds == {"time"} and any(v is not None and v.tzinfo is not None for v in values):
        raise ValueError("a time with a zone, which no column keeps")
    if kinds == {"timedelta"} and any(getattr(v, "nanoseconds", 0) for v in values):
        raise ValueError("a duration with nanoseconds, which no column keeps")
    return pa.array(values)


def _make_integers(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.int64())
    except OverflowError:
        return pa.array([None if v is None else Decimal(int(v)) for v in values], pa.decimal128(38, 0))


def _to_midnight(day: dt.date) -> dt.datetime:
    return dt.datetime(day.year, day.month, day.day)


def _make_datetimes(values: Sequence[Any]) -> pa.Array:
    zoned = {v.utcoffset() is not None for v in values if v is not None}
    if len(zoned) > 1:
        raise ValueError("times with and without a zone")
    zone = "UTC" if zoned == {True} else None
    if any(getattr(v, "nanosecond", 0) for v in values):  # of pandas.Timestamp
        return pa.array([None if v is None else _to_nanoseconds(v) for v in values], pa.int64()).cast(
            pa.timestamp("ns", zone)
        )
    return pa.array(values, pa.timestamp("us", zone))


def _to_nanoseconds(moment: dt.datetime) -> int:
    """Since 1970; without a zone it is UTC."""
    whole = moment.replace(tzinfo=dt.UTC) if moment.utcoffset() is None else moment
    return int((whole - _EPOCH) // dt.timedelta(microseconds=1)) * 1000 + int(getattr(moment, "nanosecond", 0))


def to_json(value: Any) -> str:
    """A value as JSON text: dates in ISO 8601, decimals and UUIDs as text. NaN has no JSON form and raises, and so do
    two keys of one object that are one text."""
    _refuse_double_keys(value)
    return json.dumps(value, default=_json_default, ensure_ascii=False, allow_nan=False)


def _refuse_double_keys(value: Any) -> None:
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            written = [key if isinstance(key, str) else json.dumps(key) for key in value]
            if len(set(written)) < len(written):
                raise ValueError(f"an object with two keys that are one in JSON: {', '.join(map(repr, value))}")
        for inner in value.values():
            _refuse_double_keys(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_double_keys(inner)


def _json_default(value: Any) -> Any:
    if is_missing_mark(type(value)):
        return None
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def unify_schemas(schemas: Iterable[pa.Schema], where: str) -> pa.Schema:
    """The schema that holds the columns of all of them.

    Raises:
        TypeRefused: a column changes its kind between them.
    """
    types: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            types[field.name] = _widen(types.get(field.name, pa.null()), field.type, field.name, where)
    return pa.schema(list(types.items()))


def refuse_nan_among_others(schemas: Iterable[pa.Schema], where: str) -> None:
    """What `make_array` refuses inside of one batch, over all of them.

    Raises:
        TypeRefused: a column is one of floats only for its NaN.
    """
    by_column: dict[str, list[pa.Field]] = {}
    for field in itertools.chain.from_iterable(schemas):
        if not pa.types.is_null(field.type):
            by_column.setdefault(field.name, []).append(field)
    for name, fields in by_column.items():
        floats = [field for field in fields if pa.types.is_floating(field.type)]
        if 0 < len(floats) < len(fields) and all(field.metadata for field in floats):
            raise TypeRefused(
                f"{where}: column {name!r}: {_NO_FLOATS}", mend=f"yield None for {name!r} where there is no value"
            )


def _widen(a: pa.DataType, b: pa.DataType, column: str, where: str) -> pa.DataType:
    is_ = pa.types
    if a == b or is_.is_null(b):
        return a
    if is_.is_null(a):
        return b
    if pa.json_() in (a, b):
        return pa.json_()
    kinds = {_kind_of_type(a), _kind_of_type(b)}
    if "float" in kinds and kinds <= {"int", "float"}:
        return pa.float64()
    if kinds <= {"int", "decimal"}:
        return _widen_decimals(a, b) if "decimal" in kinds else pa.int64()
    if kinds == {"date", "timestamp"} and "timestamp" in kinds and not any(getattr(t, "tz", None) for t in (a, b)):
        return pa.timestamp("us")
    raise TypeRefused(
        f"{where}: column {column!r} is {a} in earlier rows and {b} in later ones",
        mend=f"convert {column!r} to one type before it is yielded, for example str(row[{column!r}])",
    )


def _kind_of_type(type_: pa.DataType) -> str:
    is_ = pa.types
    if is_.is_integer(type_):
        return "int"
    if is_.is_floating(type_):
        return "float"
    if is_.is_decimal(type_):
        return "decimal"
    if is_.is_date(type_):
        return "date"
    return "timestamp" if is_.is_timestamp(type_) else str(type_)


def _widen_decimals(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    shapes = [(t.precision - t.scale, t.scale) if pa.types.is_decimal(t) else (19, 0) for t in (a, b)]
    whole, scale = max(s[0] for s in shapes), max(s[1] for s in shapes)
    return pa.decimal128(whole + scale, scale) if whole + scale <= 38 else pa.decimal256(min(whole + scale, 76), scale)


def fit_batch(batch: pa.RecordBatch, schema: pa.Schema, where: str) -> pa.RecordBatch:
    """The batch with exactly these columns and types; columns that it lacks are NULL.

    Raises:
        TypeRefused: a value does not survive the cast; names the column.
    """
    present = set(batch.schema.names)
    arrays = []
    for field in schema:
        if field.name not in present:
            arrays.append(pa.nulls(batch.num_rows, field.type))
            continue
        try:
            arrays.append(cast(batch.column(field.name), field.type))
        except pa.ArrowException as error:
            raise TypeRefused(
                f"{where}: column {field.name!r} ({batch.column(field.name).type}) does not fit {field.type}: {error}",
                mend=f"cast {field.name!r} before it is transferred",
            ) from None
    return pa.record_batch(arrays, schema=schema)


def cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """A lossless cast: raises pyarrow's errors where a value would change."""
    if array.type == type_:
        return array
    if type_ == pa.json_():
        return _to_json_array(array)
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, array.cast(type_.storage_type))
    if isinstance(array.type, pa.RunEndEncodedType):
        array = pc.run_end_decode(array)
    return decimals.cast(array, type_)


def _to_json_array(array: pa.Array) -> pa.Array:
    texts = [None if v is None else to_json(v) for v in array.to_pylist()]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
