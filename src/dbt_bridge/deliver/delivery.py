"""One exposure's rows go out: from the warehouse's relation to a destination (reverse ETL)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from dbt_bridge.arrow.type_names import apply_overrides
from dbt_bridge.contracts.destination import Destination, Ledger, Load, Loaded
from dbt_bridge.contracts.outgoing import Outgoing, RemembersAppends
from dbt_bridge.deliver.appends import Appends
from dbt_bridge.deliver.digests import digest_relation
from dbt_bridge.deliver.gate import refuse_unknown_columns
from dbt_bridge.deliver.ledger import doubt_sent
from dbt_bridge.errors import BridgeError, DestinationError, TypeRefused, require_extra
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.observe.progress import Progress
from dbt_bridge.observe.watched_reader import report_batches
from dbt_bridge.project.destinations import open_destination, open_place
from dbt_bridge.replicate.loads import with_room
from dbt_bridge.system.owned_reader import make_reader, owning


def start_delivery(delivery: Delivery, load_id: str) -> Receipt:
    """The receipt of a delivery that begins now."""
    return record.start_receipt(
        load_id,
        "deliver",
        delivery.node,
        origin=str(delivery.relation),
        destination=delivery.destination,
        table_name=f"{delivery.schema}.{delivery.table}",
        write_disposition=delivery.write_disposition,
    )


def deliver_exposure(
    delivery: Delivery,
    warehouse: Ledger,
    root: Path,
    receipt: Receipt,
    progress: Progress,
    *,
    dry_run: bool,
    build_id: str = "",
) -> Receipt:
    """Deliver one relation. A failed receipt, never an exception, where the destination or the data refuse.

    Args:
        build_id: of what built the relation: an append of the same rows of the same build is sent once.
    """
    try:
        with closing(open_destination(delivery.destination, project_root=root)) as destination:
            place = open_place(warehouse, delivery.relation.database)
            planned = plan_load(delivery, place, destination, receipt.load_id)
            progress.started(delivery.node, f"{delivery.destination}: {receipt.table_name}", None)
            rows = _OpenRows(delivery, place, planned, progress)
            if delivery.deletes == "own":
                with require_extra("verify", "`deletes: own`"):
                    from dbt_bridge.deliver.own_rows import deliver_own
                counted = deliver_own(delivery, warehouse, destination, planned.load, rows.silent, dry_run=dry_run)
            elif delivery.write_disposition == "append":
                counted = _append_once(warehouse, destination, planned.load, rows, build_id, dry_run=dry_run)
            else:
                if not dry_run:
                    doubt_sent(warehouse, delivery, receipt.load_id)
                counted = rows.load(destination, planned.load, dry_run=dry_run)
            receipt = replace(receipt, note=format_note(counted.changes, planned.left_out))
            return record.finish_dry_run(receipt, counted) if dry_run else record.finish_receipt(receipt, counted)
    except BridgeError as error:
        return record.fail_receipt(receipt, error)


@dataclass(frozen=True, slots=True)
class _OpenRows:
    """The rows of a delivery, to be read more than once."""

    delivery: Delivery
    place: Ledger
    planned: PlannedLoad
    progress: Progress

    @contextmanager
    def silent(self) -> Iterator[pa.RecordBatchReader]:
        """As they travel."""
        table = self.planned.load.table
        columns = [column.name for column in table.columns]
        with owning(self.place.read(self.delivery.relation.name, columns, self.planned.as_text)) as rows:
            yield _cast(rows, table)

    def load(self, destination: Destination, load: Load, *, dry_run: bool) -> Loaded:
        def once() -> Loaded:
            with self.silent() as rows:
                batches = report_batches(rows, self.delivery.node, self.progress)
                return destination.preview(load, batches) if dry_run else destination.load(load, batches)

        return with_room(once)


_APPENDED_BEFORE = Loaded(
    0, 0, 0, 0, 0, ("this build was appended before, so nothing was sent; a new build is appended",)
)


def _append_once(
    warehouse: Ledger, destination: Destination, load: Load, rows: _OpenRows, build_id: str, *, dry_run: bool
) -> Loaded:
    """Append what the last append did not bring: the same rows of the same build arrive once, however often they are
    delivered. Whatever was killed in between is known to the destination, or is told as not known."""
    assert load.delivery is not None, "a delivery"
    token = with_room(lambda: digest_relation(load, rows.silent, build_id))
    delivery = replace(load.delivery, token=token)
    if isinstance(destination, RemembersAppends):
        if destination.has_arrived(load.table.name, delivery):
            return _APPENDED_BEFORE
        return rows.load(destination, replace(load, delivery=delivery), dry_run=dry_run)
    if dry_run:
        return rows.load(destination, load, dry_run=True)
    appends = Appends(warehouse, rows.delivery, delivery.token, load.load_id)
    is_there = destination.find_table(load.table.name) is not None
    sent = appends.append_once(lambda: rows.load(destination, load, dry_run=False), is_there=is_there)
    return _APPENDED_BEFORE if sent is None else sent


@dataclass(frozen=True, slots=True)
class PlannedLoad:
    """What a delivery asks of its destination.

    Attributes:
        as_text: columns that the destination can only keep as text.
        left_out: columns that the model has and `columns:` does not name.
    """

    load: Load
    as_text: tuple[str, ...]
    left_out: tuple[str, ...]


def plan_load(delivery: Delivery, place: Ledger, destination: Destination, load_id: str) -> PlannedLoad:
    """The load of a delivery.

    Args:
        place: the warehouse as it holds the relation's database.

    Raises:
        DestinationError: the relation is not in the warehouse.
        UsageError: a setting names a column that it does not have.
        TypeRefused: the destination has no exact form of a type.
    """
    relation = place.find_table(delivery.relation.name)
    if relation is None:
        raise DestinationError(f"{delivery.relation} is not in the warehouse", mend="dbt-bridge build")
    refuse_unknown_columns(delivery, [c.name for c in relation.columns])
    sent = [c for c in relation.columns if not delivery.columns or c.name in delivery.columns]
    natural = {c.name: c for c in sent}
    wanted = apply_overrides(Table(delivery.relation.name, tuple(sent)), delivery.types)
    landed = [destination.map_column(column) for column in wanted.columns]
    as_text = tuple(there.name for there in landed if _is_text(there) and not _is_text(natural[there.name]))
    table = Table(TableName(delivery.schema, delivery.table), tuple(landed), delivery.primary_key)
    load = Load(table, delivery.write_disposition, load_id, delivery=describe_outgoing(delivery))
    return PlannedLoad(load, as_text, tuple(c.name for c in relation.columns if c.name not in natural))


def describe_outgoing(delivery: Delivery) -> Outgoing:
    """What makes a load a delivery of this exposure."""
    return Outgoing(delivery.node.split(".")[1], delivery.node, str(delivery.relation), delivery.evolve)


def format_note(changes: Sequence[str], left_out: Sequence[str]) -> str | None:
    """What a receipt says of the table itself; None where there is nothing to say."""
    told = [*changes, *([f"left out: {', '.join(left_out)}"] if left_out else [])]
    return "; ".join(told) or None


def _is_text(column: Column) -> bool:
    return bool(pa.types.is_string(column.type) or pa.types.is_large_string(column.type))


def _cast(rows: pa.RecordBatchReader, table: Table) -> pa.RecordBatchReader:
    """The rows in the types that the destination asked for; refuses what would not survive."""
    schema = table.arrow_schema
    if rows.schema.equals(schema):
        return rows

    def casting() -> Iterator[pa.RecordBatch]:
        for batch in rows:
            arrays = [_cast_column(array, field, table) for array, field in zip(batch.columns, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return make_reader(schema, casting(), rows)


def _cast_column(array: pa.Array, field: pa.Field, table: Table) -> pa.Array:
    if array.type.equals(field.type):
        return array
    try:
        return array.cast(field.type, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TypeRefused(
            f"{table.name}, column {field.name!r}: {error}",
            mend=f"cast the column to a type that holds its values in the model that builds {table.name.name}",
        ) from error
