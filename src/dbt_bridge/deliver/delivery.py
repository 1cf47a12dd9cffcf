"""One exposure's rows go out: from the warehouse's relation to a destination (reverse ETL)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa

from dbt_bridge.contracts.destination import Destination, Ledger, Load
from dbt_bridge.deliver.gate import refuse_unknown_columns
from dbt_bridge.errors import BridgeError, DestinationError, TypeRefused
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.observe.progress import Progress
from dbt_bridge.observe.watched_reader import report_batches
from dbt_bridge.project.destinations import open_destination, open_place
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
    delivery: Delivery, warehouse: Ledger, root: Path, receipt: Receipt, progress: Progress, *, dry_run: bool
) -> Receipt:
    """Deliver one relation. A failed receipt, never an exception, where the destination or the data refuse."""
    try:
        with closing(open_destination(delivery.destination, project_root=root)) as destination:
            place = open_place(warehouse, delivery.relation.database)
            load, as_text = plan_load(delivery, place, destination, receipt.load_id)
            progress.started(delivery.node, f"{delivery.destination}: {receipt.table_name}", None)
            with owning(place.read(delivery.relation.name, [c.name for c in load.table.columns], as_text)) as rows:
                batches = report_batches(_cast(rows, load.table), delivery.node, progress)
                if dry_run:
                    return record.finish_dry_run(receipt, destination.preview(load, batches))
                return record.finish_receipt(receipt, destination.load(load, batches))
    except BridgeError as error:
        return record.fail_receipt(receipt, error)


def plan_load(delivery: Delivery, place: Ledger, destination: Destination, load_id: str) -> tuple[Load, list[str]]:
    """The load, and the columns that the destination can only keep as text.

    Args:
        place: the warehouse as it holds the relation's database.
    """
    relation = place.find_table(delivery.relation.name)
    if relation is None:
        raise DestinationError(f"{delivery.relation} is not in the warehouse", mend="dbt-bridge build")
    refuse_unknown_columns(delivery, [c.name for c in relation.columns])
    natural = [c for c in relation.columns if not delivery.columns or c.name in delivery.columns]
    landed = [destination.map_column(column) for column in natural]
    as_text = [
        column.name for column, there in zip(natural, landed, strict=True) if _is_text(there) and not _is_text(column)
    ]
    table = Table(TableName(delivery.schema, delivery.table), tuple(landed), delivery.primary_key)
    return Load(table, delivery.write_disposition, load_id), as_text


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
