"""Whether an origin can be followed: settings, privileges, slot, publications, tables; each fault with its SQL."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from dbt_bridge.connectors.postgres.changes import publication
from dbt_bridge.connectors.postgres.changes.publication import Publishable
from dbt_bridge.connectors.postgres.changes.slot import (
    MARK,
    Replication,
    SlotState,
    find_misfit,
)
from dbt_bridge.contracts.change_source import Readiness
from dbt_bridge.errors import BridgeError
from dbt_bridge.nouns.quantities import format_bytes
from dbt_bridge.nouns.table import TableName, quote_identifier, quote_table_name

_SETTINGS = f"""
SELECT current_setting('wal_level'),
       current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots)::int,
       current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication)::int,
       (SELECT setting::bigint FROM pg_settings WHERE name = 'max_slot_wal_keep_size'),
       (current_setting('max_locks_per_transaction')::int
        * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int))::int,
       current_database(), current_user, has_database_privilege(current_database(), 'CREATE'),
       mark, has_function_privilege(mark, 'EXECUTE')
FROM ({MARK}) AS known (mark)
"""  # noqa: S608 (constants only)
# A new slot waits for every transaction that writes, in any database.
_WRITING = """
SELECT 'server process ' || pid, extract(epoch FROM clock_timestamp() - xact_start)::bigint,
       'SELECT pg_terminate_backend(' || pid || ');'
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND xact_start < clock_timestamp() - interval '1 minute'
UNION ALL
SELECT 'prepared transaction ' || quote_literal(gid), extract(epoch FROM clock_timestamp() - prepared)::bigint,
       'ROLLBACK PREPARED ' || quote_literal(gid) || ';'
FROM pg_prepared_xacts
ORDER BY 2 DESC
"""
_UNUSED = "SELECT slot_name FROM pg_replication_slots WHERE NOT active;"
_NEARLY = 0.8  # of max_wal


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be followed.

    Attributes:
        logs: those of the tables that land as a change log, for which inserts are enough.
        max_wal: bytes of log that the slot may retain; None for no bound.
    """

    slot: str
    tables: tuple[TableName, ...]
    logs: frozenset[TableName] = frozenset()
    max_wal: int | None = None


@dataclass(frozen=True, slots=True)
class _Settings:
    wal_level: str
    free_slots: int
    free_walsenders: int
    keep_size: int | None
    locks: int
    database: str
    user: str
    may_create: bool
    mark: str
    may_mark: bool


def check_readiness(replication: Replication, wish: Wish) -> Iterator[Readiness]:
    """Look at everything that following these tables needs. Writes nothing.

    Raises:
        ConnectionFailed: the server cannot be reached.
    """
    settings = _Settings(*replication.query(_SETTINGS)[0])
    yield from _server(replication, settings)
    state = replication.slot(wish.slot)
    yield from _room(state, settings)
    yield from _slot(replication, state, wish, settings)
    tables = publication.describe_publishable(replication, wish.tables)
    yield from _tables(tables, wish)
    yield from _locks(tables, settings)
    yield from _publications(replication, tables, wish, settings)


def _server(replication: Replication, settings: _Settings) -> Iterator[Readiness]:
    """Asked of the server itself: a walsender starts or says why not, which shows privilege, pg_hba.conf and room."""
    if settings.wal_level != "logical":
        yield Readiness(
            "server",
            "fault",
            f"wal_level is {settings.wal_level}, and changes of rows are only in a logical log",
            "ALTER SYSTEM SET wal_level = logical; then restart the server (RDS: rds.logical_replication = 1, "
            "Cloud SQL: cloudsql.logical_decoding = on, Neon: logical replication in the project's settings)",
        )
    try:
        identity = replication.identity()
    except BridgeError as error:
        yield Readiness(
            "server", "fault", error.what, error.mend.replace("<the origin's user>", quote_identifier(settings.user))
        )
    else:
        kind = "a standby, system" if identity.is_standby else "system"
        what = f"{kind} {identity.system_identifier}; {settings.user} may replicate, wal_level {settings.wal_level}"
        yield Readiness("server", "ok", what)
    if not settings.may_mark:
        yield Readiness(
            "server",
            "fault",
            f"{settings.user} may not write a mark into the log, which tells how far to read",
            f"GRANT EXECUTE ON FUNCTION {settings.mark} TO {quote_identifier(settings.user)};",
        )


def _room(state: SlotState | None, settings: _Settings) -> Iterator[Readiness]:
    for setting, free, wanted in (
        ("max_replication_slots", settings.free_slots, 1 if state else 2),
        ("max_wal_senders", settings.free_walsenders, 2),
    ):
        if free >= wanted:
            continue
        enough = "" if free else ", and none is left"
        yield Readiness(
            setting,
            "note" if free or (state and setting == "max_replication_slots") else "fault",
            f"{free} free{enough}; a sync needs one, and one more while it copies tables",
            f"{_UNUSED} names slots that nobody reads, to drop; or ALTER SYSTEM SET {setting} = <more>; and restart",
        )


