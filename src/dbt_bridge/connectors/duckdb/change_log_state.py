# ruff: noqa: S608  (names are quoted)
"""The state that a log of changes stands for, in DuckDB's SQL: each key's last row after the last truncate; without a
key each row as often as it came more than it went.

Rows of a copy have no LSN. They come first in the log, or, where the table was copied anew, after a truncate without an
LSN: what lies in the file before that row is over. Everything else is ordered by `_lsn, _seq`. A value that an update
did not send is the last one that was sent for the row before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbt_bridge.contracts.destination import CHANGE, CHANGE_LSN
from dbt_bridge.nouns.table import quote_identifier, quote_literal
from dbt_bridge.replicate.change_log import SEQUENCE, UNCHANGED

_AGE = "_dbt_bridge_age"
_TIMES = "_dbt_bridge_times"
_SIGN = f"CASE WHEN \"{CHANGE}\" = 'delete' THEN -1 ELSE 1 END"
_ORDER = f'"{CHANGE_LSN}" DESC NULLS LAST, "{SEQUENCE}" DESC'
_PARTIAL = f'len("{UNCHANGED}") > 0'


def since_copied(relation: str, order: str) -> str:
    """The log's rows from its last copy on, and after the last truncate that came by then.

    Args:
        relation: SQL that can stand after FROM.
        order: an expression over a row that grows from each row that was written to the next.
    """
    copied = f'SELECT max({order}) FROM {relation} WHERE "{CHANGE}" = \'truncate\' AND "{CHANGE_LSN}" IS NULL'
    last = f"SELECT * FROM {relation} WHERE coalesce({order} > ({copied}), true)"
    emptied = (
        f"SELECT {{'lsn': \"{CHANGE_LSN}\", 'seq': \"{SEQUENCE}\"}} FROM last_copy\n"
        f"WHERE \"{CHANGE}\" = 'truncate' ORDER BY {_ORDER} LIMIT 1"
    )
    place = f"{{'lsn': coalesce(\"{CHANGE_LSN}\", -1), 'seq': \"{SEQUENCE}\"}}"
    return (
        f"WITH last_copy AS ({last}), emptied AS ({emptied})\n"
        f"SELECT * FROM last_copy WHERE coalesce({place} > (FROM emptied), true) AND \"{CHANGE}\" <> 'truncate'"
    )


def state(log: str, key: Sequence[str], columns: Mapping[str, str], *, partial: bool) -> str:
    """A query of the state: columns under the log's names.

    Args:
        log: the answer of `since_copied`, in brackets.
        key: as the log calls them.
        columns: the log's name -> the name in `_unchanged`.
        partial: whether some rows have values that were not sent.
    """
    keys = ", ".join(quote_identifier(name) for name in key)
    if not partial:
        last = f"row_number() OVER (PARTITION BY {keys} ORDER BY {_ORDER}) = 1"
        return f"SELECT * FROM (SELECT * FROM {log} QUALIFY {last}) WHERE \"{CHANGE}\" <> 'delete'"
    parts = [quote_identifier(name) if name in key else _last_sent(name, known) for name, known in columns.items()]
    return (
        f"SELECT {', '.join(parts)} FROM {log}\nGROUP BY {keys}\n"
        f"HAVING first(\"{CHANGE}\" ORDER BY {_ORDER}) <> 'delete'"
    )


def removed(log: str) -> str:
    """A query that counts the rows that say that one went."""
    return f"SELECT count(*) FROM {log} WHERE \"{CHANGE}\" = 'delete'"


def owing(log: str, columns: Mapping[str, str]) -> str:
    """A query that counts rows that went more often than they came.

    Args:
        columns: the log's name -> DuckDB's type.
    """
    return (
        f"SELECT count(*) FROM (SELECT 1 FROM {log}\n"
        f"GROUP BY {', '.join(_told_apart(columns))} HAVING sum({_SIGN}) < 0)"
    )


def summed(log: str, columns: Mapping[str, str]) -> str:
    """A query of the state without a key; arguments as for `owing`."""
    alike = f"PARTITION BY {', '.join(_told_apart(columns))}"
    times = f"sum({_SIGN}) OVER ({alike}) AS {_TIMES}"
    numbered = f"SELECT *, {times}, row_number() OVER ({alike} ORDER BY {_SIGN} DESC) AS {_AGE}"
    return f"SELECT * FROM ({numbered}\nFROM {log}) WHERE {_AGE} <= {_TIMES}"


def _told_apart(columns: Mapping[str, str]) -> list[str]:
    """DuckDB takes 30 days for a month, and one time of day for the same in another zone."""
    return [
        f"CAST({quote_identifier(name)} AS VARCHAR)"
        if "INTERVAL" in type_ or "TIME WITH TIME ZONE" in type_
        else quote_identifier(name)
        for name, type_ in columns.items()
    ]


def _last_sent(name: str, known: str) -> str:
    sent = f'NOT coalesce(list_contains("{UNCHANGED}", {quote_literal(known)}), false)'
    return f"first({quote_identifier(name)} ORDER BY {_ORDER}) FILTER (WHERE {sent}) AS {quote_identifier(name)}"


def partial(log: str) -> str:
    """A query that counts the rows with values that were not sent."""
    return f"SELECT count(*) FROM {log} WHERE {_PARTIAL}"


def moved(log: str, key: Sequence[str], known: Sequence[str]) -> str:
    """A query that counts rows whose unsent value was sent under another key, or under another name of its column.

    Args:
        known: the columns' names.
    """
    names = ", ".join(map(quote_literal, known))
    keys = ", ".join(quote_identifier(name) for name in key)
    before = f'lag("{CHANGE}") OVER (PARTITION BY {keys} ORDER BY "{CHANGE_LSN}" NULLS FIRST, "{SEQUENCE}") AS {_AGE}'
    return (
        f"SELECT count(*) FROM (SELECT *, {before} FROM {log})\n"
        f"WHERE {_PARTIAL} AND (coalesce({_AGE}, 'delete') = 'delete' OR NOT list_has_all([{names}], \"{UNCHANGED}\"))"
    )
