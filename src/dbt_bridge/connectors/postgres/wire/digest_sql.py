"""The digests of `dbt_bridge.contracts.canon` in PostgreSQL's SQL.

Every statement expects the settings of a Postgres origin's connections (`connectors/postgres/origin/connection.py`):
ISO dates, UTC, the shortest floats. A server is asked `PROBE_SQL` once: one that hashes otherwise (another encoding
than UTF8, a big-endian processor, PostgreSQL before 14) answers something else, or fails.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon, Digested, NoDigests
from dbt_bridge.contracts.side import BucketSelection
from dbt_bridge.nouns.table import Column, quote_identifier

_INTEGERS = {"smallint", "integer", "bigint", "oid", "boolean"}
_FLOATS = {"real", "double precision"}
_TEXTS = {"text", "character varying"}
_TIMESTAMPS = {"timestamp without time zone": "timestamp", "timestamp with time zone": "timestamptz"}
_SHORT = {
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "time": "time without time zone",
    "varchar": "character varying",
    "char": "character",
    "bpchar": "character",
    "decimal": "numeric",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "bool": "boolean",
    "float4": "real",
    "float8": "double precision",
}
_RATE_BYTES = 512 * 1024
FIRST_VERSION = 140_000  # `server_version`; earlier ones have no hash_record_extended, so that PROBE_SQL fails there

PROBE_SQL = """
SELECT getdatabaseencoding() = 'UTF8',
       hash_record_extended(ROW(1::int2, (-2)::int4, true, NULL::int4), 0),
       hash_record_extended(ROW(int8send(9223372036854775807)), 0),
       hash_record_extended(ROW(int8send(-5)), 7766554433221100),
       hash_record_extended(ROW(float8send(1.5), float8send('NaN')), 0),
       hash_record_extended(ROW(''::text COLLATE "C", 'eleven char'::text COLLATE "C", repeat('x', 40) COLLATE "C"), 0),
       hash_record_extended(ROW(uuid '00112233-4455-6677-8899-aabbccddeeff'), 0),
       hash_record_extended(ROW(date '1999-12-31', date '-infinity'), 0),
       hash_record_extended(ROW(timestamp_send('infinity'), time_send('12:34:56.789')), 0),
       hash_record_extended(ROW(1234567.89::numeric, false, -0.00000305, true, 'NaN'::numeric, false), 0),
       hash_record_extended(ROW(int8send(hash_array_extended(ARRAY['a', NULL] COLLATE "C", 0))), 0)
