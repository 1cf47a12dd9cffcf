"""The private DuckDB that matches rows, and how it holds canonical values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.errors import MissingExtra

if TYPE_CHECKING:
    from dbt_bridge.verify.paired import Pair

_PLACES = 12  # texts may have more than the scale says, and a cast to fewer rounds
_UP = 1 + 4 * 2.0**-53  # 0.29 * 100 is 28.999999999999996: what is just within a share stays so
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


def differ(pair: Pair, origin: str, destination: str) -> str:
    """A SQL condition, never NULL: two values (expressions) of this column are apart, further than is tolerated."""
    apart = f"{origin} IS DISTINCT FROM {destination}"
    if pair.tolerance is None or not pair.tolerance.amount:
        return apart
    return f"({apart} AND NOT coalesce({_near(pair, origin, destination)}, false))"


def _near(pair: Pair, origin: str, destination: str) -> str:
    tolerance = pair.tolerance
    assert tolerance is not None
    kind = pair.canon.kind
    places = max(pair.canon.scale, _PLACES)
    wide = {"float": "DOUBLE", "decimal": f"DECIMAL(38,{places})"}.get(kind, "HUGEINT")
    one, other = (f"TRY_CAST({value} AS {wide})" for value in (origin, destination))
    if pair.canon.fine:
        one, other = (f"epoch_ns(TRY_CAST({value} AS TIMESTAMP_NS))" for value in (origin, destination))
    distance = f"TRY(abs({one} - {other}))"
    if kind == "decimal":  # what the casts may have rounded counts as apart
        longest = " OR ".join(f"length(split_part({value}, '.', 2)) > {places}" for value in (origin, destination))
        distance = f"{distance} + CASE WHEN {longest} THEN 1e-{places}::DECIMAL(38,{places}) ELSE 0 END"
    if tolerance.relative:
        # Nothing is near infinity or NaN, of which every share is itself (NaN <= NaN in DuckDB).
        allowed = f"{float(tolerance.amount)!r} * abs(CAST({one} AS DOUBLE)) * {_UP!r}"
        return f"isfinite(CAST({distance} AS DOUBLE)) AND CAST({distance} AS DOUBLE) <= {allowed}"
    units = {"timestamp": _US_PER_SECOND * (1000 if pair.canon.fine else 1)}.get(kind, 1)
    if kind == "date":
        return f"{distance} * 86400 <= {tolerance.amount:f}"
    return f"{distance} <= {tolerance.amount * units:f}"
