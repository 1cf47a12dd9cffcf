"""What a comparison found: the result that is printed, kept in `_dbt_bridge.parity`, gated on and repaired from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pyarrow as pa

    from dbt_bridge.nouns.parity_row import ParityRow
    from dbt_bridge.nouns.receipt import Receipt

Level = Literal["counts", "aggregates", "rows"]
LEVELS: tuple[Level, ...] = ("counts", "aggregates", "rows")
Method = Literal["auto", "digests", "buckets", "values"]
METHODS: tuple[Method, ...] = ("auto", "digests", "buckets", "values")
Status = Literal["equal", "different", "failed"]
Kind = Literal["only_in_origin", "only_in_destination", "different", "duplicate"]
"""duplicate: a key that has several rows at a side; `Difference.rows` says how many."""


LANDED, DELIVERED = ("origin", "destination"), ("model", "destination")  # what two sides are called


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not the same on both sides.

    Attributes:
        key: column -> value as text; empty for a table without a key, whose whole row is then in `origin` or
            `destination`.
        columns: those that differ.
        origin, destination: their values as text; None for NULL. Masked columns are in `columns` and not here.
        rows: (at the origin, at the destination) with this key, or of this whole row.
    """

    kind: Kind
    key: Mapping[str, str | None]
    columns: tuple[str, ...] = ()
    origin: Mapping[str, str | None] = field(default_factory=dict)
    destination: Mapping[str, str | None] = field(default_factory=dict)
    rows: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class Aggregate:
    """One aggregate of one column (or of the rows, where `column` is empty) on both sides.

    Attributes:
        what: `count`, `nulls`, `min`, `max`, `sum`, `distinct` (an estimate, made alike on both sides), or a metric's
            own name.
        origin, destination: as text; None for NULL.
        variance: (destination - origin) / |origin|; None where they are no numbers, or the origin's is 0.
        tolerance: the allowed one as it was declared (`0.01%`, `5`); empty for none.
    """

    column: str
    what: str
    origin: str | None
    destination: str | None
    same: bool
    variance: float | None = None
    tolerance: str = ""


@dataclass(frozen=True, slots=True)
class Parity:
    """What the comparison of two relations found.

    Attributes:
        load_id: of the run.
        node: dbt's unique_id of the source table, exposure or model.
        origin, destination: for people: `shop_pg: shop.orders`, `duckdb: shop_landing.orders`.
        words: what the two sides are called in reports: `LANDED`, `DELIVERED` or (legacy, new).
        method: how rows were compared, and `why` that way; empty for the other levels.
        at: the state that was compared: `LSN 0/16B3748`, `now`, `updated_at <= 2026-11-21 ...`.
        is_bounded: the latter: rows up to a value of the cursor.
        rows_origin, rows_destination: how many each side has; None where the comparison did not get so far.
        only_in_origin, only_in_destination, different, duplicates: rows (keys) of each kind; None at other levels.
        allowed: rows that are only in the destination and may be, as the write disposition never deletes; they are
            not in `only_in_destination`.
        in_flight: rows that the bound left out.
        columns: column -> in how many rows it differs.
        examples: some of the differences, those of every kind first.
        keys: all keys that differ, for `repair`: the key columns (all columns for a table without a key), `_kind`,
            `_origin_rows` and `_destination_rows` (int64); None where nothing differs or rows were not compared.
        bytes: read over the wires, as Arrow or the driver counts them.
        error: why it could not be compared (status failed).
        without: columns of the origin that do not land, and so were not compared, and why; None for none.
    """

    load_id: str
    node: str
    origin: str
    destination: str
    level: Level
    status: Status
    at: str
    started_at: datetime
    finished_at: datetime
    duration_seconds: float
    method: str = ""
    why: str = ""
    rows_origin: int | None = None
    rows_destination: int | None = None
    only_in_origin: int | None = None
    only_in_destination: int | None = None
    different: int | None = None
    duplicates: int | None = None
    allowed: int = 0
    in_flight: int = 0
    bytes: int | None = None
    error: str | None = None
    without: str | None = None
    is_bounded: bool = False
    words: tuple[str, str] = LANDED
    key: tuple[str, ...] = ()
    columns: Mapping[str, int] = field(default_factory=dict)
    aggregates: tuple[Aggregate, ...] = ()
    examples: tuple[Difference, ...] = ()
    keys: pa.Table | None = field(default=None, repr=False, compare=False)

    @property
    def is_equal(self) -> bool:
        return self.status == "equal"

    @property
    def differences(self) -> int | None:
        """Rows that differ in any way; None where rows were not compared."""
        kinds = (self.only_in_origin, self.only_in_destination, self.different, self.duplicates)
        return None if any(count is None for count in kinds) else sum(count or 0 for count in kinds)

    @property
    def matching(self) -> int | None:
        """Rows of the origin that are the same in the destination; None where it does not follow from the counts."""
        if self.level != "rows" or self.status == "failed" or self.duplicates or self.in_flight:
            return None
        if self.rows_origin is None or self.only_in_origin is None or self.different is None:
            return None
        return self.rows_origin - self.only_in_origin - self.different

    def as_json(self) -> dict[str, Any]:
        """JSON values only: the fields without `keys` and `is_bounded`, `differences` and `matching`."""
        given = asdict(replace(self, keys=None))
        del given["keys"], given["is_bounded"]
        for aggregate in given["aggregates"]:
            aggregate["variance"] = _finite(aggregate["variance"])
        given = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in given.items()}
        return {**given, "differences": self.differences, "matching": self.matching}

    def as_row(self) -> ParityRow:
        """The row of `_dbt_bridge.parity`, which holds no value of a compared row."""
        from dbt_bridge.nouns.parity_row import ParityRow

        apart = [a for a in self.aggregates if not a.same]
        told: dict[str, Any] = {
            "state": self.at,
            "columns": json.dumps(dict(self.columns)),
            "aggregates": json.dumps(
                [{"column": a.column, "what": a.what, "variance": _finite(a.variance)} for a in apart]
            ),
            "error": self.error and self.error.replace("\0", ""),  # which Postgres has in no text
        }
        own = {f.name: getattr(self, f.name) for f in fields(ParityRow) if f.name not in told}
        return ParityRow(**own, **told)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM while tables were compared or repaired.

    Attributes:
        parities: what had been compared before it.
        receipts: of what had been repaired before it.
    """

    def __init__(self, parities: Sequence[Parity], receipts: Sequence[Receipt] = ()) -> None:
        super().__init__()
        self.parities = tuple(parities)
        self.receipts = tuple(receipts)


def of_every_kind(differences: Iterable[Difference], most: int) -> tuple[Difference, ...]:
    """Some of every kind, kind by kind; one kind has more where another has few."""
    kinds: dict[Kind, list[Difference]] = {}
    for difference in differences:
        kinds.setdefault(difference.kind, []).append(difference)
    left, quota = most, dict.fromkeys(kinds, 0)
    while left > 0 and (open_ := [kind for kind in kinds if quota[kind] < len(kinds[kind])]):
        for kind in open_[:left]:
            quota[kind] += 1
        left -= len(open_[:left])
    return tuple(difference for kind, all_ in kinds.items() for difference in all_[: quota[kind]])


def _finite(number: float | None) -> float | None:
    """JSON has no infinity and no NaN."""
    return number if number is not None and math.isfinite(number) else None