"""
"""One row, which must be `PROBE`; a server of `FIRST_VERSION` or later answers without an error."""

PROBE: tuple[bool | int, ...] = (
    True,
    -5354031952550313291,
    6043476346663963261,
    -6234537460831766125,
    -2580956565906292939,
    -8858928259848843598,
    4462459420613485749,
    -1218539454765506643,
    5674307092742959221,
    -6228730915972576227,
    -3419389425418856899,
)
"""What verify/canonical/row_digest.py computes for the values of `PROBE_SQL` (tests/verify/test_digest_postgres.py)."""

_MOST_ELEMENTS = 1664  # of ROW(...): MaxTupleAttributeNumber of htup_details.h
_LAST_DAY = "date '294276-12-31'"  # of a timestamp


def build_element(sql: str, origin_type: str, canon: Canon, mask: str = "") -> str:
    """The expression of a value's element; for a decimal these are two, with a comma between them, for `ROW(...)`.

    Args:
        sql: the column's expression, such as a quoted name.
        origin_type: as `format_type` spells it; domains by the type that they are made of (see `resolve_builtin`).
        mask: `sha256` for the hash of the text form that the initial copy masks.

    Raises:
        NoDigests: PostgreSQL has no exact expression for this type in this canon.
    """
    own = _base_type(origin_type)
    if mask:
        if mask != "sha256":
            raise ValueError(f"no mask {mask!r}: there is sha256")
        return f"encode(sha256(convert_to({build_text(sql, origin_type)}, 'UTF8')), 'hex') COLLATE \"C\""
    found = _ELEMENTS[canon.kind](sql, own, origin_type, canon)
    if found is None:
        raise NoDigests(
            f"{sql} of the type {origin_type} has no digest as {canon.kind}: PostgreSQL does not write it exactly so"
        )
    return found


def build_text(sql: str, origin_type: str) -> str:
    """The text form that the initial copy lands (`connectors/postgres/origin/column_types.py`)."""
    own = _base_type(origin_type)
    if own in _TEXTS:
        return sql
    if own in ("inet", "xml"):  # inet::text appends /32, and xml::text shows an encoding that is no longer its own
        return f"{own}_out({sql})::text"
    if own == "character" or "." in own:  # its cast loses the padding; and a domain may be made of such a type
        return f"CASE WHEN {sql} IS DISTINCT FROM NULL THEN format('%s', {sql}) END"
    return f"{sql}::text"


def resolve_builtin(column: Column) -> str:
    """The column's origin type; for a domain over a number, a moment or the like that type, which Arrow's tells."""
    own = _base_type(column.origin_type)
    if own and "." not in own:
        return column.origin_type
    if is_.is_list(column.type):
        return resolve_builtin(Column(column.name, column.type.value_type, own.removesuffix("[]"))) + "[]"
    if is_.is_decimal(column.type):
        return f"numeric(38,{column.type.scale})"
    return next((name for test, name in _BY_ARROW if test(column.type)), column.origin_type or "text")


_BY_ARROW: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (is_.is_boolean, "boolean"),
    (is_.is_int16, "smallint"),
    (is_.is_int32, "integer"),
    (is_.is_int64, "bigint"),
    (is_.is_float32, "real"),
    (is_.is_float64, "double precision"),
    (is_.is_date, "date"),
    (is_.is_time, "time"),
    (lambda t: is_.is_timestamp(t) and t.tz is not None, "timestamptz"),
    (is_.is_timestamp, "timestamp"),
    (is_.is_interval, "interval"),
    (is_.is_binary, "bytea"),
    (lambda t: isinstance(t, pa.UuidType), "uuid"),
    (lambda t: isinstance(t, pa.JsonType), "json"),
)


def _base_type(origin_type: str) -> str:
    plain = re.sub(r" +", " ", re.sub(r"\([^)]*\)", "", origin_type)).strip()
    if plain.startswith("interval") and not plain.endswith("[]"):
        return "interval"
    inner = plain.removesuffix("[]")
    return _SHORT.get(inner, inner) + plain[len(inner) :]


def _int_element(sql: str, own: str, _: str, canon: Canon) -> str | None:
    if own not in _INTEGERS:
        return None
    if canon.bits == 32:
        return {"boolean": f"{sql}::bool", "smallint": f"{sql}::int2", "integer": f"{sql}::int4"}.get(own)
    return f"int8send({sql}::int4::int8)" if own == "boolean" else f"int8send({sql}::int8)"


def _decimal_element(sql: str, own: str, origin_type: str, _: Canon) -> str | None:
    if own in _FLOATS:
        double = f"({sql})::float8"
        return f"{_write_double(double)}, CASE WHEN {double} = 'Infinity' THEN 2 ELSE ({double} < 0)::int4 END"
    number = (
        f"{sql}::int4::numeric" if own == "boolean" else f"{sql}::int8::numeric" if own == "oid" else f"{sql}::numeric"
    )
    if own != "numeric":
        return f"{number}, {number} < 0" if own in _INTEGERS else None
    if "(" in origin_type:  # no infinity fits a precision
        return f"{number}, {number} < 0"
    return f"{number}, CASE WHEN {number} = 'Infinity' THEN 2 ELSE ({number} < 0)::int4 END"


def _write_double(double: str) -> str:
    """A double as the numeric of the fewest digits that read back as it; from 2^53 on with all its digits, and those
    that no bigint holds as a bigint times a power of two."""
    power = f"(floor(ln(abs({double})) / ln(2::float8)) - 55)"
    return (
        f"CASE WHEN abs({double}) BETWEEN 9007199254740992 AND 9223372036854774784 THEN {double}::int8::numeric"
        f" WHEN abs({double}) > 9223372036854774784 AND abs({double}) < 'Infinity'"
        f" THEN ({double} / 2::float8 ^ {power})::int8::numeric * 2::numeric ^ {power}::numeric"
        f" ELSE {double}::text::numeric END"
    )


def _float_element(sql: str, own: str, _: str, __: Canon) -> str | None:
    if own not in _FLOATS | _INTEGERS | {"numeric"}:
        return None
    number = (
        f"{sql}::int4::float8" if own == "boolean" else f"{sql}::int8::float8" if own == "oid" else f"{sql}::float8"
    )
    return f"float8send(CASE WHEN {number} = 'NaN' THEN 'NaN' ELSE {number} + 0 END)"


def _text_element(sql: str, own: str, origin_type: str, canon: Canon) -> str | None:
    if canon.form == "uuid":
        return f'{sql}::text COLLATE "C"' if own == "uuid" else None
    if canon.form == "char":
        return (
            f'{sql}::text COLLATE "C"'
            if own == "character"
            else f"rtrim({build_text(sql, origin_type)}, ' ') COLLATE \"C\""
        )
    return f'({build_text(sql, origin_type)}) COLLATE "C"'


def _json_element(sql: str, own: str, origin_type: str, canon: Canon) -> str | None:
    return None if canon.form == "nested" else f'({build_text(sql, origin_type)}) COLLATE "C"'


def _binary_element(sql: str, own: str, _: str, __: Canon) -> str | None:
    return f"{sql}::bytea" if own == "bytea" else f"convert_to({sql}, 'UTF8')" if own in _TEXTS else None


def _uuid_element(sql: str, own: str, _: str, __: Canon) -> str | None:
    return f"{sql}::uuid" if own == "uuid" else None


def _date_element(sql: str, own: str, _: str, __: Canon) -> str | None:
    return f"{sql}::date" if own == "date" else None


def _time_element(sql: str, own: str, _: str, __: Canon) -> str | None:
    return f"time_send({sql})" if own == "time without time zone" else None


def _timestamp_element(sql: str, own: str, _: str, __: Canon) -> str | None:
    if own == "date":  # a day after the last timestamp equals none
        late = f"isfinite({sql}) AND {sql} > {_LAST_DAY}"
        return f"CASE WHEN {late} THEN date_send({sql}) ELSE timestamp_send({sql}::timestamp) END"
    return f"{_TIMESTAMPS[own]}_send({sql})" if own in _TIMESTAMPS else None


def _interval_element(sql: str, own: str, _: str, __: Canon) -> str | None:
    return f"interval_send({sql}::interval)" if own in ("interval", "time without time zone") else None


def _list_element(sql: str, own: str, origin_type: str, canon: Canon) -> str | None:
    of = canon.of
    if not own.endswith("[]") or of is None:
        return None
    cast = _list_element_casts(own.removesuffix("[]"), origin_type, of)
    if cast is None:
        return None
    # hash_array sees neither dimensions nor bounds; a list has one that starts at 1. Any other array is its text, and
    # no list of that text.
    return (
        f"CASE WHEN array_ndims({sql}) > 1 OR array_lower({sql}, 1) <> 1 THEN convert_to({sql}::text, 'UTF8')"
        f' ELSE int8send(hash_array_extended({sql}{cast} COLLATE "C", 0)) END'
    )


def _list_element_casts(own: str, origin_type: str, of: Canon) -> str | None:
    """The casts to text[] in the canon's form."""
    if of.kind in ("text", "json"):
        if of.form == "uuid":
            return "::text[]" if own == "uuid" else None
        if of.form == "char":
            return "::text[]" if own == "character" else None
        return "::text::text[]" if own in ("inet", "xml") else "::text[]"
    if of.kind == "int":
        return "::int4[]::int8[]::text[]" if own == "boolean" else "::int8[]::text[]" if own in _INTEGERS else None
    if of.kind == "decimal":
        scale = re.search(r",(\d+)\)", origin_type) if own == "numeric" else re.match("()", "")
        same = scale is not None and int(scale[1] or 0) == of.scale and own in _INTEGERS | {"numeric"}
        return "::text[]" if same else None
    if of.kind == "float":
        return "::float8[]::text[]" if own in _FLOATS else None
    if of.kind == "timestamp":
        return "::timestamp[]::text[]" if own in _TIMESTAMPS else None
    exact = {
        "binary": "bytea",
        "uuid": "uuid",
        "date": "date",
        "time": "time without time zone",
        "interval": "interval",
    }
    return "::text[]" if exact.get(of.kind) == own else None


