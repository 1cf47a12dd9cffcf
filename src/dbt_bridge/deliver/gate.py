"""Whether an exposure may be delivered: every ancestor built, and every test on them passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import Delivery

PASSED = frozenset({"success", "pass", "warn"})
"""dbt's node statuses that count as passed; a warning is allowed."""


def find_refusal(
    delivery: Delivery, statuses: Mapping[str, str], unproven: Mapping[str, str] = MappingProxyType({})
) -> str | None:
    """Why a delivery must not happen, or None when it may.

    Args:
        statuses: dbt's status per unique_id of everything that ran; what did not run is absent.
        unproven: what was compared and was not equal, and why nothing may be delivered on it.
    """
    for node in sorted(delivery.ancestors & unproven.keys()):
        kind, _, name = node.partition(".")
        return f"{kind} {name.partition('.')[2]}: {unproven[node]}"
    for node in sorted(delivery.ancestors):
        if node.startswith(("model.", "seed.", "snapshot.")) and (why := _find_obstacle(node, statuses, delivery)):
            return why
    for node in sorted(delivery.gates):
        if why := _find_obstacle(node, statuses, delivery):
            return why
    return None


def _find_obstacle(node: str, statuses: Mapping[str, str], delivery: Delivery) -> str | None:
    kind, _, name = node.partition(".")
    status = statuses.get(node)
    if status is None:
        command = f"dbt-bridge build --select +exposure:{delivery.name}"
        return f"{kind} {_short(name)} was not part of this dbt run: {command}"
    if status not in PASSED:
        return f"{kind} {_short(name)}: {status}"
    return None


def _short(name: str) -> str:
    """A unique_id's readable part: without the project, and without a test's hash."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else name


def refuse_unknown_columns(delivery: Delivery, present: Sequence[str]) -> None:
    """Refuse a delivery that names columns which its relation does not have.

    Raises:
        UsageError: names the column and the nearest one.
    """
    for setting, names in (
        ("columns", delivery.columns),
        ("primary_key", delivery.primary_key),
        ("types", delivery.types),
    ):
        for name in names:
            if name not in present:
                nearest = get_close_matches(name, present, n=1)
                raise UsageError(
                    f"{delivery.node}: {setting} names {name!r}, and {delivery.relation.identifier} has no such column",
                    mend=f"did you mean {nearest[0]!r}?" if nearest else f"one of {', '.join(present)}",
                )
