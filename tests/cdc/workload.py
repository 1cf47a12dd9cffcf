"""A seeded workload on an origin: what applications do to their rows and transactions, and what people do to tables.

One thread, so that a seed is played again exactly. Two sessions: in one of them transactions stay open over those of
the other.
"""

# ruff: noqa: S608  (the statements' parts are this file's own)

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql
from tests.cdc.random_values import large, value

_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '' OR a.attidentity = 'a'
FROM pg_attribute a
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

EVERYTHING = """
CREATE TYPE mood AS ENUM ('sad', 'so so');
CREATE TABLE wide (id int PRIMARY KEY, name text, body text, amount numeric(12,2), free numeric, tiny smallint,
    big bigint, ratio double precision, small real, flag boolean, day date, at timestamptz, ts timestamp,
    clock time, span interval, code uuid, doc jsonb, raw json, bytes bytea, tags text[], numbers int[],
    money numeric(9,3)[], net inet, feeling mood, short varchar(5), padded char(4));
CREATE TABLE whole (id int PRIMARY KEY, name text, body text, n int);
ALTER TABLE whole REPLICA IDENTITY FULL;
CREATE TABLE heap (id int, name text, body text, at timestamptz);
ALTER TABLE heap REPLICA IDENTITY FULL;
CREATE TABLE chosen (id int NOT NULL, code text NOT NULL, body text, n numeric(8,2), UNIQUE (id, code));
ALTER TABLE chosen REPLICA IDENTITY USING INDEX chosen_id_code_key;
CREATE TABLE log (id int, what text, at timestamptz);
CREATE TABLE parts (id int, region text NOT NULL DEFAULT 'a', body text, n int, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b', 'c');
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
CREATE TABLE boxes (id int PRIMARY KEY, w int, note text, twice bigint GENERATED ALWAYS AS (w * 2::bigint) STORED);
CREATE TABLE parent (id int PRIMARY KEY, name text);
CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE, n int);
CREATE TABLE slow (id int PRIMARY KEY, name text, body text);
CREATE TABLE gentle (id int PRIMARY KEY, name text, n int);
"""
TABLES = ("wide", "whole", "heap", "chosen", "log", "parts", "boxes", "parent", "child", "slow", "gentle")
_NO_TRUNCATE_FRIENDS = {"slow"}
_CHANGED_BY_DDL = ("wide", "whole", "heap", "chosen", "parts", "boxes", "parent")


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    type: str
    required: bool
    generated: bool


