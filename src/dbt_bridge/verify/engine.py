"""The private DuckDB that matches rows, and how it holds canonical values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import types as is_

from dbt_bridge.errors import MissingExtra

if TYPE_CHECKING:
    from dbt_bridge.verify.paired import Pair

_PLACES = 12  # texts may have more than the scale says, and a cast to fewer rounds
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
    if pair.tolerance is None:
        return apart
    return f"({apart} AND NOT coalesce({_near(pair, origin, destination)}, false))"


def _near(pair: Pair, origin: str, destination: str) -> str:
    tolerance = pair.tolerance
    assert tolerance is not None
    kind = pair.canon.kind
    wide = {"int": "HUGEINT", "float": "DOUBLE", "decimal": f"DECIMAL(38,{max(pair.canon.scale, _PLACES)})"}.get(
        kind, "HUGEINT"
    )
    one, other = (f"TRY_CAST({value} AS {wide})" for value in (origin, destination))
    if pair.canon.fine:
        one, other = (f"epoch_ns(TRY_CAST({value} AS TIMESTAMP_NS))" for value in (origin, destination))
    distance = f"TRY(abs({one} - {other}))"
    if tolerance.relative:
        return f"CAST({distance} AS DOUBLE) <= {float(tolerance.amount)!r} * abs(CAST({one} AS DOUBLE))"
    units = {"timestamp": _US_PER_SECOND * (1000 if pair.canon.fine else 1)}.get(kind, 1)
    if kind == "date":
        return f"{distance} * 86400 <= {tolerance.amount:f}"
    return f"{distance} <= {tolerance.amount * units:f}"
