"""What the project itself knows of each node's last build: the rows of `_dbt_bridge.builds`.

One row for each node (model, seed, snapshot, test) of each place that it is built in. A row says `unfinished` from
before dbt runs until it has ended: whoever is killed in between leaves a row that nobody takes for a success.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from dbt_bridge.nouns.receipt import AUDIT_SCHEMA
from dbt_bridge.nouns.table import Column, Table, TableName

UNFINISHED = "unfinished"
PASSED = frozenset({"success", "pass", "warn"})
"""dbt's node statuses that count as passed; a warning is allowed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a project is built; the warehouse itself is where the rows are kept.

    Attributes:
        project: dbt's name of it.
        profile, target: dbt's names of the profile and of its output.
        target_schema: that output's database and schema: developers share a profile, and each builds in a schema.
    """

    project: str
    profile: str
    target: str
    target_schema: str


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """The last build of one node.

    Attributes:
        node: dbt's unique_id.
        project, profile, target, target_schema: of its `Place`.
        relation: what was built, as dbt writes it into SQL; empty for a test.
        status: dbt's (`success`, `pass`, `warn`, `error`, `fail`, `skipped`, ...), with what takes a success back; or
            `unfinished`.
        command: what built it: `dbt-bridge build`, `dbt run`, ...
        build_id: shared by the nodes of one run, and another one for each run.
        invocation_id: dbt's own; empty where dbt did not say.
        started_at, finished_at: UTC.
        fingerprint: of the rows of a model that is delivered, once it and its tests had passed; empty for all others,
            and where the warehouse cannot tell.
    """

    node: str
    project: str
    profile: str
    target: str
    target_schema: str
    relation: str
    status: str
    command: str
    build_id: str
    invocation_id: str
    started_at: datetime
    finished_at: datetime
    fingerprint: str = ""

    @property
    def place(self) -> Place:
        return Place(self.project, self.profile, self.target, self.target_schema)


_KEY = ("node", "project", "profile", "target", "target_schema")
_TIMES = frozenset({"started_at", "finished_at"})

BUILDS = Table(
    TableName(AUDIT_SCHEMA, "builds"),
    tuple(
        Column(f.name, pa.timestamp("us", "UTC") if f.name in _TIMES else pa.string(), nullable=f.name not in _KEY)
        for f in fields(NodeRecord)
    ),
    key=_KEY,
)


def as_arrow(records: Sequence[NodeRecord]) -> pa.Table:
    """The records as rows of `_dbt_bridge.builds`."""
    return pa.Table.from_pylist([asdict(record) for record in records], schema=BUILDS.arrow_schema)


def of_row(row: dict[str, Any]) -> NodeRecord:
    """A row of `_dbt_bridge.builds`; what an earlier version did not write is empty."""
    texts: dict[str, Any] = {f.name: row.get(f.name) or "" for f in fields(NodeRecord) if f.name not in _TIMES}
    return NodeRecord(**texts, **{name: row[name].astimezone(UTC) for name in _TIMES})
