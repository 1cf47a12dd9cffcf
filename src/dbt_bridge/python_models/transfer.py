"""The entrance from a dbt Python model: `transfer` lands rows anywhere, `api_to_df` turns API pages into a frame.

def model(dbt, session):
    users = dbt.source("postgres_prod", "users")
    return dbt_bridge.transfer(
        dbt=dbt, source_data=users, target_destination="crm_pg", dataset_name="crm", table_name="users",
        write_disposition="merge", primary_key="id",
    )
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from dbt_bridge.contracts.destination import (
    WRITE_DISPOSITIONS,
    BeginAgain,
    Destination,
    Load,
    Loaded,
    Warehouse,
    WriteDisposition,
)
from dbt_bridge.contracts.outgoing import Outgoing
from dbt_bridge.contracts.settings import SessionSettings
from dbt_bridge.errors import DestinationError, UsageError
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.receipt import Receipt, as_arrow, new_load_id
from dbt_bridge.nouns.table import Column, Table, TableName
from dbt_bridge.python_models.guarded_client import guard_pages
from dbt_bridge.python_models.one_message import tell_once, translate

if TYPE_CHECKING:
    from dbt_bridge.arrow.python_frames import Frame
    from dbt_bridge.contracts.model_session import ModelSession
    from dbt_bridge.python_models.session import Session

OnError = Literal["raise", "receipt"]


def transfer(  # noqa: PLR0913 - the names that a dbt model reads; the values behind are `_Request`
    dbt: Any,
    source_data: Any,
    target_destination: Any,
    dataset_name: str,
    table_name: str | None = None,
    write_disposition: WriteDisposition = "replace",
    primary_key: str | Sequence[str] | None = None,
    *,
    evolve: bool = False,
    on_error: OnError = "raise",
    session: Any = None,
) -> Any:
    """Land rows at a destination, from inside a dbt-duckdb Python model.

    Args:
        dbt: the first argument of `def model(dbt, session)`.
        source_data: dlt source or resource, generator of rows or of pages, list of dicts, pandas or polars frame,
            Arrow Table, RecordBatch or RecordBatchReader, DuckDB relation.
        target_destination: a dlt destination or its name; a DuckDB destination without credentials is dbt's own file.
        dataset_name: the schema (folder, dataset) at the destination.
        table_name: the table there; None for a dlt resource or source, whose resources name their tables.
        write_disposition: replace (exactly these rows), append, or merge (one row per key; of several rows with one
            key in these rows, the last one wins).
        primary_key: the key's columns; needed for merge.
        evolve: columns may be added to, and widened in, a table that no transfer or delivery of this project has made;
            by default such a table is never altered, and what does not fit it is refused.
        on_error: "receipt" returns the receipt of a failed load instead of raising.
        session: the second argument of `def model`; needed only in threads that the model itself starts.

    Returns:
        The receipts as a DuckDB relation of the model's session: one row (one per table of a dlt source).

    Raises:
        UsageError: the call is wrong, or dbt runs with --empty or --sample; nothing was touched.
        BridgeError: the load failed, and the destination holds what it held before.
    """
    from dbt_bridge.python_models.session import refuse_partial_run
    from dbt_bridge.python_models.session import session as running

    with tell_once("transfer"):
        request = _check(_Request(dataset_name, table_name, write_disposition, _key(primary_key), evolve), on_error)
        here = running(dbt, session)
        refuse_partial_run(f"transfer into {dataset_name}.{table_name or '*'}")
        with _open_place(target_destination, here) as place:
            receipts = _Transfer(place, request, here.node).run(
                guard_pages(source_data), tolerate=on_error == "receipt"
            )
        return place.session.to_relation(as_arrow(receipts))


def api_to_df(data: Any, schema: pa.Schema | None = None) -> Any:
    """What an API client yields as one pandas frame: n records become n rows.

    Args:
        data: pages (`RESTClient.paginate()`), rows, a dlt resource or source of one resource, a frame.
        schema: columns and types to cast to; also the columns of an empty answer.

    Returns:
        pandas.DataFrame whose columns have Arrow's types, so that a missing integer does not turn integers into
        floats. Nested objects and lists are Python dicts and lists there, and STRUCT and LIST in DuckDB; where their
        shapes differ too much for that, JSON text.

    Raises:
        TypeRefused: a column mixes values that no one type keeps.
        MissingExtra: pandas is not installed.
    """
    from dbt_bridge.arrow.data_frame import build_data_frame

    with tell_once("api_to_df"):
        return build_data_frame(guard_pages(data), schema)


@dataclass(frozen=True, slots=True)
class _Request:
    dataset: str
    table: str | None
    write_disposition: WriteDisposition
    key: tuple[str, ...]
    evolve: bool


@dataclass(frozen=True, slots=True)
class _Place:
    """Where rows go, and the session whose warehouse keeps the receipts: often the same."""

    destination: Destination
    session: ModelSession

    @property
    def warehouse(self) -> Warehouse:
        return self.session.warehouse

    @property
    def is_warehouse(self) -> bool:
        return self.destination is self.warehouse


def _key(primary_key: str | Sequence[str] | None) -> tuple[str, ...]:
    if primary_key is None:
        return ()
    return (primary_key,) if isinstance(primary_key, str) else tuple(primary_key)


def _check(request: _Request, on_error: str) -> _Request:
    """Refuse what is wrong with a call before anything is opened or read."""
    if request.write_disposition not in WRITE_DISPOSITIONS:
        raise UsageError(
            f"transfer: unknown write_disposition {request.write_disposition!r}",
            mend=f"one of {', '.join(WRITE_DISPOSITIONS)}",
        )
    if request.write_disposition == "merge" and not request.key:
        raise UsageError(
            f"transfer: merge into {request.dataset}.{request.table} needs a key",
            mend='pass primary_key="id" (or a list of columns), or use append or replace',
        )
    if on_error not in ("raise", "receipt"):
        raise UsageError(f"transfer: unknown on_error {on_error!r}", mend='"raise" or "receipt"')
    if not request.dataset:
        raise UsageError("transfer: dataset_name is empty", mend='pass dataset_name="..."')
    return request


class _Transfer:
    """One call: its tables staged, published together where the destination can, and told in receipts."""

    def __init__(self, place: _Place, request: _Request, node: str) -> None:
        self._place = place
        self._request = request
        self._node = node
        self._load_id = new_load_id()
        self._origin = ""

    def run(self, data: Any, *, tolerate: bool) -> list[Receipt]:
        self._origin = f"{type(data).__module__.split('.')[0]}.{type(data).__name__}"
        begun = self._receipt(self._request.table or "*")
        try:
            return self._run(data)
        except UsageError:
            raise
        except Exception as error:
            told = translate(error, "transfer")
            receipt = record.fail_receipt(begun, told)
            self._place.warehouse.record([receipt])
            if tolerate:
                return [receipt]
            raise told from None

    def _run(self, data: Any) -> list[Receipt]:
        """Begun again, with less at once, where the destination was out of room and made more."""
        frames = self._frames(data)
        try:
            while True:
                try:
                    return self._move(frames)
                except BeginAgain as error:
                    again = [frame.reopen() for frame in frames]
                    frames = [frame for frame in again if frame is not None]
                    if len(frames) < len(again):
                        raise _refuse_once_only(error) from error
        finally:
            for frame in frames:
                frame.close()

    def _move(self, frames: Sequence[Frame]) -> list[Receipt]:
        loads = [(self._load(frame), frame) for frame in frames]
        begun = [self._receipt(load.table.name.name) for load, _ in loads]
        destination = self._place.destination
        if isinstance(destination, Warehouse):
            return self._publish(destination, loads, begun)
        done = []
        for (load, frame), receipt in zip(loads, begun, strict=True):
            loaded = self._nothing(load) or destination.load(load, self._batches(load, frame))
            done.append(_finish(receipt, loaded))
            self._place.warehouse.record(done[-1:])
        return done

    def _frames(self, data: Any) -> list[Frame]:
        from dbt_bridge.arrow.python_frames import Frame, to_frames

        where = f"{self._request.dataset}.{self._request.table or '*'}"
        rows = self._place.session.find_rows(data)
        find = self._place.session.find_rows
        found = to_frames(data, where) if rows is None else [Frame(None, rows, again=lambda: _require(find(data)))]
        if len(found) > 1 and self._request.table is not None:
            raise UsageError(
                f"transfer: table_name={self._request.table!r} was given for a source of {len(found)} tables:"
                f" {', '.join(str(f.name) for f in found)}",
                mend="leave table_name out, so that each resource lands under its own name; or pass one resource",
            )
        for frame in found:
            if frame.incremental and self._request.write_disposition == "append":
                raise UsageError(
                    f"transfer: the dlt resource {frame.name!r} is incremental, and without a dlt pipeline it starts"
                    " from its initial value each time: append would add rows again",
                    mend="use merge with a primary_key, or replace",
                )
        return found

    def _load(self, frame: Frame) -> Load:
        name = self._request.table or frame.name
        if not name:
            raise UsageError("transfer: table_name is missing", mend='pass table_name="..."')
        table_name = TableName(self._request.dataset, name)
        columns = tuple(Column(f.name, f.type) for f in frame.batches.schema)
        if not columns:  # no row ever came: the table's own columns are all that is known
            existing = self._place.destination.find_table(table_name)
            columns = existing.columns if existing else ()
        landed = tuple(self._place.destination.map_column(column) for column in columns)
        project = self._node.split(".")[1] if self._node.count(".") > 1 else ""
        outgoing = Outgoing(project, self._node, self._origin, self._request.evolve)
        table = Table(table_name, landed, self._request.key)
        return Load(table, self._request.write_disposition, self._load_id, delivery=outgoing)

    def _batches(self, load: Load, frame: Frame) -> pa.RecordBatchReader:
        from dbt_bridge.arrow.python_frames import cast_reader

        if not len(frame.batches.schema):
            return pa.RecordBatchReader.from_batches(load.table.arrow_schema, [])
        types = {column.name: column.type for column in load.table.columns}
        return cast_reader(frame.batches, lambda field: types[field.name], str(load.table.name))

    def _nothing(self, load: Load) -> Loaded | None:
        """What to answer where neither rows nor columns are known, by anyone."""
        return None if load.table.columns else Loaded(0, 0, 0, 0, 0)

    def _publish(self, to: Warehouse, loads: list[tuple[Load, Frame]], begun: list[Receipt]) -> list[Receipt]:
        known = [(load, frame) for load, frame in loads if load.table.columns]
        staged: list[Any] = []

        def close(loaded: Sequence[Loaded]) -> list[Receipt]:
            answers = iter(loaded)
            return [
                _finish(receipt, self._nothing(load) or next(answers))
                for (load, _), receipt in zip(loads, begun, strict=True)
            ]

        to.discard()
        try:
            for load, frame in known:
                staged.append(to.stage(load, self._batches(load, frame)))
            receipts: list[Receipt] = []

            def in_transaction(loaded: Sequence[Loaded]) -> list[Receipt]:
                receipts[:] = close(loaded)
                return receipts

            to.publish(
                staged, (), in_transaction if self._place.is_warehouse else lambda loaded: _none(in_transaction, loaded)
            )
        except BaseException:
            to.discard(staged)
            raise
        if not self._place.is_warehouse:
            self._place.warehouse.record(receipts)
        return receipts

    def _receipt(self, table: str) -> Receipt:
        return record.start_receipt(
            self._load_id,
            "transfer",
            self._node,
            origin=self._origin,
            destination=self._place.destination.name,
            table_name=f"{self._request.dataset}.{table}",
            write_disposition=self._request.write_disposition,
        )


def _require(rows: pa.RecordBatchReader | None) -> pa.RecordBatchReader:
    assert rows is not None, "it was a relation before"
    return rows


def _refuse_once_only(error: BeginAgain) -> DestinationError:
    return DestinationError(
        f"{error.what}, and these rows can be read once only",
        mend="pass what can be read again: a table, a frame, a relation or rows in place of a stream; or raise"
        " memory_limit in the profile's settings",
    )


def _finish(receipt: Receipt, loaded: Loaded) -> Receipt:
    return record.finish_receipt(replace(receipt, note="; ".join(loaded.changes) or None), loaded)


def _none(call: Callable[[Sequence[Loaded]], list[Receipt]], loaded: Sequence[Loaded]) -> list[Receipt]:
    """Take the answers, but leave the receipts to dbt's own warehouse."""
    call(loaded)
    return []


@contextmanager
def _open_place(target: Any, here: Session) -> Iterator[_Place]:
    """The destination and dbt's warehouse, closed afterwards where they were opened here."""
    # Whole, and first: pyarrow and dlt import it when they need it, and threads that come to it from its parts and
    # from pyarrow's at once find it partially initialized.
    with suppress(ImportError):
        import pandas  # type: ignore[import-untyped]  # noqa: F401
    from dbt_bridge.project.connectors import SESSIONS, registry
    from dbt_bridge.project.destinations import destination_settings, open_settings

    settings = destination_settings(target, project_root=here.project_root)
    session = registry().open(
        SESSIONS, here.adapter, SessionSettings(here.connection, settings.name), "transfer in the {} session"
    )
    inside = session.find_destination(settings)
    if inside is not None:
        yield _Place(inside, session)
        return
    with closing(open_settings(settings)) as destination:
        yield _Place(destination, session)
