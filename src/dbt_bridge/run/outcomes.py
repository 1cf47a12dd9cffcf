"""What each call came to: receipts of what moved, parities of what was compared."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_bridge.nouns import parity_row, receipt
from dbt_bridge.nouns.outcome import Outcome, Tabular, rows_to_arrow
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.receipt import Receipt

if TYPE_CHECKING:
    from dbt_bridge.cdc.slots import SlotReport
    from dbt_bridge.project.invoke import BuildResult
    from dbt_bridge.prove.repair import Repaired


class Receipts(Tabular, tuple[Receipt, ...]):
    """Receipts in the order in which their hops ended."""

    __slots__ = ()

    def to_arrow(self) -> pa.Table:
        """Rows as in `_dbt_bridge.receipts`."""
        return receipt.as_arrow(self)


class Parities(Tabular, tuple[Parity, ...]):
    """Comparisons in the order in which they ended."""

    __slots__ = ()

    def to_arrow(self) -> pa.Table:
        """Rows as in `_dbt_bridge.parity`, which hold no value of a compared row; `parity.examples` has some."""
        return parity_row.as_arrow([parity.as_row() for parity in self])


_NONE = Parities()


@dataclass(frozen=True, slots=True)
class SyncOutcome(Outcome):
    """What landed."""

    receipts: Receipts

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(_list_failed(self.receipts, but=("success",)))

    def as_document(self) -> dict[str, Any]:
        return self._make_document(receipts=[r.as_json() for r in self.receipts])

    def to_arrow(self) -> pa.Table:
        """The receipts, as in `_dbt_bridge.receipts`."""
        return self.receipts.to_arrow()


@dataclass(frozen=True, slots=True)
class DeliverOutcome(Outcome):
    """What was delivered.

    Attributes:
        parities: of the models that are required to reconcile before anything is delivered on them.
    """

    receipts: Receipts
    parities: Parities = _NONE

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(_list_failed(self.receipts, but=("success",)))

    def as_document(self) -> dict[str, Any]:
        return self._make_document(receipts=[r.as_json() for r in self.receipts], **_parity_part(self.parities))

    def to_arrow(self) -> pa.Table:
        """The receipts, as in `_dbt_bridge.receipts`."""
        return self.receipts.to_arrow()


@dataclass(frozen=True, slots=True)
class BuildOutcome(Outcome):
    """What landed, was built, compared and delivered.

    Attributes:
        parities: of what was compared: with `verify`, and of the models that are required to reconcile.
        dbt: what `dbt build` said of itself and of each node; None when dbt did not run.
    """

    receipts: Receipts
    parities: Parities = _NONE
    dbt: BuildResult | None = None

    @property
    def dbt_ok(self) -> bool | None:
        """None when dbt did not run."""
        return None if self.dbt is None else self.dbt.success

    @property
    def problems(self) -> tuple[str, ...]:
        """A delivery whose ancestors were not all selected is skipped, and that is no failure. What `--empty` and
        `--sample`, which come from dbt's environment, hold back was meant to be delivered.
        """
        partial = self.dbt is not None and bool(self.dbt.partial)
        problems = list(_list_failed(self.receipts, but=("success",) if partial else ("success", "skipped")))
        if self.dbt is not None and not self.dbt.success:
            problems.append(f"dbt build: {self.dbt.error or 'not every node and test passed'}")
        return (*problems, *_list_unequal(self.parities))

    def as_document(self) -> dict[str, Any]:
        receipts = [r.as_json() for r in self.receipts]
        return self._make_document(receipts=receipts, dbt=_dbt_as_json(self.dbt), **_parity_part(self.parities))

    def to_arrow(self) -> pa.Table:
        """The receipts, as in `_dbt_bridge.receipts`."""
        return self.receipts.to_arrow()


@dataclass(frozen=True, slots=True)
class CompareOutcome(Outcome):
    """What `verify` or `reconcile` compared; never nothing, as a gate that compared nothing must not pass.

    Attributes:
        project: the dbt project's name.
    """

    project: str
    parities: Parities

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(_list_unequal(self.parities))

    def as_document(self) -> dict[str, Any]:
        return self._make_document(parity=[p.as_json() for p in self.parities])

    def to_arrow(self) -> pa.Table:
        """The comparisons, as in `_dbt_bridge.parity`."""
        return self.parities.to_arrow()


@dataclass(frozen=True, slots=True)
class RepairOutcome(Outcome):
    """What was compared, repaired, and compared again."""

    repaired: Repaired

    @property
    def parities(self) -> Parities:
        """Of every selected table, as it is now."""
        return Parities(self.repaired.parities)

    @property
    def before(self) -> Mapping[str, Parity]:
        """dbt's unique_id -> how it was, where it differed."""
        return self.repaired.before

    @property
    def receipts(self) -> Receipts:
        """Of what was written; after a dry run, of what would have been."""
        return Receipts(self.repaired.receipts)

    @property
    def problems(self) -> tuple[str, ...]:
        return () if self.repaired.ok else tuple(_list_unequal(self.parities))

    def as_document(self) -> dict[str, Any]:
        return self._make_document(
            parity=[parity.as_json() for parity in self.parities],
            before=[parity.as_json() for parity in self.before.values()],
            receipts=[receipt.as_json() for receipt in self.receipts],
        )

    def to_arrow(self) -> pa.Table:
        """The comparisons as they are now, as in `_dbt_bridge.parity`; `receipts.to_arrow()` has what was done."""
        return self.parities.to_arrow()


@dataclass(frozen=True, slots=True)
class StreamOutcome:
    """What came between the start of a stream and its end, which was asked for: everything else raises.

    Attributes:
        batches: commits that brought changes.
        changes: inserts, updates, deletes and truncates of the origin in them.
    """

    batches: int
    changes: int


class SlotReports(Outcome, tuple["SlotReport", ...]):
    """How the replication slots of the cdc sources stand, one report for each source."""

    __slots__ = ()

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(_with_source(report) for report in self if report.is_fault)

    def as_document(self) -> dict[str, Any]:
        return self._make_document(slots=[report.as_json() for report in self])

    def to_arrow(self) -> pa.Table:
        """A row for each source, with the fields of its report."""
        from dbt_bridge.cdc.slots import SlotReport

        numbers = dict.fromkeys(("active_pid", "lag_bytes", "retained_bytes", "max_wal"), pa.int64())
        types = {**numbers, "active": pa.bool_(), "lag_seconds": pa.float64()}
        return rows_to_arrow(SlotReport, self, types)


def _with_source(report: SlotReport) -> str:
    said = f"{report.source}: {report.problem}" if report.source else report.problem
    return f"{said}\n  -> {report.mend}"


def _list_failed(receipts: Receipts, but: Container[str]) -> Iterator[str]:
    return (f"{r.table_name}: {r.error or r.status}" for r in receipts if r.status not in but)


def _list_unequal(parities: Iterable[Parity]) -> Iterator[str]:
    return (f"{p.destination}: {p.error or p.status}" for p in parities if not p.is_equal)


def _parity_part(parities: Parities) -> dict[str, Any]:
    """That part of a document which only a run that compared something has."""
    return {"parity": [parity.as_json() for parity in parities]} if parities else {}


def _dbt_as_json(built: BuildResult | None) -> dict[str, Any] | None:
    if built is None:
        return None
    nodes = [
        {"unique_id": n.unique_id, "status": n.status, "message": n.message, "seconds": n.seconds} for n in built.nodes
    ]
    return {"success": built.success, "error": built.error, "nodes": nodes}
