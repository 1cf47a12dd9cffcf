"""What a Delta table remembers of deliveries, in its own log; see `contracts.outgoing.MARKS`.

The token is an application transaction of the commit that brings the rows (the `txn` action of Delta's protocol), so a
table that was made anew has nothing of ours. The secret, which never changes, lies in a Delta table beside it, and is
there before the first rows are.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dbt_bridge.connectors.lake.delta.session import DeltaSession
from dbt_bridge.contracts.outgoing import MARKS, TOKEN_DIGITS, Mark, Outgoing, refuse_overtaken
from dbt_bridge.nouns.table import TableName

_SCHEMA = pa.schema(
    [("table_name", pa.string()), ("exposure", pa.string()), ("relation", pa.string()), ("secret", pa.binary())]
)


def list_transactions(delivery: Outgoing | None) -> list[Any]:
    """What the commit of a load keeps of its delivery."""
    from deltalake import Transaction

    if delivery is None or not delivery.token:
        return []
    return [Transaction(_name_application(delivery, merges=bool(delivery.secret)), _as_number(delivery.token))]


def has_token(table: Any, delivery: Outgoing) -> bool:
    """Whether the last append carried the delivery's token."""
    version = table.transaction_version(_name_application(delivery, merges=False))
    return bool(delivery.token) and version == _as_number(delivery.token)


def find_mark(session: DeltaSession, name: TableName, delivery: Outgoing) -> Mark:
    """Of this exposure's last merge into this very table."""
    table = session.open(name)
    version = None if table is None else table.transaction_version(_name_application(delivery, merges=True))
    if version is None:
        return Mark()
    return Mark(f"{version:0{TOKEN_DIGITS}x}", _find_secret(session, name, delivery))


def prepare_merge(session: DeltaSession, name: TableName, delivery: Outgoing | None) -> None:
    """Before rows are written: the secret is kept, and no other run came before this one.

    Raises:
        DestinationError: one did.
    """
    if delivery is None or not delivery.secret:
        return
    if delivery.follows is not None and find_mark(session, name, delivery).token != delivery.follows:
        raise refuse_overtaken(name, delivery)
    if _find_secret(session, name, delivery) != delivery.secret:
        row = dict(zip(_SCHEMA.names, (*_name_place(name, delivery), delivery.secret), strict=True))
        session.replace(TableName(name.schema, MARKS), pa.Table.from_pylist([row], _SCHEMA), _SCHEMA.names[:-1])


def _find_secret(session: DeltaSession, name: TableName, delivery: Outgoing) -> bytes:
    marks = session.open(TableName(name.schema, MARKS))
    if marks is None:
        return b""
    columns = _SCHEMA.names[:-1]
    filters = [(column, "=", value) for column, value in zip(columns, _name_place(name, delivery), strict=True)]
    found = marks.to_pyarrow_table(filters=filters)["secret"]
    return bytes(found[0].as_py()) if len(found) else b""


def _name_place(name: TableName, delivery: Outgoing) -> tuple[str, str, str]:
    return name.name, delivery.node, delivery.relation


def _name_application(delivery: Outgoing, *, merges: bool) -> str:
    """Under which application the table's log has an exposure's last append, or merge."""
    return f"dbt-bridge/{'merged' if merges else 'appended'}/{delivery.node}/{delivery.relation}"


def _as_number(token: str) -> int:
    """The token, as far as the log's 64 bits take it."""
    return int(token[:TOKEN_DIGITS], 16)
