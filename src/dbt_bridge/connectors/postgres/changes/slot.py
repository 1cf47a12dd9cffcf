"""Replication slots of an origin: listed, made with an exported snapshot, looked after, dropped.

https://www.postgresql.org/docs/current/logicaldecoding-explanation.html
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from dbt_bridge.connectors.postgres.changes.lsn import parse_lsn
from dbt_bridge.connectors.postgres.changes.past.timeline import Branches, read_branches
from dbt_bridge.connectors.postgres.changes.slot_wait import Blockers
from dbt_bridge.connectors.postgres.changes.walsender import SET, Walsender, translate_error
from dbt_bridge.connectors.postgres.origin.connection import Connections
from dbt_bridge.connectors.postgres.wire.watch import WatchedConnection, connect_watched
from dbt_bridge.errors import BridgeError, OriginError, UsageError
from dbt_bridge.nouns.table import quote_identifier

PLUGIN = "pgoutput"
_WRITTEN = """
CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
     ELSE pg_current_wal_lsn()
END
"""
# What the server's version does not have yet is NULL: the row travels as JSON.
_SLOTS = f"""
SELECT s.slot_name, s.slot_type, s.plugin, s.database, s.temporary, s.active, s.active_pid,
       s.restart_lsn::text, s.confirmed_flush_lsn::text,
       j.row ->> 'wal_status',
       coalesce(j.row ->> 'invalidation_reason', CASE WHEN j.row ->> 'conflicting' = 'true' THEN 'conflict' END),
       (j.row ->> 'safe_wal_size')::bigint,
       pg_wal_lsn_diff({_WRITTEN}, s.restart_lsn)::bigint,
       pg_wal_lsn_diff({_WRITTEN}, s.confirmed_flush_lsn)::bigint,
       j.row ->> 'failover' = 'true'
