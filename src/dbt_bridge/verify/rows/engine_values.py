"""Canonical values in the private DuckDB, and the SQL by which two of them differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.nouns.both import Both

if TYPE_CHECKING:
    from dbt_bridge.verify.request import Tolerance
    from dbt_bridge.verify.rows.column_pairs import ColumnPair

_PLACES = 12  # texts may have more digits than the scale says, and a cast to fewer rounds
_UP = 1 + 4 * 2.0**-53  # 0.29 * 100 is 28.999999999999996: what is just within a share stays so
_ROUNDED = 2.0**-51  # of two doubles and their distance, at most
_US_PER_SECOND = 1_000_000


def as_engine_values(array: pa.Array) -> pa.Array:
    """Canonical values as the engine gets them: those that are equal stay equal, others differ.

    Moments become plain numbers, as DuckDB has its own idea of infinity.
    """
    if is_.is_timestamp(array.type) or is_.is_time64(array.type):
        return array.view(pa.int64())
    return array.view(pa.int32()) if is_.is_date32(array.type) else array


def differ_condition(pair: ColumnPair, values: Both[str]) -> str:
    """A SQL condition, never NULL: two values of this column differ, by more than is tolerated.

    Args:
        values: a SQL expression for each side's value.
    """
    differ = f"{values.origin} IS DISTINCT FROM {values.destination}"
    if pair.tolerance is None or not pair.tolerance.amount:
        return differ
    return f"({differ} AND NOT coalesce({_near(pair, pair.tolerance, values)}, false))"


def _near(pair: ColumnPair, tolerance: Tolerance, values: Both[str]) -> str:
    kind = pair.canon.kind
    if kind == "decimal":
        return _near_decimals(tolerance, min(max(pair.canon.scale, _PLACES), 38), values)
    wide = "DOUBLE" if kind == "float" else "HUGEINT"
    numbers = values.map(lambda value: f"TRY_CAST({value} AS {wide})")
    if pair.canon.fine:
        numbers = values.map(lambda value: f"epoch_ns(TRY_CAST({value} AS TIMESTAMP_NS))")
    distance = f"TRY(abs({numbers.origin} - {numbers.destination}))"
    if tolerance.relative:
        return _within_share(tolerance, distance, numbers.origin)
    units = {"timestamp": _US_PER_SECOND * (1000 if pair.canon.fine else 1)}.get(kind, 1)
    if kind == "date":
        distance = f"{distance} * 86400"
    return f"TRY({distance} <= {tolerance.amount * units:f})"  # a literal with many digits leaves no room for others


def _near_decimals(tolerance: Tolerance, places: int, texts: Both[str]) -> str:
    """Exact in 38 digits; numbers of more digits are compared as doubles, less what these may have rounded."""
    decimals = texts.map(lambda text: f"TRY_CAST({text} AS DECIMAL(38,{places}))")
    longest = " OR ".join(f"length(split_part({text}, '.', 2)) > {places}" for text in texts)
    rounded = f"CAST(CASE WHEN {longest} THEN 1e-{places} ELSE 0 END AS DECIMAL(38,{places}))"
    exact = f"abs({decimals.origin} - {decimals.destination}) + {rounded}"
    doubles = texts.map(lambda text: f"TRY_CAST({text} AS DOUBLE)")
    one, other = doubles
    rough = f"abs({one} - {other}) + (abs({one}) + abs({other})) * {_ROUNDED!r}"
    if tolerance.relative:
        within = [_within_share(tolerance, distance, one) for distance in (exact, rough)]
    else:
        within = [f"{distance} <= {tolerance.amount:f}" for distance in (exact, rough)]
    return f"coalesce(TRY({within[0]}), isfinite({one}) AND isfinite({other}) AND {within[1]})"


def _within_share(tolerance: Tolerance, distance: str, of: str) -> str:
    """Nothing is near infinity or NaN: every share of them is infinite or NaN itself (NaN <= NaN in DuckDB)."""
    allowed = f"{float(tolerance.amount)!r} * abs(CAST({of} AS DOUBLE)) * {_UP!r}"
    return f"isfinite(CAST({distance} AS DOUBLE)) AND CAST({distance} AS DOUBLE) <= {allowed}"
