"""What a column adds up to while its rows stream by: nulls, least, greatest, sum, and about how many values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from decimal import Context, Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types as is_

from dbt_bridge.contracts.canon import Canon
from dbt_bridge.errors import TypeRefused
from dbt_bridge.verify.canonical.buffers import to_storage
from dbt_bridge.verify.canonical.elements import REAL, to_canonical, to_text
from dbt_bridge.verify.canonical.row_digest import compute_digests
from dbt_bridge.verify.rows.engine_values import as_engine_values

_EXACT = Context(prec=160_000, traps=[])  # of a numeric: 131,072 digits before the point, 16,383 after it
_REGISTER_BITS = 12  # 4096 registers: the estimate is within 1.6% (1.04 / sqrt(4096)) as a rule
_WITHOUT_ORDER = ("json", "list", "interval")


@dataclass(slots=True)
class ColumnSums:
    """What one column of one side adds up to.

    Attributes:
        is_real: see `ColumnPair`.
        least, greatest: canonical, as the engine gets them; None where there is no value.
        total: exact for int and decimal; None where the column is no number, or has no value.
        magnitude: the sum of the absolute values of floats, which bounds what their order does to `total`.
        registers: of HyperLogLog (Flajolet et al. 2007), fed with digests: the same for the same values in any
            order.
    """

    canon: Canon
    is_real: bool = False
    rows: int = 0
    nulls: int = 0
    least: Any = None
    greatest: Any = None
    total: Any = None
    magnitude: float = 0.0
    registers: NDArray[np.int8] = field(default_factory=lambda: np.zeros(1 << _REGISTER_BITS, np.int8))

    def add(self, array: pa.Array) -> None:
        """Add the values of one batch, in the side's own type."""
        values = to_storage(array)
        self.rows += len(values)
        self.nulls += values.null_count
        values = values.drop_null()
        if not len(values):
            return
        self._add_distinct(values)
        if self.canon.kind == "decimal":
            self._add_decimals(values)
        elif self.canon.kind == "float":
            self._add_floats(to_canonical(values, self.canon).to_numpy())
        elif self.canon.kind not in _WITHOUT_ORDER:
            self._add_ordered(as_engine_values(to_canonical(values, self.canon)))

    @property
    def distinct(self) -> int:
        """About how many different values there are (HyperLogLog's estimate, and linear counting of few)."""
        registers = len(self.registers)
        empty = int((self.registers == 0).sum())
        estimate = 0.7213 / (1 + 1.079 / registers) * registers**2 / float(np.exp2(-self.registers.astype(float)).sum())
        if estimate <= 2.5 * registers and empty:
            estimate = registers * math.log(registers / empty)
        return round(estimate)

    def format_value(self, value: Any) -> str | None:
        """A least or greatest value as text."""
        if value is None:
            return None
        if isinstance(value, Decimal):
            is_short = value.is_finite() and int(value.as_tuple().exponent) > -self.canon.scale
            return f"{value.quantize(Decimal(1).scaleb(-self.canon.scale), context=_EXACT) if is_short else value:f}"
        if self.is_real:
            return str(to_text(pa.array([value], pa.float32()), REAL)[0].as_py())
        kind = self.canon.kind
        types = {"date": pa.int32(), "time": pa.int64(), "timestamp": pa.int64(), "uuid": pa.binary(16)}
        own = {"date": pa.date32(), "time": pa.time64("us"), "timestamp": pa.timestamp("us")}
        array = pa.array([value], None if self.canon.fine else types.get(kind))
        if kind in own and not self.canon.fine:
            array = array.view(own[kind])
        return str(to_text(array, self.canon)[0].as_py())

    def _add_distinct(self, values: pa.Array) -> None:
        if self.canon.kind == "json" or (self.canon.of is not None and self.canon.of.kind == "json"):
            hashed = compute_digests([to_canonical(values, self.canon)], [Canon("text")])
        else:
            hashed = compute_digests([values], [self.canon])
        # Digests of small numbers differ little in some bits: Fibonacci hashing spreads them.
        bits = hashed.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits ^= bits >> np.uint64(32)
        bits *= np.uint64(0xD6E8FEB86659FD93)
        rest_bits = 64 - _REGISTER_BITS
        _, length = np.frexp((bits & np.uint64((1 << rest_bits) - 1)).astype(np.float64))
        np.maximum.at(self.registers, bits >> np.uint64(rest_bits), (rest_bits + 1 - length).astype(np.int8))

    def _add_ordered(self, values: pa.Array) -> None:
        ends = pc.min_max(values)
        self._widen(ends["min"].as_py(), ends["max"].as_py())
        if self.canon.kind == "int":
            numbers = values.to_numpy()
            high, low = int((numbers >> 32).sum()), int((numbers & 0xFFFFFFFF).sum())
            self.total = (self.total or 0) + (high << 32) + low

    def _add_floats(self, values: NDArray[np.float64]) -> None:
        some = values[~np.isnan(values)]  # NaN is greater than every number, as in PostgreSQL
        least = float(some.min()) if len(some) else math.nan
        greatest = math.nan if len(some) < len(values) else float(some.max())
        self.least = least if self.least is None or math.isnan(self.least) else float(np.fmin(self.least, least))
        self.greatest = greatest if self.greatest is None else float(np.maximum(self.greatest, greatest))
        with np.errstate(all="ignore"):
            self.total = (self.total or 0.0) + float(values.sum())
            self.magnitude += float(np.abs(values).sum())

    def _add_decimals(self, values: pa.Array) -> None:
        if is_.is_decimal(values.type):
            ends = pc.min_max(values)
            least, greatest = ends["min"].as_py(), ends["max"].as_py()
            total = pc.sum(values.cast(pa.decimal256(76, values.type.scale))).as_py()
        else:
            numbers = [_parse_number(text) for text in to_canonical(values, self.canon).to_pylist()]
            ordered = [number for number in numbers if not number.is_nan()]
            nan = Decimal("NaN")
            least = min(ordered, default=nan)
            greatest = nan if len(ordered) < len(numbers) else max(ordered)
            total = Decimal(0)
            for number in numbers:
                total = _EXACT.add(total, number)
        self.total = total if self.total is None else _EXACT.add(self.total, total)
        self._widen(least, greatest)

    def _widen(self, least: Any, greatest: Any) -> None:
        if self.least is None or _is_less(least, self.least):
            self.least = least
        if self.greatest is None or _is_less(self.greatest, greatest):
            self.greatest = greatest


def _parse_number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:
        raise TypeRefused(
            f"{text[:80]!r} is no number, and what it is compared with is one",
            mend="compare rows, which are then told to differ, or the column through an expression",
        ) from None


def _is_less(one: Any, other: Any) -> bool:
    """Whether `one` is below `other`; NaN is above all, as in PostgreSQL."""
    if isinstance(one, Decimal) and isinstance(other, Decimal) and (one.is_nan() or other.is_nan()):
        return other.is_nan() and not one.is_nan()
    return bool(one < other)
