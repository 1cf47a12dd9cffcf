"""A cdc source is compared at an LSN: origin and landing are brought to one point of the log, while writers go on.

A temporary slot gives a consistent point and, in an exported snapshot, the origin exactly there. The landing is caught
up to that point and to nothing beyond it. No writer waits for it: what is committed after the point is in the log for
the next sync.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from dbt_bridge.cdc.capture import Bounds, Capture
from dbt_bridge.cdc.census import Tracked
from dbt_bridge.cdc.sources import capture_source
from dbt_bridge.connectors.postgres.changes.slot import ExportedSlot
from dbt_bridge.connectors.postgres.origin.catalog import Outdated
from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
from dbt_bridge.contracts.destination import Readable, State
from dbt_bridge.errors import BridgeError, DestinationError, UsageError
from dbt_bridge.nouns import lsn
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.prove.recorder import (
    FollowUp,
    ParityRecorder,
    Question,
    VerifyOptions,
    compare_and_record,
    fail_parity,
    start_parity,
)
from dbt_bridge.prove.sides import landed_side, origin_side
from dbt_bridge.replicate.replica_checks import refuse_hidden
from dbt_bridge.sync.landing import Ends, Wanted, workers_for
from dbt_bridge.verify.request import VerifyRequest

# A table that had to be copied anew in between stands behind the point, and one that was truncated or rewritten since
# cannot be read there any more: then a new point is taken.
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Proof:
    """What one verification of one cdc source knows."""

    source: LandingSource
    ends: Ends
    load_id: str
    options: VerifyOptions
    recorder: ParityRecorder
    follow_up: FollowUp


def proven(project: Project, proof: Proof, threads: int) -> list[Parity]:
    """Compare the source's cdc tables that the selection needs; empty when it needs none.

    Raises:
        UsageError: the origin is no Postgres, or the destination cannot follow.
        BridgeError: the origin does not say which tables it has.
    """
    if not isinstance(proof.ends.destination, Readable):
        raise UsageError(
            f"the destination {proof.ends.destination.name!r} cannot be read back",
            mend="verify a source that lands in DuckDB, Postgres or Delta",
        )
    done: dict[str, Parity] = {}
    for _ in range(_ROUNDS):
        capture = capture_source(
            project, proof.source, proof.ends, proof.load_id, False, proof.recorder.progress, threads
        )
        if capture is None:
            return []
        asked = capture.asked
        why: BridgeError | str = "it was copied anew, truncated or rewritten each time: run the same again"
        try:
            with capture:
                late = _round(capture, proof, done)
        except UsageError:
            raise
        except BridgeError as error:  # what was compared before it stays
            why, late = error, set()
        if not late:
            break
    for node in [node for node in asked if node not in done]:
        done[node] = proof.recorder.record(fail_parity(_blank(proof, asked[node], "now"), why))
    return [done[node] for node in asked]


def _round(capture: Capture, proof: Proof, done: dict[str, Parity]) -> set[str]:
    """One point; answers the tables that did not come to stand at it."""
    capture.catch_up(Bounds(), tell_unchanged=False)  # most of the log, before a second slot holds it too
    name = f"{proof.source.slot[:40]}_verify_{secrets.token_hex(3)}"
    with capture.point(name) as point:
        capture.catch_up(Bounds(until=point.consistent_point), tell_unchanged=False)
        standing = {n: t for n, t in capture.tracked.items() if t.followed.position == point.consistent_point}
        _tell_failed(capture, proof, done, standing)
        _compare_at(point, proof, {n: t for n, t in standing.items() if n in capture.asked and n not in done}, done)
    return capture.asked.keys() - done.keys()


def _tell_failed(capture: Capture, proof: Proof, done: dict[str, Parity], standing: Mapping[str, Tracked]) -> None:
    for receipt in capture.receipts:
        if receipt.status == "failed" and receipt.node in capture.asked and receipt.node not in {*done, *standing}:
            blank = _blank(proof, capture.asked[receipt.node], "now")
            done[receipt.node] = proof.recorder.record(fail_parity(blank, f"it did not land: {receipt.error}"))


def _compare_at(point: ExportedSlot, proof: Proof, tables: Mapping[str, Tracked], done: dict[str, Parity]) -> None:
    if not tables:
        return
    ends, at = proof.ends, f"LSN {lsn.spelled(point.consistent_point)}"
    assert isinstance(ends.destination, Readable), "checked before"
    with ends.destination.reading() as state:
        stands = {c.node: c.value for c in ends.ledger.checkpoints() if not c.set_aside}
        for node, tracked in tables.items():
            blank = _blank(proof, tracked.wanted, at)
            try:
                if stands.get(node) != lsn.spelled(point.consistent_point):
                    raise DestinationError(
                        f"{tracked.replica.table.name} was moved to {stands.get(node)} by another process meanwhile",
                        mend="run the same command again",
                    )
                done[node] = _compared(blank, proof, tracked, (point, state))
            except Outdated:
                continue
            except BridgeError as error:
                done[node] = proof.recorder.record(fail_parity(blank, error))


def _compared(blank: Parity, proof: Proof, tracked: Tracked, ends: tuple[ExportedSlot, State]) -> Parity:
    """One table. What reads it at the origin keeps it from being dropped or rewritten, and no longer than it reads."""
    point, state = ends
    assert isinstance(proof.ends.origin, PostgresOrigin), "checked before"
    name, url = proof.ends.origin.name, proof.ends.origin.url
    with closing(PostgresOrigin(name, url, point.snapshot, for_changes=True)) as origin:
        pair = _pair(blank, proof, tracked, (origin, state))
        return compare_and_record(replace(pair, lsn=point.consistent_point), proof.recorder, proof.follow_up)


def _pair(blank: Parity, proof: Proof, tracked: Tracked, ends: tuple[PostgresOrigin, State]) -> Question:
    origin, state = ends
    table = tracked.replica.table
    found = origin.describe(tracked.followed.declared)
    if missing := [c.name for c in table.columns if found.table.column(c.name) is None]:
        raise Outdated(
            f"{found.table.name} has no column {missing[0]!r} at the point that is compared",
            mend="its columns changed in this moment: run the same command again",
        )
    columns = tuple(tracked.followed.columns)
    key = tuple(tracked.followed.key)
    replica = tracked.replica
    if replica.change_log:  # is folded by the key to the state that the origin has
        replica = replace(replica, table=replace(table, key=key))
        refuse_hidden(replica)
    mask = {c.name: how for c in columns if (how := tracked.wanted.table.mask.get(c.name))}
    asked = VerifyRequest(
        level=proof.options.level,
        method=proof.options.method,
        key=key,
        columns={c.name: c.name for c in columns},
        masked=frozenset(mask),
        shown=proof.options.shown,
    )
    return Question(
        blank,
        origin_side(origin, found.table, columns, mask, workers_for(found), blank.origin),
        landed_side(state, replica, blank.destination),
        asked,
        tracked.wanted,
        replace(proof.ends, origin=origin),
        replica,
    )


def _blank(proof: Proof, wanted: Wanted, at: str) -> Parity:
    schema = f"{wanted.source.origin_schema}." if wanted.source.origin_schema else ""
    names = (
        f"{proof.ends.origin.name}: {schema}{wanted.table.identifier}",
        f"{proof.ends.destination.name}: {wanted.landing}",
    )
    return start_parity(proof.load_id, wanted.table.node, names, proof.options.level, at)
