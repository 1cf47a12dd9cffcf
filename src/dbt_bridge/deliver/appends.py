"""What was appended to destinations that remember nothing (all that are reached through dlt): `_dbt_bridge.appended`.

It lies in dbt's warehouse, and so cannot be written in the transaction of the rows. An append is `sending` before its
first row travels, and `sent` when it has ended: one that was killed, or got no answer, in between stays `sending`, and
nobody knows whether its rows arrived. That is told, and nothing is sent before a person has looked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from dbt_bridge.contracts.destination import Ledger, Load, Loaded
from dbt_bridge.errors import BridgeError, DestinationError, KeyRefused, TypeRefused, UsageError
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.nouns.receipt import AUDIT_SCHEMA
from dbt_bridge.nouns.table import Column, Table, TableName, quote_literal

_KEY = ("exposure", "destination", "table_name", "relation")
APPENDED = Table(
    TableName(AUDIT_SCHEMA, "appended"),
    tuple(Column(name, pa.string(), nullable=name not in _KEY) for name in (*_KEY, "token", "status", "load_id")),
    key=_KEY,
)
_REFUSED_BEFORE = (UsageError, KeyRefused, TypeRefused)
"""What is raised before a row is written."""


@dataclass(frozen=True, slots=True)
class Appends:
    """The appends of one exposure to one table.

    Attributes:
        warehouse: that keeps what is known of them.
        token: of the rows that are to be appended now.
    """

    warehouse: Ledger
    delivery: Delivery
    token: str
    load_id: str

    def append_once(self, send: Callable[[], Loaded], *, is_there: bool) -> Loaded | None:
        """What `send` answers; None where these very rows were appended before.

        Args:
            is_there: whether the table is: what was sent to one that is gone is gone.

        Raises:
            DestinationError: it is not known whether the rows of this append, or of the one before, arrived.
        """
        token, status = self._read()
        if status == "sending" and is_there:
            raise self._doubt("the last append of it did not come to its end")
        if status == "sent" and token == self.token and is_there:
            return None
        self._write("sending", self.token)
        try:
            loaded = send()
        except _REFUSED_BEFORE:
            self._write(*(("sent", token) if status == "sent" and is_there else ("failed", self.token)))
            raise
        except BridgeError as error:
            raise self._doubt(str(error)) from error
        self._write("sent", self.token)
        return loaded

    def _read(self) -> tuple[str, str]:
        if self.warehouse.find_table(APPENDED.name) is None:
            return "", ""
        rows = self.warehouse.read(APPENDED.name).read_all()
        for name, value in self._place.items():
            rows = rows.filter(pc.equal(rows[name], value))
        return (str(rows["token"][0]), str(rows["status"][0])) if len(rows) else ("", "")

    def _write(self, status: str, token: str) -> None:
        row = {**self._place, "token": token, "status": status, "load_id": self.load_id}
        rows = pa.Table.from_pylist([row], APPENDED.arrow_schema)
        self.warehouse.load(Load(APPENDED, "merge", self.load_id), rows.to_reader())

    @property
    def _place(self) -> dict[str, str]:
        item = self.delivery
        table = f"{item.schema}.{item.table}"
        return dict(zip(_KEY, (item.node, item.destination, table, str(item.relation)), strict=True))

    def _doubt(self, why: str) -> DestinationError:
        item = self.delivery
        same = " AND ".join(f"{name} = {quote_literal(value)}" for name, value in self._place.items())
        correct = f"UPDATE {APPENDED.name} SET status = 'sent' WHERE {same}"  # noqa: S608 - for people
        return DestinationError(
            f"{item.node}: {why}; whether its rows arrived in {item.schema}.{item.table} is not known, as"
            f" {item.destination!r} keeps no mark in their transaction",
            mend="look there for rows of the model (count them), and take them out where only a part arrived. Then say"
            f" so in the warehouse: {correct}; or 'failed' where none arrived or is left",
        )
