"""What dbt wrote of its last command, by whomever it was run: `run_results.json`, as dbt 1.8 and later write it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dbt_bridge.errors import UsageError
from dbt_bridge.project.runners.contract import find_partial_option


@dataclass(frozen=True, slots=True)
class RanNode:
    """One node that a command ran.

    Attributes:
        relation: as dbt wrote it into SQL; empty for tests.
        sql: what ran, compiled; empty where dbt does not say.
        started_at: at the latest.
    """

    unique_id: str
    status: str
    message: str
    relation: str
    sql: str = field(repr=False)
    started_at: datetime
    finished_at: datetime

    @property
    def seconds(self) -> float:
        return (self.finished_at - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True)
class DbtRun:
    """One command of dbt that ended.

    Attributes:
        command: `build`, `run`, `test`, `compile`, ...
        profile, target: as they were given to dbt; None where it took the defaults.
        partial: `--empty` or `--sample`.
        deferred: with `--defer`.
    """

    command: str
    invocation_id: str
    profile: str | None
    target: str | None
    partial: str | None
    deferred: bool
    nodes: tuple[RanNode, ...]


def read_last_run(folder: Path) -> DbtRun | None:
    """The last command that dbt ran with this folder of artifacts; None before the first.

    Raises:
        UsageError: the file was cut off, or is another one.
    """
    file = folder / "run_results.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return _make_run(found)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError):  # ValueError: a run that was killed while it wrote
        raise UsageError(f"{file} is not what dbt writes at the end of a run", mend="dbt-bridge build") from None


def _make_run(found: Mapping[str, Any]) -> DbtRun:
    arguments, ended = found["args"], _parse_time(found["metadata"]["generated_at"])
    return DbtRun(
        command=str(arguments.get("which", "")),
        invocation_id=str(found["metadata"].get("invocation_id") or ""),
        profile=arguments.get("profile"),
        target=arguments.get("target"),
        partial=find_partial_option(arguments),
        deferred=bool(arguments.get("defer")),
        nodes=tuple(_make_node(result, ended) for result in found["results"]),
    )


def _make_node(result: Mapping[str, Any], ended: datetime) -> RanNode:
    times = [one["completed_at"] for one in result.get("timing") or () if one.get("completed_at")]
    finished = max(map(_parse_time, times), default=ended)
    return RanNode(
        unique_id=result["unique_id"],
        status=str(result["status"]),
        message=str(result.get("message") or ""),
        relation=result.get("relation_name") or "",
        sql=result.get("compiled_code") or "",
        started_at=finished - timedelta(seconds=float(result.get("execution_time") or 0)),
        finished_at=finished,
    )


def _parse_time(text: str) -> datetime:
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