class Workload:
    """Random transactions and DDL, told to `said` as they happen.

    Args:
        moves: rows change their keys too.

    Attributes:
        tables: those that are there now.
        may_copy: something happened since the last sync for which a table may be copied anew; a copy's slot waits
            for all transactions that are open.
        truncates: TRUNCATE is among the statements.
    """

    def __init__(self, url: str, seed: int, tables: Sequence[str] = TABLES, *, moves: bool = True) -> None:
        self.rng = random.Random(seed)
        self.tables = list(tables)
        self._kinds = ["insert", "insert", "insert", "update", "update", "delete", "again", "many"]
        self._kinds += ["key", "swap"] if moves else []
        self.said: list[str] = []
        self.may_copy = self.truncates = True
        self.on_commit: Callable[[int], None] = lambda xid: None
        self._main = psycopg.connect(url, autocommit=True)
        self._side = psycopg.connect(url, autocommit=True)
        self._is_side_open = False
        self._is_prepared = False
        self._number = 0

    def close(self) -> None:
        self._main.close()
        self._side.close()

    # --- transactions ----------------------------------------------------------------------------------------------

    def step(self, *, ddl: float = 0.0) -> None:
        """One transaction, or one statement of DDL with this probability; the side's goes on beside it."""
        if "slow" in self.tables:
            self._aside()
        if self.rng.random() < ddl:
            self.change_tables()
            return
        self._transaction(lambda: [self._operation() for _ in range(self.rng.randint(1, 6))])

    def settle(self) -> None:
        """End every transaction that is open."""
        if self._is_side_open:
            self._do(self._side, self.rng.choice(["COMMIT", "ROLLBACK"]))
            self._is_side_open = False
        self._end_prepared()

    def _end_prepared(self) -> None:
        if self._is_prepared:
            self._do(self._side, f"{self.rng.choice(['COMMIT', 'ROLLBACK'])} PREPARED 'aside'")
            self._is_prepared = False

    def _transaction(self, work: Callable[[], object]) -> None:
        self._do(self._main, "BEGIN")
        work()
        found = self._main.execute("SELECT pg_current_xact_id_if_assigned()::text").fetchone()
        xid = int(found[0]) if found and found[0] else 0
        end = self.rng.random()
        if end < 0.75:
            self._do(self._main, "COMMIT")
        elif end < 0.85:
            self._do(self._main, "ROLLBACK")
            return
        else:
            self._number += 1
            name = f"t{self._number}"
            self._do(self._main, f"PREPARE TRANSACTION '{name}'")
            self._do(self._main, f"{self.rng.choice(['COMMIT', 'COMMIT', 'ROLLBACK'])} PREPARED '{name}'")
        self.on_commit(xid)

    def _aside(self) -> None:
        """A transaction of the other session, which touches a table of its own, goes on, begins or ends."""
        if not self._is_side_open:
            if self.rng.random() < 0.3:
                self._end_prepared()  # it may hold rows that this session would wait for
                self._do(self._side, "BEGIN")
                self._is_side_open = True
            return
        self._rows_of("slow", self._side)
        if self.rng.random() < 0.2:
            end = self.rng.choice(["COMMIT", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION 'aside'"])
            self._do(self._side, end)
            self._is_side_open, self._is_prepared = False, end.startswith("PREPARE")

    def _operation(self) -> None:
        if self.rng.random() < 0.15:
            self._do(self._main, "SAVEPOINT s")
            self._rows_of(self._any(), self._main)
            self._do(self._main, self.rng.choice(["ROLLBACK TO s", "RELEASE s"]))
        elif self.truncates and self.rng.random() < 0.04:
            self.may_copy = True  # a partitioned one
            names = {self._any() for _ in range(self.rng.randint(1, 2))}
            restart = self.rng.choice(["", " RESTART IDENTITY"])
            self._try(self._main, f"TRUNCATE {', '.join(sorted(names))}{restart}{self.rng.choice(['', ' CASCADE'])}")
        else:
            self._rows_of(self._any(), self._main)

    def _any(self) -> str:
        return self.rng.choice([t for t in self.tables if t not in _NO_TRUNCATE_FRIENDS])

    # --- rows ------------------------------------------------------------------------------------------------------

    def _rows_of(self, table: str, on: psycopg.Connection) -> None:
        rng, one = self.rng, self.rng.randint(1, 60)
        kind = rng.choice(self._kinds)
        if kind == "insert":
            for _ in range(rng.randint(1, 4)):
                self._insert(on, table, rng.randint(1, 60))
        elif kind == "many":
            for number in range(rng.randint(10, 30)):
                self._insert(on, table, 100 + number)
        elif kind == "update":
            for _ in range(rng.randint(1, 3)):
                self._update(on, table, rng.choice([f"mod(id, {rng.randint(2, 7)}) = 0", f"id = {one}"]))
        elif kind == "key":
            self._try(on, f"UPDATE {table} SET id = id + {rng.randint(-5, 50)} WHERE id = {one}")
        elif kind == "swap":
            other = rng.randint(1, 60)
            for new, old in ((-1, one), (one, other), (other, -1)):
                self._try(on, f"UPDATE {table} SET id = {new} WHERE id = {old}")
        elif kind == "delete":
            self._try(on, f"DELETE FROM {table} WHERE id % {rng.randint(3, 9)} = {rng.randint(0, 2)}")
        else:
            self._try(on, f"DELETE FROM {table} WHERE id = {one}")
            self._insert(on, table, one)
            self._update(on, table, f"id = {one}")

    def _insert(self, on: psycopg.Connection, table: str, number: int) -> None:
        columns = [c for c in self._columns(on, table) if not c.generated and c.name != "id"]
        names = ", ".join(["id", *(f'"{c.name}"' for c in columns)])
        values = [self._value(table, c) for c in columns]
        casts = ", ".join([str(number), *(f"%s::{c.type}" for c in columns)])
        conflict = "" if table in ("heap", "log") else " ON CONFLICT DO NOTHING"
        self._try(on, f"INSERT INTO {table} ({names}) VALUES ({casts}){conflict}", values)

    def _update(self, on: psycopg.Connection, table: str, where: str) -> None:
        columns = [c for c in self._columns(on, table) if not c.generated and c.name != "id"]
        some = self.rng.sample(columns, min(len(columns), self.rng.randint(1, 3)))
        sets = ", ".join(f'"{c.name}" = %s::{c.type}' for c in some)
        self._try(on, f"UPDATE {table} SET {sets} WHERE {where}", [self._value(table, c) for c in some])

    def _value(self, table: str, column: _Column) -> str | None:
        if not column.required and self.rng.random() < 0.15:
            return None
        if table == "parts" and column.name == "region":
            return self.rng.choice("abcd")
        if column.name == "parent":
            return str(self.rng.randint(1, 60))
        if table == "boxes" and column.name == "w":
            return str(self.rng.randint(-1000, 1000))
        return large(self.rng) if column.name == "body" and self.rng.random() < 0.5 else value(self.rng, column.type)

    def _columns(self, on: psycopg.Connection, table: str) -> list[_Column]:
        return [_Column(*row) for row in on.execute(_COLUMNS, [table]).fetchall()]

    # --- tables ----------------------------------------------------------------------------------------------------

    def change_tables(self) -> None:
        """DDL on one table, in a transaction with rows around it; sometimes rolled back."""
        self.may_copy = True
        table = self.rng.choice([t for t in _CHANGED_BY_DDL if t in self.tables])
        ddl = self._ddl(table)

        def work() -> None:
            if self.rng.random() < 0.5:
                self._rows_of(table, self._main)
            self._try(self._main, ddl)
            if self.rng.random() < 0.5:
                self._rows_of(table, self._main)

        if ddl.startswith("VACUUM"):
            self._try(self._main, ddl, savepoint=False)
        elif ddl.startswith("ALTER TABLE") and "RENAME TO" in ddl:
            self._renamed_and_back(table)
        else:
            self._transaction(work)

    def _renamed_and_back(self, table: str) -> None:
        self._do(self._main, f"ALTER TABLE {table} RENAME TO elsewhere")
        if self.rng.random() < 0.5:
            self._rows_of("elsewhere", self._main)
        self._do(self._main, f"ALTER TABLE elsewhere RENAME TO {table}")

    def _ddl(self, table: str) -> str:
        self._number += 1
        new = f"x{self._number}"
        plain = [c for c in self._columns(self._main, table) if not c.required and not c.generated]
        own = [c for c in plain if c.name.startswith(("x", "name", "n", "note", "amount", "flag", "tiny"))]
        add = f"ALTER TABLE {table} ADD COLUMN {new}"
        choices = [
            f"{add} int", f"{add} text", f"{add} text DEFAULT 'd'", f"{add} timestamptz DEFAULT clock_timestamp()",
            f"{add} numeric(10,2) DEFAULT 1.5", f"VACUUM FULL {table}", f"ALTER TABLE {table} RENAME TO elsewhere",
            f"ALTER TABLE {table} ALTER COLUMN id SET STATISTICS 50", f"ANALYZE {table}",
        ]  # fmt: skip
        if own:
            column = self.rng.choice(own)
            at = f'ALTER TABLE {table} ALTER COLUMN "{column.name}"'
            choices += [
                f'ALTER TABLE {table} DROP COLUMN "{column.name}" CASCADE',
                f'ALTER TABLE {table} RENAME COLUMN "{column.name}" TO {new}',
                f'ALTER TABLE {table} DROP COLUMN "{column.name}", ADD COLUMN "{column.name}" {column.type}',
                f"{at} TYPE text",
                f"{at} TYPE text USING 'u'",
                f"{at} SET DEFAULT NULL",
            ]
            if column.type == "integer":
                choices += [f"{at} TYPE bigint", f'{at} TYPE integer USING "{column.name}" / 2']
            if column.type == "numeric(12,2)":
                choices += [f"{at} TYPE numeric(14,2)", f"{at} TYPE numeric(16,4)"]
        if table == "whole":
            choices += ["ALTER TABLE whole REPLICA IDENTITY DEFAULT", "ALTER TABLE whole REPLICA IDENTITY FULL"]
        if table == "parts":
            choices += [
                f"CREATE TABLE parts_{new} PARTITION OF parts FOR VALUES IN ('{new}')",
                "TRUNCATE parts_a",
                "DO $$ BEGIN ALTER TABLE parts DETACH PARTITION parts_b; DELETE FROM parts_b WHERE id % 2 = 0;"
                " ALTER TABLE parts ATTACH PARTITION parts_b FOR VALUES IN ('b', 'c'); END $$",
            ]
        return self.rng.choice(choices)

    # --- statements ------------------------------------------------------------------------------------------------

    def _try(self, on: psycopg.Connection, text: str, values: Sequence[object] = (), *, savepoint: bool = True) -> None:
        """A statement that the origin may refuse (a key that is taken): then nothing of it stays."""
        inside = on.info.transaction_status != psycopg.pq.TransactionStatus.IDLE and savepoint
        if inside:
            on.execute("SAVEPOINT attempt")
        try:
            self._do(on, text, values)
        except psycopg.Error as error:
            self.said.append(f"--   refused: {str(error).splitlines()[0]}")
            if inside:
                on.execute("ROLLBACK TO attempt")
        if inside:
            on.execute("RELEASE attempt")

    def _do(self, on: psycopg.Connection, text: str, values: Sequence[object] = ()) -> None:
        shown = [f"{v[:20]}...{len(v)}" if isinstance(v, str) and len(v) > 40 else v for v in values]
        self.said.append(f"{'side: ' if on is self._side else ''}{text}{f'  -- {shown}' if values else ''}")
        on.execute(sql.SQL(text), values) if values else on.execute(text.encode())  # type: ignore[arg-type]