_ELEMENTS: dict[str, Callable[[str, str, str, Canon], str | None]] = {
    "int": _int_element,
    "decimal": _decimal_element,
    "float": _float_element,
    "text": _text_element,
    "json": _json_element,
    "binary": _binary_element,
    "uuid": _uuid_element,
    "date": _date_element,
    "time": _time_element,
    "timestamp": _timestamp_element,
    "interval": _interval_element,
    "list": _list_element,
}


def check_server(version: int, first_row: Callable[[str], tuple[object, ...]]) -> None:
    """Refuse a server whose digests would not be ours.

    Args:
        version: `server_version`.
        first_row: answers a statement.

    Raises:
        NoDigests: it is too old, or hashes otherwise.
    """
    if version < FIRST_VERSION:
        raise NoDigests(f"PostgreSQL {version // 10000} has no hash of a row; {FIRST_VERSION // 10000} is the first")
    if first_row(PROBE_SQL) != PROBE:
        raise NoDigests("this server hashes otherwise (another encoding than UTF8, or byte order)")


def measure_transfer_rate(first_row: Callable[[str], tuple[object, ...]]) -> float:
    """Bytes per second that the wire carries: half a megabyte, less the time of an empty answer."""
    started = time.perf_counter()
    first_row("SELECT ''")
    empty = time.perf_counter() - started
    started = time.perf_counter()
    first_row(f"SELECT repeat('x', {_RATE_BYTES:d})")
    return _RATE_BYTES / max(time.perf_counter() - started - empty, 1e-6)


