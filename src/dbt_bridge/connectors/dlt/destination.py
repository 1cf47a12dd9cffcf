"""Every destination without a loader of its own is loaded by dlt.

Names are kept as they are
(see `naming`). dlt adds its own tables `_dlt_loads`, `_dlt_version` and `_dlt_pipeline_state` to the dataset,
and a dataset `<name>_staging` where it stages rows.

    replace   through dlt's staging dataset where the destination has one, so that a killed load leaves the old rows;
              columns of before that the new rows lack stay, NULL
    append    with a window it is refused: dlt cannot delete and append in one transaction
    merge     dlt's delete-insert, or upsert where the destination has only that. The new rows are held in memory, to
              keep the last one of each key; columns that they lack become NULL in the rows that they replace

A table that stands is never altered by a delivery, also one that a delivery made: dlt has no place for a mark. With
`evolve: true` it gets the columns that it lacks.

What lands as text is in `arrow/file_types.py`; here lists, structs and maps do too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_bridge.arrow.counted_reader import CountedReader
from dbt_bridge.arrow.file_types import build_schema, cast_batch, fit_schema, map_column
from dbt_bridge.connectors.dlt.session import DltSession
from dbt_bridge.connectors.dlt.state import DltState
from dbt_bridge.contracts.destination import Load, Loaded
from dbt_bridge.contracts.outgoing import CREATED, describe_added
from dbt_bridge.errors import DestinationError, TypeRefused, UsageError
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.replicate.fit_standing import cast_standing, fit_standing
from dbt_bridge.replicate.loads import check_load, last_per_key
from dbt_bridge.system.retry import DLT_SCHEMA, retry

if TYPE_CHECKING:
    import dlt


class DltDestination:
    """A `Destination` over any dlt destination.

    Args:
        destination: what `dlt.destinations.snowflake(...)` and its like return.
    """

    def __init__(self, name: str, destination: Any) -> None:
        self.name = name
        self.session = DltSession(name, destination)

    def close(self) -> None:
        """Nothing is held open between loads."""

    def map_column(self, column: Column) -> Column:
        """See `arrow/file_types.py`; nested values land as text."""
        there = map_column(column)
        return replace(there, type=pa.string()) if pa.types.is_nested(there.type) else there

    def find_table(self, name: TableName, known: Iterable[str] = ()) -> Table | None:
        """See `DltSession.find_table`."""
        return self.session.find_table(name, known)

    def load(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """Load one table.

        Raises:
            UsageError, KeyRefused, TypeRefused: before anything is written.
            DestinationError: the destination refused or broke off.
        """
        self._check(load)
        name = load.table.name
        with self.session.pipeline(name) as pipeline:
            there = self.session.existing_in(pipeline, name, load.table.arrow_schema.names)
            passing = _passing(load, batches, there)
            rows = passing.reader()
            distinct = None
            if load.keeps_last:
                kept = last_per_key(load, rows.read_all())
                distinct, rows = len(kept), kept.to_reader()
            before = 0 if there is None else self.session.count(pipeline, name)
            self._run(pipeline, load, rows, passing)
            after = self.session.count(pipeline, name)
        return replace(_count_loaded(load, passing, distinct, before, after), changes=_changes(load, there))

    def preview(self, load: Load, batches: pa.RecordBatchReader) -> Loaded:
        """What `load` would do; for a merge the keys of the standing table are read."""
        self._check(load)
        name = load.table.name
        with self.session.pipeline(name) as pipeline:
            there = self.session.existing_in(pipeline, name, load.table.arrow_schema.names)
            passing = _passing(load, batches, there)
            if load.write_disposition == "merge":
                rows = last_per_key(load, passing.reader().read_all())
                updated = 0 if there is None else self._matching(pipeline, load, rows)
                inserted = None if updated is None else len(rows) - updated
                return Loaded(passing.rows, inserted, updated, 0, passing.bytes, _changes(load, there))
            for _ in passing.reader():
                pass
            replaces = load.write_disposition == "replace" and there is not None
            deleted = self.session.count(pipeline, name) if replaces else 0
            return Loaded(passing.rows, passing.rows, 0, deleted, passing.bytes, _changes(load, there))

    @contextmanager
    def open_state(self) -> Iterator[DltState]:
        """See `state`.

        Raises:
            DestinationError: dlt has no SQL client for this destination.
        """
        from dlt.destinations.job_client_impl import SqlJobClientBase

        if not issubclass(self.session.destination.client_class, SqlJobClientBase):
            raise DestinationError(
                f"dlt cannot read from {self.name!r}, so its rows cannot be compared",
                mend="leave this table out: --exclude; or land it where SQL can ask for it",
            )
        yield DltState(self.session)

    # --- inside ------------------------------------------------------------------------------------------------

    def _check(self, load: Load) -> None:
        from dbt_bridge.connectors.dlt.naming import check_distinct, sameness_of

        check_load(load)
        check_distinct(load.table.arrow_schema.names, sameness_of(self.session.destination), load.table.name)
        if load.window is not None:
            raise UsageError(
                f"{load.table.name}: an incremental append into {self.name!r} cannot delete and append at once",
                mend="write_disposition: merge with a primary key, or replication: initial_copy",
            )

    def _run(self, pipeline: dlt.Pipeline, load: Load, rows: pa.RecordBatchReader, passing: CountedReader) -> None:
        import dlt

        with self.session.translate_errors(load.table.name, passing):
            first = next((batch for batch in rows if batch.num_rows), None)

        def batches() -> Iterator[Any]:
            yield rows.schema.empty_table() if first is None else pa.Table.from_batches([first])
            for batch in rows:
                if batch.num_rows:
                    yield pa.Table.from_batches([batch])

        key: Any = list(load.table.key) if load.write_disposition == "merge" else None
        resource = dlt.resource(
            batches,
            name="rows",
            table_name=load.table.name.name,
            write_disposition=self._disposition(load),
            primary_key=key,
            columns=_hints(rows.schema),
        )
        with self.session.translate_errors(load.table.name, passing):
            _run_to_end(pipeline, resource, self._format(empty=first is None)).raise_on_failed_jobs()

    def _disposition(self, load: Load) -> Any:
        abilities = self.session.capabilities()
        if load.write_disposition == "replace":
            staged = "insert-from-staging" in (abilities.supported_replace_strategies or ())
            return {"disposition": "replace", "strategy": "insert-from-staging" if staged else "truncate-and-insert"}
        if load.write_disposition == "merge":
            strategies = abilities.supported_merge_strategies or ()
            wanted = next((s for s in ("delete-insert", "upsert") if s in strategies), None)
            if wanted is None:
                raise UsageError(f"dlt cannot merge into {self.name!r}", mend="write_disposition: replace or append")
            return {"disposition": "merge", "strategy": wanted}
        return "append"

    def _format(self, *, empty: bool) -> Any:
        formats = self.session.capabilities().supported_loader_file_formats or ()
        if empty and "insert_values" in formats:  # dlt 1.31's ADBC loaders fail on an empty parquet file
            return "insert_values"
        return "parquet" if "parquet" in formats else None

    def _matching(self, pipeline: dlt.Pipeline, load: Load, rows: pa.Table) -> int | None:
        keys = rows.select(list(load.table.key))
        wanted = {tuple(row.values()) for row in keys.to_pylist()}
        found = self.session.select(pipeline, load.table.name, load.table.key)
        return None if found is None else sum(tuple(row) in wanted for row in found)


def _passing(load: Load, batches: pa.RecordBatchReader, there: Table | None) -> CountedReader:
    schema = build_schema(load.table)
    if there is not None:
        if load.delivery is not None and not load.delivery.evolve:
            return _standing(load, batches, there)
        schema = _fit_schema(there, schema, load)
    return CountedReader(batches, schema, lambda batch: cast_batch(batch, load.table, schema))


def _standing(load: Load, batches: pa.RecordBatchReader, there: Table) -> CountedReader:
    """The rows as a table takes them that is not to change. Lengths of texts are left to the database itself."""
    incoming = build_schema(load.table)
    alike = pa.schema([_alike(incoming, f, strict=True) for f in there.arrow_schema])
    schema = fit_standing(alike, incoming, load)
    cast = cast_standing(load, incoming, schema, lambda batch: cast_batch(batch, load.table, schema))
    return CountedReader(batches, schema, cast)


def _changes(load: Load, there: Table | None) -> tuple[str, ...]:
    """What a delivery does to the table itself: dlt adds columns, and changes no types."""
    if load.delivery is None:
        return ()
    if there is None:
        return (CREATED,)
    return tuple(
        describe_added(field.name, str(field.type))
        for field in build_schema(load.table)
        if not there.column(field.name)
    )


def _fit_schema(there: Table, schema: pa.Schema, load: Load) -> pa.Schema:
    """The schema as the standing table takes it; dlt knows a destination's types only roughly.

    Raises:
        TypeRefused: text meets a number, or the like. dlt cannot change a column's type, not even with replace.
    """
    try:
        return fit_schema(pa.schema([_alike(schema, f) for f in there.arrow_schema]), schema, load.table)
    except TypeRefused as refused:
        mend = f"drop {load.table.name} at the destination, or cast the column"
        if load.delivery is not None:
            mend = "cast it in the model, or leave it out with `columns:`"
        raise TypeRefused(refused.what, mend=mend) from None


def _alike(incoming: pa.Schema, there: pa.Field, *, strict: bool = False) -> pa.Field:
    """The new type where both are of one kind as far as dlt can tell.

    Args:
        strict: whole numbers and decimals must fit the type that dlt says the column has.
    """
    if there.name not in incoming.names:
        return there
    new = incoming.field(there.name).with_nullable(there.nullable)
    if strict and (pa.types.is_integer(there.type) or pa.types.is_decimal(there.type)):
        return there
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_timestamp, _is_text)
    same = any(kind(new.type) and kind(there.type) for kind in kinds)
    loose = pa.types.is_boolean(new.type) and pa.types.is_integer(there.type)
    return new if same or loose or (_is_text(there.type) and pa.types.is_binary(new.type)) else there


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _run_to_end(pipeline: dlt.Pipeline, resource: Any, file_format: Any) -> Any:
    """Run to the end. Two loads into a new dataset may create dlt's own tables at once; the loser then goes on."""
    from dlt.pipeline.exceptions import PipelineStepFailed
    from dlt.pipeline.helpers import retry_schema_update

    was_second = retry_schema_update()
    has_run = False

    def load() -> Any:
        nonlocal has_run
        if has_run:
            return pipeline.load()
        has_run = True
        return pipeline.run(resource, schema=pipeline.default_schema, loader_file_format=file_format)

    return retry(load, DLT_SCHEMA, lambda error: isinstance(error, PipelineStepFailed) and bool(was_second(error)))


def _hints(schema: pa.Schema) -> Any:
    """Decimals with their own digits, for which dlt would take its default ones."""
    from dlt.common.libs.pyarrow import get_column_type_from_py_arrow

    return {
        field.name: {"name": field.name, **get_column_type_from_py_arrow(field.type)}
        for field in schema
        if pa.types.is_decimal(field.type)
    }


def _count_loaded(
    load: Load, passing: CountedReader, distinct: int | None, before: int | None, after: int | None
) -> Loaded:
    """The counts that follow from the destination's own, before and after."""
    if before is None or after is None:
        return Loaded(passing.rows, None, None, None, passing.bytes)
    if load.write_disposition == "replace":
        return Loaded(passing.rows, after, 0, before, passing.bytes)
    inserted = after - before
    updated = 0 if distinct is None else distinct - inserted
    return Loaded(passing.rows, inserted, updated, 0, passing.bytes)
