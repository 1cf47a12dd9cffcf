# ruff: noqa: S608  (names are quoted)
"""The state that a log of changes stands for: each key's last row after the last truncate; without a key each row as
often as it came more than it went.

Rows of a copy have no LSN. They come first in the log, or, where the table was copied anew, after a truncate without an
LSN: the rows that were written before that one are over. Everything else is ordered by `_lsn, _seq`. A value that an
update did not send is the last one that was sent for the row before.

`select_state` writes it as a query in DuckDB's SQL, `fold_log` runs that over rows of any place in a DuckDB of its own,
which writes to disk what it cannot hold. What Postgres says alike is public here; the rest of its query is in
`connectors/postgres/destination/change_log.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dbt_bridge.arrow.duckdb_rows import stream_query
from dbt_bridge.contracts.destination import CHANGE, CHANGE_LSN, Replica
from dbt_bridge.errors import MissingExtra
from dbt_bridge.nouns.table import quote_identifier, quote_literal
from dbt_bridge.replicate.change_log import SEQUENCE, UNCHANGED
from dbt_bridge.replicate.duckdb_equality import as_key, as_written
from dbt_bridge.replicate.replica_checks import refuse_owing, refuse_unsent
from dbt_bridge.system.temporary_files import temporary_folder

ORDER = f'"{CHANGE_LSN}" DESC NULLS LAST, "{SEQUENCE}" DESC'
_AGE, _TIMES = "_dbt_bridge_age", "_dbt_bridge_times"
_SIGN = f"CASE WHEN \"{CHANGE}\" = 'delete' THEN -1 ELSE 1 END"
_PARTIAL = f'len("{UNCHANGED}") > 0'
_MEMORY = "256MB"

# --- DuckDB and Postgres ---------------------------------------------------------------------------------------------


def change_before(keys: str) -> str:
    """An expression: the change of the same key that came before a row's.

    Args:
        keys: the key columns, quoted.
    """
    return f'lag("{CHANGE}") OVER (PARTITION BY {keys} ORDER BY "{CHANGE_LSN}" NULLS FIRST, "{SEQUENCE}")'


def count_owing(log: str, alike: Sequence[str]) -> str:
    """A query that counts rows that went more often than they came.

    Args:
        log: SQL that can stand after FROM, and takes an alias.
        alike: expressions that are the same for equal rows, and for these alone.
    """
    grouped = f"SELECT 1 FROM {log} AS log\nGROUP BY {', '.join(alike)} HAVING sum({_SIGN}) < 0"
    return f"SELECT count(*) FROM ({grouped}) AS owing"


def sum_log(log: str, alike: Sequence[str]) -> str:
    """A query of the state without a key; arguments as for `count_owing`."""
    same = f"PARTITION BY {', '.join(alike)}"
    times = f"sum({_SIGN}) OVER ({same}) AS {_TIMES}"
    numbered = f"SELECT *, {times}, row_number() OVER ({same} ORDER BY {_SIGN} DESC) AS {_AGE}"
    return f"SELECT * FROM ({numbered}\nFROM {log} AS log) AS numbered WHERE {_AGE} <= {_TIMES}"


# --- DuckDB ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogRelation:
    """A log in DuckDB.

    Attributes:
        sql: the answer of `since_copied`, in brackets.
        columns: name -> DuckDB's type.
        names: the replica's name of a column, or of its key -> the log's.
    """

    sql: str
    columns: Mapping[str, str]
    names: Mapping[str, str]


def since_copied(relation: str, order: str) -> str:
    """The log's rows from its last copy on, and after the last truncate since then.

    Args:
        relation: SQL that can stand after FROM.
        order: an expression over a row that grows from each row that was written to the next.
    """
    copied = f'SELECT max({order}) FROM {relation} WHERE "{CHANGE}" = \'truncate\' AND "{CHANGE_LSN}" IS NULL'
    last = f"SELECT * FROM {relation} WHERE coalesce({order} > ({copied}), true)"
    emptied = (
        f"SELECT {{'lsn': \"{CHANGE_LSN}\", 'seq': \"{SEQUENCE}\"}} FROM last_copy\n"
        f"WHERE \"{CHANGE}\" = 'truncate' ORDER BY {ORDER} LIMIT 1"
    )
    place = f"{{'lsn': coalesce(\"{CHANGE_LSN}\", -1), 'seq': \"{SEQUENCE}\"}}"
    return (
        f"WITH last_copy AS ({last}), emptied AS ({emptied})\n"
        f"SELECT * FROM last_copy WHERE coalesce({place} > (FROM emptied), true) AND \"{CHANGE}\" <> 'truncate'"
    )


def select_state(replica: Replica, log: LogRelation, scalar: Callable[[str], Any]) -> str:
    """SQL of the state, in brackets: columns under the log's names.

    Args:
        scalar: runs a query, answers its one value.

    Raises:
        DestinationError: no state can be told from the log.
    """
    key = [log.names[name] for name in replica.table.key]
    keys = ", ".join(as_key(quote_identifier(name), log.columns[name]) for name in key)
    partial = f"SELECT count(*) FROM {log.sql} WHERE {_PARTIAL}"
    is_partial = bool(scalar(partial))
    if is_partial:
        refuse_unsent(replica, int(scalar(_count_moved(log, keys) if key else partial)))
    names = {log.names[c.name]: c.name for c in replica.table.columns}
    if key:
        return f"({_last_partial(log.sql, keys, names) if is_partial else _last_whole(log.sql, keys)})"
    if not scalar(f"SELECT count(*) FROM {log.sql} WHERE \"{CHANGE}\" = 'delete'"):
        return log.sql
    alike = [one for name in names for one in as_written(quote_identifier(name), log.columns[name])]
    refuse_owing(replica, int(scalar(count_owing(log.sql, alike))))
    return f"({sum_log(log.sql, alike)})"


def _last_whole(log: str, keys: str) -> str:
    last = f"row_number() OVER (PARTITION BY {keys} ORDER BY {ORDER}) = 1"
    return f"SELECT * FROM (SELECT * FROM {log} QUALIFY {last}) WHERE \"{CHANGE}\" <> 'delete'"


def _last_partial(log: str, keys: str, columns: Mapping[str, str]) -> str:
    """Where some rows have values that were not sent.

    Args:
        columns: the log's name -> the name in `_unchanged`.
    """
    parts = [_last_sent(name, known) for name, known in columns.items()]
    return (
        f"SELECT {', '.join(parts)} FROM {log}\nGROUP BY {keys}\n"
        f"HAVING first(\"{CHANGE}\" ORDER BY {ORDER}) <> 'delete'"
    )


def _last_sent(name: str, known: str) -> str:
    sent = f'NOT coalesce(list_contains("{UNCHANGED}", {quote_literal(known)}), false)'
    return f"first({quote_identifier(name)} ORDER BY {ORDER}) FILTER (WHERE {sent}) AS {quote_identifier(name)}"


def _count_moved(log: LogRelation, keys: str) -> str:
    """A query that counts rows whose unsent value was sent under another key, or under another name of its column."""
    names = ", ".join(map(quote_literal, log.columns))
    before = f"{change_before(keys)} AS {_AGE}"
    return (
        f"SELECT count(*) FROM (SELECT *, {before} FROM {log.sql})\n"
        f"WHERE {_PARTIAL} AND (coalesce({_AGE}, 'delete') = 'delete' OR NOT list_has_all([{names}], \"{UNCHANGED}\"))"
    )


# --- rows of any place -----------------------------------------------------------------------------------------------


def fold_log(replica: Replica, log: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of the state of a log, all of which is of its last copy, and comes once, in no order.

    Raises:
        DestinationError: no state can be told from it.
    """
    try:
        import duckdb
    except ModuleNotFoundError:
        raise MissingExtra("verify", "the state of a log of changes") from None

    with (
        temporary_folder("log") as folder,
        duckdb.connect(":memory:", config={"memory_limit": _MEMORY, "temp_directory": str(folder)}) as connection,
    ):
        connection.register("came", pa.RecordBatchReader.from_batches(schema, log))
        connection.execute("CREATE TEMP TABLE log AS SELECT * FROM came")

        def scalar(query: str) -> Any:
            rows = connection.execute(query).fetchall()  # all: DuckDB 2 takes no other statement before
            return rows[0][0] if rows else None

        types = {str(name): str(type_) for name, type_, *_ in connection.execute("DESCRIBE log").fetchall()}
        # `0` says that every row belongs to the last copy.
        relation = LogRelation(f"({since_copied('log', '0')})", types, {name: name for name in types})
        selected = ", ".join(quote_identifier(column.name) for column in replica.table.columns)
        yield from stream_query(connection, f"SELECT {selected} FROM {select_state(replica, relation, scalar)}")