def build_row_digest(columns: Sequence[Digested]) -> str:
    """The digest of a row's columns, in this order."""
    if not columns:
        return "0::int8"
    parts = [
        build_element(quote_identifier(c.column.name), resolve_builtin(c.column), c.canon, c.mask) for c in columns
    ]
    if len(parts) + sum(c.canon.kind == "decimal" and not c.mask for c in columns) > _MOST_ELEMENTS:
        raise NoDigests(f"a row of {len(columns)} columns has more elements than PostgreSQL takes in one row")
    return f"hash_record_extended(ROW({', '.join(parts)}), 0)"


def build_digest_select(
    relation: str,
    key: Sequence[Digested],
    values: Sequence[Digested],
    *,
    selected: Sequence[str] = (),
    condition: str = "",
    within: BucketSelection | None = None,
) -> str:
    """Select a row per row: the key columns, and `_row`. The key's digest is not sent: it follows from the key.

    Args:
        relation: what stands behind FROM.
        key: empty for a relation without a key: buckets are then those of `_row`.
        values: the columns outside of the key.
        selected: the key columns' expressions in the types that they travel in, with their names.
        condition: what stands behind WHERE.
        within: only the rows of these buckets.
    """
    conditions = [condition] if condition else []
    if within is not None:
        wanted = ", ".join(map(str, within.wanted)) or "NULL"
        conditions.append(f"({build_row_digest(key or values)} & {within.count - 1}) IN ({wanted})")
    where = f"\nWHERE {' AND '.join(conditions)}" if conditions else ""
    return f"SELECT {', '.join([*selected, f'{build_row_digest(values)} AS _row'])}\nFROM {relation}{where}"


def build_bucket_select(
    relation: str, key: Sequence[Digested], values: Sequence[Digested], buckets: int, *, condition: str = ""
) -> str:
    """Select a row per bucket that is not empty: `bucket` (int8), `rows` (int8), `total` (numeric).

    `total` is the sum of hash_record_extended(ROW(int8send(_row)), _key), as signed numbers; it cannot overflow.
    """
    where = f"\nWHERE {condition}" if condition else ""
    rows = f"SELECT {build_row_digest(key)} AS _key, {build_row_digest(values)} AS _row\nFROM {relation}{where}"
    if not key:
        rows = f"SELECT {build_row_digest(values)} AS _row\nFROM {relation}{where}"
        rows = f"SELECT _row AS _key, _row\nFROM ({rows}\nOFFSET 0) AS _rows"
    # OFFSET 0 keeps the planner from computing a digest for each mention of it.
    return (
        f"SELECT _key & {buckets - 1} AS bucket, count(*) AS rows,"
        " sum(hash_record_extended(ROW(int8send(_row)), _key)) AS total\n"
        f"FROM ({rows}\nOFFSET 0) AS _digested\nGROUP BY 1"
    )
