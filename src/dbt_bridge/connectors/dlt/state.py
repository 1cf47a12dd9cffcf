"""What a destination that is reached through dlt's SQL client holds. Each answer is of the moment it is given at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.connectors.dlt.queries import DltQueries
from dbt_bridge.connectors.dlt.session import DltSession
from dbt_bridge.contracts.destination import DELETED_AT, Replica
from dbt_bridge.errors import DestinationError
from dbt_bridge.replicate.change_log import LOG_COLUMNS, UNCHANGED
from dbt_bridge.replicate.log_state import fold_log
from dbt_bridge.replicate.replica_checks import recopy_command
from dbt_bridge.replicate.stored_values import (
    Keys,
    cast_columns,
    check_keys,
    missing_column,
)
from dbt_bridge.system.owned_reader import make_reader

_BATCH_ROWS = 20_000


class DltState:
    """A `State` through dlt's SQL client."""

    def __init__(self, session: DltSession) -> None:
        self._session = session

    def count(self, replica: Replica) -> int:
        if replica.change_log:
            return sum(batch.num_rows for batch in self._fold(replica))
        with self._client(replica) as sql:
            statement = f"SELECT count(*) FROM {_table(sql, replica)}{_alive(sql, replica)}"  # noqa: S608
            with sql.execute_query(statement) as cur:
                return int(cur.fetchall()[0][0])

    def rows(self, replica: Replica, keys: pa.Table | None = None) -> pa.RecordBatchReader:
        """See `State.rows`. Keys of whole numbers and plain words are searched there, others in what comes."""
        schema = replica.table.arrow_schema
        asked = None if keys is None else check_keys(replica, keys)
        self._check(replica)
        return make_reader(schema, self._batches(replica, schema, asked))

    def _batches(self, replica: Replica, schema: pa.Schema, keys: pa.Table | None) -> Iterator[pa.RecordBatch]:
        wanted = None if keys is None else Keys(keys)
        for condition in self._conditions(replica, keys):
            folds = replica.change_log
            for batch in self._fold(replica) if folds else self._select(replica, schema.names, condition):
                whole = cast_columns(batch.columns, schema, replica.table.name)
                yield whole if wanted is None else wanted.filter(whole)

    def _conditions(self, replica: Replica, keys: pa.Table | None) -> Iterator[str]:
        if keys is None:
            yield ""
        elif not keys.num_rows or replica.change_log:
            yield from [""] if keys.num_rows else []
        else:
            queries = DltQueries(self._session, replica.table.name.schema)
            distinct = list({tuple(row.values()): None for row in keys.to_pylist()})
            with queries.client() as sql:
                columns = [sql.escape_column_name(name) for name in keys.column_names]
            for condition, _ in queries.conditions(columns, distinct):
                yield condition

    def _select(self, replica: Replica, names: Sequence[str], condition: str = "") -> Iterator[pa.RecordBatch]:
        with self._client(replica) as sql:
            wanted = ", ".join(sql.escape_column_name(name) for name in names)
            alive = _alive(sql, replica)
            where = f"{alive} AND ({condition.removeprefix(' WHERE ')})" if alive and condition else alive + condition
            statement = f"SELECT {wanted} FROM {_table(sql, replica)}{where}"  # noqa: S608
            with sql.execute_query(statement) as cur:
                for rows in cur.iter_arrow(chunk_size=_BATCH_ROWS):
                    yield from pa.table(rows.columns, names=list(names)).to_batches()

    def _fold(self, replica: Replica) -> Iterator[pa.RecordBatch]:
        """A table that is copied anew is replaced here, so that all of its log is of its last copy."""
        columns = {c.name: c.type for c in replica.table.columns}
        there = {c.name: c.type for c in self._check(replica)}
        names = list(dict.fromkeys([*columns, *replica.table.key, *LOG_COLUMNS]))
        types = {**there, **columns, **LOG_COLUMNS}
        schema = pa.schema([pa.field(name, types[name]) for name in names])

        def log() -> Iterator[pa.RecordBatch]:
            for batch in self._select(replica, names):
                arrays = list(batch.columns)
                unsent = names.index(UNCHANGED)  # through dlt a list lands as text, with commas between
                arrays[unsent] = pc.split_pattern(arrays[unsent].cast(pa.string()), ",")
                yield cast_columns(arrays, schema, replica.table.name)

        return fold_log(replica, log(), schema)

    def _check(self, replica: Replica) -> Sequence[Any]:
        name = replica.table.name
        own = LOG_COLUMNS if replica.change_log else [DELETED_AT] if replica.deletes == "soft" else []
        wanted = [*(c.name for c in replica.table.columns), *own]
        there = self._session.find_table(name, wanted)
        if there is None:
            raise DestinationError(f"there is no table {name}", mend=recopy_command(replica.node))
        for column in wanted:
            if there.column(column) is None:
                raise missing_column(name, column, replica)
        return there.columns

    @contextmanager
    def _client(self, replica: Replica) -> Iterator[Any]:
        with self._session.sql_client(replica.table.name) as sql:
            yield sql


def _table(sql: Any, replica: Replica) -> str:
    return str(sql.make_qualified_table_name(replica.table.name.name))


def _alive(sql: Any, replica: Replica) -> str:
    if replica.deletes != "soft" or replica.change_log:
        return ""
    return f" WHERE {sql.escape_column_name(DELETED_AT)} IS NULL"
