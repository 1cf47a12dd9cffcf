"""The private DuckDB that matches rows, and how it holds canonical values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.errors import MissingExtra

if TYPE_CHECKING:
    from dbt_bridge.verify.request import Tolerance
    from dbt_bridge.verify.rows.column_pairs import ColumnPair

_PLACES = 12  # texts may have more than the scale says, and a cast to fewer rounds
_UP = 1 + 4 * 2.0**-53  # 0.29 * 100 is 28.999999999999996: what is just within a share stays so
_ROUNDED = 2.0**-51  # of two doubles and their distance, at most
_LEAST_MB = 64  # below it DuckDB cannot work at all
_US_PER_SECOND, _US_PER_DAY = 1_000_000, 86_400_000_000


def connect(memory_mb: int, folder: str) -> Any:
    """A DuckDB in memory, of this comparison alone."""
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "comparing rows") from error
    settings: dict[str, Any] = {
        "memory_limit": f"{max(memory_mb, _LEAST_MB)}MB",
        "threads": "2",
        "temp_directory": folder,
        "preserve_insertion_order": "false",
        "autoinstall_known_extensions": "false",
    }
    return duckdb.connect(":memory:", config=settings)


def engine_errors() -> type[Exception]:
    """What the engine raises; it is installed where one was connected."""
    import duckdb

    return duckdb.Error


def held(array: pa.Array) -> pa.Array:
    """Canonical values as the engine holds them: those that are equal stay equal, others differ.

    Moments are plain numbers, for the engine has its own idea of infinity.
    """
    if is_.is_timestamp(array.type) or is_.is_time64(array.type):
        return array.view(pa.int64())
    return array.view(pa.int32()) if is_.is_date32(array.type) else array


def differ(pair: ColumnPair, origin: str, destination: str) -> str:
    """A SQL condition, never NULL: two values (expressions) of this column are apart, further than is tolerated."""
    apart = f"{origin} IS DISTINCT FROM {destination}"
    if pair.tolerance is None or not pair.tolerance.amount:
        return apart
    return f"({apart} AND NOT coalesce({_near(pair, origin, destination)}, false))"


def _near(pair: ColumnPair, origin: str, destination: str) -> str:
    tolerance = pair.tolerance
    assert tolerance is not None
    kind = pair.canon.kind
    if kind == "decimal":
        return _near_decimals(tolerance, min(max(pair.canon.scale, _PLACES), 38), (origin, destination))
    wide = "DOUBLE" if kind == "float" else "HUGEINT"
    one, other = (f"TRY_CAST({value} AS {wide})" for value in (origin, destination))
    if pair.canon.fine:
        one, other = (f"epoch_ns(TRY_CAST({value} AS TIMESTAMP_NS))" for value in (origin, destination))
    distance = f"TRY(abs({one} - {other}))"
    if tolerance.relative:
        return _within_share(tolerance, distance, one)
    units = {"timestamp": _US_PER_SECOND * (1000 if pair.canon.fine else 1)}.get(kind, 1)
    if kind == "date":
        distance = f"{distance} * 86400"
    return f"TRY({distance} <= {tolerance.amount * units:f})"  # a literal with many digits leaves no room for others


def _near_decimals(tolerance: Tolerance, places: int, texts: tuple[str, str]) -> str:
    """Exactly in 38 digits; numbers of more as doubles, less what these may have rounded."""
    one, other = (f"TRY_CAST({text} AS DECIMAL(38,{places}))" for text in texts)
    longest = " OR ".join(f"length(split_part({text}, '.', 2)) > {places}" for text in texts)
    rounded = f"CAST(CASE WHEN {longest} THEN 1e-{places} ELSE 0 END AS DECIMAL(38,{places}))"
    exact = f"abs({one} - {other}) + {rounded}"
    rough_one, rough_other = (f"TRY_CAST({text} AS DOUBLE)" for text in texts)
    rough = f"abs({rough_one} - {rough_other}) + (abs({rough_one}) + abs({rough_other})) * {_ROUNDED!r}"
    if tolerance.relative:
        within = [_within_share(tolerance, distance, rough_one) for distance in (exact, rough)]
    else:
        within = [f"{distance} <= {tolerance.amount:f}" for distance in (exact, rough)]
    return f"coalesce(TRY({within[0]}), isfinite({rough_one}) AND isfinite({rough_other}) AND {within[1]})"


def _within_share(tolerance: Tolerance, distance: str, of: str) -> str:
    """Nothing is near infinity or NaN, of which every share is itself (NaN <= NaN in DuckDB)."""
    allowed = f"{float(tolerance.amount)!r} * abs(CAST({of} AS DOUBLE)) * {_UP!r}"
    return f"isfinite(CAST({distance} AS DOUBLE)) AND CAST({distance} AS DOUBLE) <= {allowed}"
