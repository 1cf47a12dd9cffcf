"""Locks on tables that others use are asked for in short spells, with pauses in between.

A request that waits has everybody wait behind it who comes later: one report that somebody left open would stop all
other readers of the table for as long as we wait. So a spell is shorter than what a reader notices, everybody passes in
the pause, and who is in the way is told. It is shorter than `deadlock_timeout` (1 s), too: no transaction of an
application is ended because we wait for it while it waits for us. Where an autovacuum alone is in the way, it is to be
ended for us: then the spell is longer.
https://www.postgresql.org/docs/current/explicit-locking.html#LOCKING-TABLES
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from psycopg import Cursor, errors, sql

from dbt_bridge.connectors.postgres.destination.relation import identifier
from dbt_bridge.errors import ConnectionFailed
from dbt_bridge.nouns.table import TableName
from dbt_bridge.system.lock_wait import find_lock_wait

_T = TypeVar("_T")

_SPELL = 300  # milliseconds
_PAUSE = 0.7  # seconds
_LEAST = 5.0  # seconds that rows which somebody else has changed are waited for, also by one without patience
_TELL = 2.0  # seconds

# Modes that do not keep a writer from the table.
_READS = ["AccessShareLock", "RowShareLock"]
_HOLDERS = """
SELECT DISTINCT a.pid, a.usename::text, coalesce(nullif(a.application_name, ''), 'an unnamed application'),
       coalesce(host(a.client_addr), 'the local socket'), a.state, a.backend_type = 'autovacuum worker'
FROM pg_locks l
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND l.relation = to_regclass(%(table)s)
  AND (%(readers)s OR l.mode <> ALL (%(reads)s))
ORDER BY a.pid
"""


def bound_waits(cur: Cursor[Any]) -> None:
    """For the rest of the transaction: rows that somebody else has changed are waited for no longer than told."""
    seconds = max(find_lock_wait().seconds, _LEAST)
    cur.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{seconds * 1000:.0f}ms")))


def try_at_once(cur: Cursor[Any], work: Callable[[], object], spell: int = _SPELL) -> bool:
    """Do what needs a lock; False where it was not to be had within a spell, and nothing was done."""
    try:
        with cur.connection.transaction():
            before = cur.execute("SELECT current_setting('lock_timeout')").fetchone()
            assert before is not None, "it is a setting"
            cur.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(spell)))
            work()
            cur.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(before[0])))
    except errors.LockNotAvailable:
        return False
    return True


def do_when_free(cur: Cursor[Any], name: TableName, work: Callable[[], _T], *, readers: bool = True) -> _T:
    """What `work` answers, which needs a lock on a table: done anew in one spell after the other.

    Args:
        readers: whether readers are in the way, too.

    Raises:
        ConnectionFailed: it was not to be had in the time that `--lock-wait` gives; names who has it.
    """
    wait = find_lock_wait()
    began = time.monotonic()
    answers: list[_T] = []
    told = False

    def take() -> None:
        answers.append(work())

    while not try_at_once(cur, take):
        found = _find_holders(cur, name, readers=readers)
        if all(is_vacuum for *_, is_vacuum in found) and try_at_once(cur, take, _find_long_spell(cur)):
            break
        waited = time.monotonic() - began
        if waited >= wait.seconds:
            raise _make_refusal(name, found, wait.seconds)
        if not told and waited >= min(_TELL, wait.seconds):
            told = True
            wait.tell(f"waiting up to {wait.seconds:g} seconds for {name}, which {_name(found)} has in use")
        time.sleep(_PAUSE)
    return answers[-1]


def _find_long_spell(cur: Cursor[Any]) -> int:
    """Milliseconds after which the server itself has ended an autovacuum that was in our way: it does so for whoever
    waits for longer than `deadlock_timeout`. Also, who was in the way may have just gone."""
    row = cur.execute("SELECT setting::int FROM pg_settings WHERE name = 'deadlock_timeout'").fetchone()
    assert row is not None, "it is a setting"
    return int(row[0]) + 2 * _SPELL


def _find_holders(cur: Cursor[Any], name: TableName, *, readers: bool) -> list[tuple[Any, ...]]:
    table = identifier(name).as_string(cur)
    return cur.execute(_HOLDERS, {"table": table, "readers": readers, "reads": _READS}).fetchall()


def _name(holders: list[tuple[Any, ...]]) -> str:
    named = [
        f"{application} of {user} at {address} (server process {pid}, {state or 'of another role'})"
        if not is_vacuum
        else f"autovacuum (server process {pid})"
        for pid, user, application, address, state, is_vacuum in holders
        if pid is not None
    ]
    prepared = ["a prepared transaction (pg_prepared_xacts)"] if len(named) < len(holders) else []
    return ", ".join(named + prepared) or "another session"


def _make_refusal(name: TableName, holders: list[tuple[Any, ...]], seconds: float) -> ConnectionFailed:
    waited = f", also after {seconds:g} seconds" if seconds else ""
    ends = " ".join(f"SELECT pg_terminate_backend({pid});" for pid, *_ in holders if pid is not None)
    refusal = ConnectionFailed(
        f"the table {name} is in use: {_name(holders)} has it locked{waited}; its rows are as they were",
        mend=f"end that transaction{f': {ends}' if ends else ''} or wait longer for it: --lock-wait 10m",
    )
    refusal.table = name
    return refusal