FROM pg_replication_slots s
CROSS JOIN LATERAL (SELECT to_jsonb(s) AS row) j
WHERE %(name)s::text IS NULL OR s.slot_name = %(name)s
ORDER BY s.slot_name
"""  # noqa: S608 (constants only)
# What `current_lsn` calls: one of its forms, with the arguments that this version gives it.
MARK = """
SELECT oid::regprocedure::text
FROM pg_proc
WHERE proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype
"""
_HOLDER = "SELECT application_name, client_addr::text FROM pg_stat_activity WHERE pid = %(pid)s"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which server, and which database of it.

    Attributes:
        system_identifier: of the cluster, made by initdb; physical copies share it.
        timeline: grows with each failover and each restore to a point in time.
        server_version: 180001 is 18.1.
        branches: how it came to its timeline; of a standby none, which follows its primary to the next one.
    """

    system_identifier: str
    timeline: int
    database: str
    server_version: int
    is_standby: bool
    branches: Branches


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of `pg_replication_slots`.

    Attributes:
        plugin, database: None for a physical slot.
        wal_status: reserved, extended, unreserved or lost.
        invalidation_reason: why it is lost, since PostgreSQL 17 (`conflict` on 16).
        retained_bytes: log that the server keeps for it.
        lag_bytes: log beyond what was acknowledged.
        safe_wal_size: bytes that may still be written before it may be lost; None without max_slot_wal_keep_size.
        failover: copied to standbys, since PostgreSQL 17.
    """

    name: str
    kind: str
    plugin: str | None
    database: str | None
    temporary: bool
    active: bool
    active_pid: int | None
    restart_lsn: int | None
    confirmed_flush_lsn: int | None
    wal_status: str | None
    invalidation_reason: str | None
    safe_wal_size: int | None
    retained_bytes: int
    lag_bytes: int
    failover: bool = False

    @property
    def is_lost(self) -> bool:
        """Log that it still needs is gone: nothing can be read from it any more."""
        return self.wal_status == "lost" or self.invalidation_reason is not None


@dataclass(frozen=True, slots=True)
class ExportedSlot:
    """A new slot, and the snapshot that shows exactly what committed before its consistent point."""

    name: str
    consistent_point: int
    snapshot: str


class Replication:
    """The replication side of one origin, on a control connection of its own. Constructing does no I/O.

    Raises (from every method):
        ConnectionFailed: the server cannot be reached or logged in to.
        OriginError: a privilege or a setting is missing, or the server broke off.
    """

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self.connections = Connections(name, url)
        self._control: WatchedConnection | None = None
        self._identity: Identity | None = None
        self._lock = threading.RLock()

    def __enter__(self) -> Replication:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._identity = None  # the next connection may find another server at the same address
            if self._control is not None:
                self._control.close()
                self._control = None

    def query(self, sql: str, parameters: Mapping[str, object] | None = None) -> list[tuple[Any, ...]]:
        """Rows of a statement in a transaction of its own. After a broken connection the next call connects anew."""
        with self._lock:
            try:
                cur = self._connect_control().execute(sql.encode(), parameters)
                return cur.fetchall() if cur.description else []
            except psycopg.Error as error:
                if self._control is not None and self._control.broken:
                    self.close()
                raise translate_error(self.connections, error) from error

    def identity(self) -> Identity:
        """Asked of a walsender, so it also shows that the role may replicate."""
        if self._identity is None:
            ((standby,),) = self.query("SELECT pg_is_in_recovery()")
            with Walsender(self.connections) as walsender:
                rows, _ = walsender.command("IDENTIFY_SYSTEM")
                version = walsender.server_version
                system, timeline, _, database = rows[0]
                branches = () if standby else read_branches(int(timeline), walsender.read_history)
            self._identity = Identity(system, int(timeline), database, version, standby, branches)
        return self._identity

    def current_lsn(self) -> int:
        """An LSN that lies behind every commit which a client saw acknowledged before this call, and on disk.

        A commit under `synchronous_commit = off` is acknowledged before it is flushed, so the flush position may lie
        before it; the insert position may lie behind the page's header or in a record that an idle server never
        flushes, and a walsender sends only what is flushed. So a logical message is written, which needs no table,
        and its transaction flushes the log up to its own commit record: the message's LSN is behind everything that
        was acknowledged, and the stream comes to it. A standby writes nothing: what it has replayed is its state.
        """
        ((standby,),) = self.query("SELECT pg_is_in_recovery()")
        if standby:
            ((at,),) = self.query("SELECT pg_last_wal_replay_lsn()::text")
        else:
            try:
                ((at,),) = self.query("SELECT pg_logical_emit_message(true, 'dbt_bridge', '')::text")
            except OriginError as error:
                if "permission denied" not in error.what:
                    raise
                ((function,),) = self.query(MARK)
                granted = f"GRANT EXECUTE ON FUNCTION {function} TO <the origin's user>;"
                raise OriginError(error.what, mend=granted) from error
        return parse_lsn(at)

    def slot(self, name: str) -> SlotState | None:
        """The slot as it stands; None when there is none of this name."""
        return next(iter(self._states(name)), None)

    def slots(self) -> list[SlotState]:
        """All slots of the server, also those of other databases, by name."""
        return self._states(None)

    def require_usable(self, name: str) -> SlotState:
        """The slot, after looking whether changes of this database can be read from it now.

        Raises:
            OriginError: it is absent, lost, another database's, another plugin's, or in use.
        """
        state = self.slot(name)
        if state is None:
            raise OriginError(
                f"origin {self.name!r} has no replication slot {name!r}: it was dropped, or the server was restored "
                "without it; changes since the last checkpoint are lost",
                mend="dbt-bridge sync --full-refresh makes it again and copies its tables",
            )
        ((database,),) = self.query("SELECT current_database()")
        if (problem := find_misfit(state, database)) is not None:
            raise OriginError(f"origin {self.name!r}: {problem}", mend="give the source another `slot:` name")
        if state.is_lost:
            raise OriginError(
                f"origin {self.name!r}: slot {name!r} lost log that was still needed "
                f"({state.invalidation_reason or 'max_slot_wal_keep_size'}); its tables must be copied again",
                mend=f"dbt-bridge slots drop {name}; then dbt-bridge sync --full-refresh",
            )
        if state.active:
            raise self.make_in_use_error(state)
        return state

    def make_in_use_error(self, state: SlotState) -> OriginError:
        """The error of a slot that somebody else reads."""
        rows = self.query(_HOLDER, {"pid": state.active_pid})
        application, address = rows[0] if rows else (None, None)
        who = f"{application or 'an unnamed application'} at {address or 'the local socket'}"
        return OriginError(
            f"origin {self.name!r}: slot {state.name!r} is in use by {who}, server process {state.active_pid}; "
            "one process reads a slot",
            mend=f"wait for it, or end it: SELECT pg_terminate_backend({state.active_pid});",
        )

    @contextlib.contextmanager
    def create_slot(
        self,
        name: str,
        *,
        temporary: bool = False,
        timeout: float = 600.0,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[ExportedSlot]:
        """Make a slot; its snapshot can be imported while the context is open, and a temporary slot lives as long.

        A permanent slot stays, whatever happens in the context. On PostgreSQL 17 and later it is made with FAILOVER,
        so that standbys which synchronise slots have it when one of them takes over; without such standbys that
        changes nothing.

        Args:
            timeout: seconds to wait for transactions that were open before.
            on_wait: called after a few seconds, and each time that it changes, with whom the server waits for.

        Raises:
            UsageError: the name is no slot's name.
            OriginError: the slot exists, no slot is free, logical decoding is off, or `timeout` has passed.
        """
        valid_name(name)
        with Walsender(self.connections) as walsender:
            blockers = Blockers(self.name, self.query, walsender.pgconn.backend_pid, timeout, on_wait)
            try:
                rows, _ = walsender.command(self._creation(name, temporary, walsender.server_version), waiting=blockers)
            except OriginError as error:
                raise self._explain_creation(name, error) from error
            _, point, snapshot, _ = rows[0]
            try:
                yield ExportedSlot(name, parse_lsn(point), snapshot)
            finally:
                if temporary:  # it would go with the connection, but a little later
                    with contextlib.suppress(BridgeError):
                        walsender.command(f"DROP_REPLICATION_SLOT {quote_identifier(name)}")

    def drop_slot(self, name: str) -> bool:
        """Drop a slot; False when there is none of this name.

        Raises:
            OriginError: it is in use.
        """
        state = self.slot(name)
        if state is None:
            return False
        if state.active:
            raise self.make_in_use_error(state)
        self.query("SELECT pg_drop_replication_slot(%(name)s)", {"name": name})
        return True

    def _creation(self, name: str, temporary: bool, version: int) -> str:
        kind = "TEMPORARY " if temporary else ""
        failover = version >= 170000 and not temporary and not self.query("SELECT pg_is_in_recovery()")[0][0]
        options = "(SNAPSHOT 'export', FAILOVER true)" if failover else "EXPORT_SNAPSHOT"
        return f"CREATE_REPLICATION_SLOT {quote_identifier(name)} {kind}LOGICAL {PLUGIN} {options}"

    def _explain_creation(self, name: str, error: OriginError) -> OriginError:
        """The error with what the server knows of the slots: which exists, which nobody uses."""
        if "already exists" in error.what and (state := self.slot(name)) is not None:
            ((database,),) = self.query("SELECT current_database()")
            problem = find_misfit(state, database) or f"slot {name!r} exists already"
            mend = f"give the source another `slot:` name, or drop it: dbt-bridge slots drop {name}"
            return OriginError(f"origin {self.name!r}: {problem}", mend=mend)
        if "no slot is free" in error.what:
            idle = [state.name for state in self.slots() if not state.active]
            unused = f"inactive: {', '.join(idle)}" if idle else "none of them is inactive"
            return OriginError(f"{error.what}; {unused}", mend=error.mend)
        return error

    def _states(self, name: str | None) -> list[SlotState]:
        return [_state(row) for row in self.query(_SLOTS, {"name": name})]

    def _connect_control(self) -> WatchedConnection:
        if self._control is None:
            try:
                control = connect_watched(self.connections.conninfo())
            except psycopg.Error as error:
                raise self.connections.translate_connect_error(error) from error
            control.prepare(SET)
            # Nothing here has to outlive the loss of the server's disk: do not wait for synchronous standbys.
            control.execute("SET synchronous_commit = local")
            self._control = control
        return self._control


def find_misfit(state: SlotState, database: str) -> str | None:
    """Why a slot of this name is not ours, if it is not."""
    if state.kind != "logical":
        return f"slot {state.name!r} is a physical one, for a standby"
    if state.plugin != PLUGIN:
        return f"slot {state.name!r} is another program's: its plugin is {state.plugin}, not {PLUGIN}"
    if state.database != database:
        return f"slot {state.name!r} is of database {state.database!r}, not {database!r}"
    return None


def valid_name(name: str) -> str:
    """The name, when Postgres accepts it for a slot.

    Raises:
        UsageError: it does not.
    """
    if re.fullmatch("[a-z0-9_]{1,63}", name) is None:
        raise UsageError(
            f"{name!r} is no name for a replication slot",
            mend="write `slot:` with lower-case letters, digits and underscores, at most 63 of them",
        )
    return name


def _state(row: tuple[Any, ...]) -> SlotState:
    name, kind, plugin, database, temporary, active, pid, restart, confirmed, *rest = row
    status, reason, safe, retained, lag, failover = rest
    return SlotState(
        name=name,
        kind=kind,
        plugin=plugin,
        database=database,
        temporary=temporary,
        active=active,
        active_pid=pid,
        restart_lsn=parse_lsn(restart) if restart else None,
        confirmed_flush_lsn=parse_lsn(confirmed) if confirmed else None,
        wal_status=status,
        invalidation_reason=reason,
        safe_wal_size=safe,
        retained_bytes=retained or 0,
        lag_bytes=lag or 0,
        failover=bool(failover),
    )
