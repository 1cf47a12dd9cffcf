"""A cdc source is compared at one position of its log (of Postgres: an LSN), while writers go on.

A snapshot shows the origin exactly at a position. The landing is caught up to that position and to nothing beyond it.
No writer waits for it: what is committed after the position is in the log for the next sync.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace

from dbt_bridge.cdc.capture import Bounds, Capture, CaptureOptions, open_capture
from dbt_bridge.cdc.census import Tracked
from dbt_bridge.contracts.change_source import Outdated, Snapshot
from dbt_bridge.contracts.destination import Readable, State
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import BridgeError, DestinationError, UsageError
from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import LandingSource, Project
from dbt_bridge.prove.recorder import Question, VerifyRun
from dbt_bridge.prove.sides import make_landing_side, make_origin_side
from dbt_bridge.replicate.replica_checks import refuse_hidden
from dbt_bridge.sync.ends import Ends
from dbt_bridge.sync.landing import workers_for
from dbt_bridge.sync.wanted import Wanted

# A table that had to be copied anew in between stands behind the point, and one that was truncated or rewritten since
# cannot be read there any more: then a new point is taken.
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Proof:
    """One cdc source, and the run that verifies it."""

    source: LandingSource
    ends: Ends
    run: VerifyRun

    def readable(self) -> Readable:
        """The destination, as what gives back what it holds.

        Raises:
            UsageError: it does not.
        """
        destination = self.ends.destination
        if not isinstance(destination, Readable):
            raise UsageError(
                f"the destination {destination.name!r} cannot be read back",
                mend="verify a source that lands in DuckDB, Postgres or Delta",
            )
        return destination


def prove_source(project: Project, proof: Proof, threads: int) -> list[Parity]:
    """Compare the source's cdc tables that the selection needs; empty when it needs none.

    Raises:
        UsageError: the origin has no log that can be followed, or the destination cannot follow.
        BridgeError: the origin does not say which tables it has.
    """
    proof.readable()
    done: dict[str, Parity] = {}
    options = CaptureOptions(proof.run.load_id, full_refresh=False, threads=threads)
    for _ in range(_ROUNDS):
        capture = open_capture(project, proof.source, proof.ends, options, proof.run.recorder.progress)
        if capture is None:
            return []
        asked = capture.wanted
        why: BridgeError | str = "it was copied anew, truncated or rewritten each time: run the same again"
        try:
            with capture:
                late = _compare_at_new_point(capture, proof, done)
        except UsageError:
            raise
        except BridgeError as error:  # what was compared before it stays
            why, late = error, set()
        if not late:
            break
    for node in [node for node in asked if node not in done]:
        done[node] = proof.run.fail(_blank(proof, asked[node]), why)
    return [done[node] for node in asked]


def _compare_at_new_point(capture: Capture, proof: Proof, done: dict[str, Parity]) -> set[str]:
    """Compare at one point; returns the tables that did not come to stand at it."""
    capture.catch_up(Bounds(), tell_unchanged=False)  # most of the log, before a snapshot holds it too
    with capture.open_point(f"verify_{secrets.token_hex(3)}") as point:
        capture.catch_up(Bounds(until=str(point.position)), tell_unchanged=False)
        standing = {node: table for node, table in capture.tracked.items() if table.position == point.position}
        _record_failed(capture, proof, done, standing)
        due = {node: table for node, table in standing.items() if node in capture.wanted and node not in done}
        _compare_tables(point, f"{capture.changes.position_name} {point.position}", proof, due, done)
    return capture.wanted.keys() - done.keys()


def _record_failed(capture: Capture, proof: Proof, done: dict[str, Parity], standing: Mapping[str, Tracked]) -> None:
    for receipt in capture.receipts:
        if receipt.status == "failed" and receipt.node in capture.wanted and receipt.node not in {*done, *standing}:
            blank = _blank(proof, capture.wanted[receipt.node])
            done[receipt.node] = proof.run.fail(blank, f"it did not land: {receipt.error}")


def _compare_tables(
    point: Snapshot, at: str, proof: Proof, tables: Mapping[str, Tracked], done: dict[str, Parity]
) -> None:
    if not tables:
        return
    with proof.readable().open_state() as state:
        stands = {
            checkpoint.node: checkpoint.value for checkpoint in proof.ends.ledger.checkpoints() if checkpoint.stands
        }
        for node, tracked in tables.items():
            blank = replace(_blank(proof, tracked.wanted, at), without=tracked.without or None)
            try:
                if stands.get(node) != str(point.position):
                    raise DestinationError(
                        f"{tracked.replica.table.name} was moved to {stands.get(node)} by another process meanwhile",
                        mend="run the same command again",
                    )
                # What reads a table at the origin keeps it from being dropped or rewritten: no longer than it reads.
                with closing(point.open_origin()) as origin:
                    question = replace(_ask(blank, proof, tracked, origin, state), position=point.position)
                    done[node] = proof.run.answer(question)
            except Outdated:
                continue
            except BridgeError as error:
                done[node] = proof.run.fail(blank, error)


def _ask(blank: Parity, proof: Proof, tracked: Tracked, origin: Origin, state: State) -> Question:
    table = tracked.replica.table
    found = origin.describe(tracked.followed.name)
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
    sides = Both[Side](
        make_origin_side(origin, found.table, columns, mask, workers_for(found), blank.origin),
        make_landing_side(state, replica, blank.destination),
    )
    request = proof.run.request(key, columns, masked=mask)
    return Question(blank, sides, request, replica, proof.ends.ledger, replace(proof.ends, origin=origin))


def _blank(proof: Proof, wanted: Wanted, at: str = "now") -> Parity:
    return proof.run.start_landing(wanted, proof.ends.destination.name, at)