def _slot(replication: Replication, state: SlotState | None, wish: Wish, settings: _Settings) -> Iterator[Readiness]:
    place = f"slot {wish.slot}"
    if state is None:
        yield Readiness(place, "ok", "will be made by the first sync")
        for who, seconds, end in replication.query(_WRITING):
            yield Readiness(
                place, "note", f"a new slot has to wait for {who}, which has been open for {seconds} s", end
            )
        return
    if (problem := find_misfit(state, settings.database)) is not None:
        yield Readiness(place, "fault", problem, "give the source another `slot:` name")
        return
    if state.is_lost:
        reason = state.invalidation_reason or "max_slot_wal_keep_size"
        mend = f"dbt-bridge slots drop {wish.slot}; then dbt-bridge sync --full-refresh"
        yield Readiness(place, "fault", f"it lost log that it still needed ({reason})", mend)
        return
    kept = f"it retains {format_bytes(state.retained_bytes)} of log"
    look = f"dbt-bridge sync, or dbt-bridge slots drop {wish.slot} if nobody needs it"
    if wish.max_wal is not None and state.retained_bytes >= wish.max_wal * _NEARLY:
        over = state.retained_bytes > wish.max_wal
        yield Readiness(place, "fault" if over else "note", f"{kept}; max_wal is {format_bytes(wish.max_wal)}", look)
    elif state.wal_status == "unreserved":
        yield Readiness(place, "fault", f"{kept}, which the server removes at its next checkpoint", look)
    elif wish.max_wal is None and settings.keep_size == -1:
        mend = "add `max_wal: 10GB` to the source's bridge, or ALTER SYSTEM SET max_slot_wal_keep_size = '10GB';"
        yield Readiness(place, "note", f"{kept}, and nothing bounds it: without syncs it fills the origin's disk", mend)
    else:
        yield Readiness(place, "ok", f"{kept}{', and is being read' if state.active else ''}")


def _tables(tables: dict[TableName, Publishable], wish: Wish) -> Iterator[Readiness]:
    for name in wish.tables:
        table = tables.get(name)
        if table is None:
            continue  # said where its columns are looked at
        if table.kind not in "rp":
            what = f"{name} is no table: only the rows of tables are in the log"
            yield Readiness(f"table {name}", "fault", what, "`replication: initial_copy` or `incremental`")
        elif table.persistence != "p":
            what = f"{name} is unlogged or temporary: its rows are not in the log"
            yield Readiness(f"table {name}", "fault", what, f"ALTER TABLE {quote_table_name(name)} SET LOGGED;")
        elif table.has_heirs:
            what = (
                f"other tables inherit from {name}: a copy has their rows, and the log has them under their own names"
            )
            mend = "`replication: initial_copy` or `incremental` for it; they themselves can be followed"
            yield Readiness(f"table {name}", "fault", what, mend)
        elif not table.identifies and name not in wish.logs:
            lacking = ", ".join(map(str, table.unidentified))
            statements = " ".join(
                f"ALTER TABLE {quote_table_name(t)} REPLICA IDENTITY FULL;" for t in table.unidentified
            )
            yield Readiness(
                f"table {name}",
                "fault",
                f"{name}: updates and deletes do not say which row they mean (no replica identity: {lacking})",
                f"ALTER TABLE {quote_table_name(name)} ADD PRIMARY KEY (...); or {statements} or "
                "`write_disposition: append` in its bridge, which lands its inserts as a log",
            )


def _locks(tables: Mapping[TableName, Publishable], settings: _Settings) -> Iterator[Readiness]:
    """The server's lock table has room for what is locked at once: a partitioned table with all its partitions."""
    largest = max(tables.values(), key=lambda table: table.parts, default=None)
    if largest is not None and largest.parts * 2 > settings.locks:
        yield Readiness(
            "max_locks_per_transaction",
            "note",
            f"a copy of {largest.name} locks {largest.parts} tables at once, it and its partitions; the server has room"
            f" for {settings.locks} locks of everybody",
            "ALTER SYSTEM SET max_locks_per_transaction = <more>; and restart the server",
        )


def _publications(
    replication: Replication, tables: dict[TableName, Publishable], wish: Wish, settings: _Settings
) -> Iterator[Readiness]:
    place = f"publication {wish.slot}"
    rows = {n: t for n, t in tables.items() if t.kind in "rp" and t.persistence == "p"}
    everything = [n for n, t in rows.items() if t.identifies]
    inserts = [n for n, t in rows.items() if not t.identifies and n in wish.logs]
    try:
        plan = publication.plan_publications(replication, wish.slot, everything, inserts)
    except BridgeError as error:
        yield Readiness(place, "fault", error.what, error.mend)
        return
    if not plan.statements:
        yield Readiness(place, "ok", f"publishes all {len(rows)} tables")
        return
    sql = "; ".join(plan.statements)
    foreign = sorted(name for name in plan.added if not tables[name].is_ours)
    if plan.is_new and not settings.may_create:
        what = f"{settings.user} may not make publications in database {settings.database!r}"
        grant = f"GRANT CREATE ON DATABASE {quote_identifier(settings.database)} TO {quote_identifier(settings.user)};"
        yield Readiness(place, "fault", what, f"{grant} or as an administrator: {sql};")
    elif foreign:
        named = _some(foreign)
        what = f"{settings.user} does not own {named}, and only owners publish tables"
        yield Readiness(place, "fault", what, f"as the owner of the tables, or a superuser: {sql};")
    else:
        yield Readiness(
            place, "ok", f"the next sync publishes {_some(plan.added)}" if plan.added else "the next sync mends it"
        )


def _some(names: Collection[TableName]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
