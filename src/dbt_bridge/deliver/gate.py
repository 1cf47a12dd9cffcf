"""Whether an exposure may be delivered: every ancestor built, and every test on them passed on what was built last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.graph import HOOK
from dbt_bridge.nouns.node_record import PASSED, UNFINISHED, NodeRecord
from dbt_bridge.nouns.project import Delivery, Project


def find_refusal(
    delivery: Delivery,
    known: Mapping[str, NodeRecord],
    unproven: Mapping[str, str] = MappingProxyType({}),
    options: str = "",
) -> str | None:
    """Why a delivery must not happen, and the next command; None when it may.

    Args:
        known: the last build of each node, in the place that is delivered from; what was never built is absent.
        unproven: what was compared and was not equal, and why nothing may be delivered on it.
        options: that the next command needs, as ` --target prod`.
    """
    for node in sorted(delivery.ancestors & unproven.keys()):
        kind, _, name = node.partition(".")
        return f"{kind} {name.partition('.')[2]}: {unproven[node]}"
    why = next(_list_obstacles(delivery, known), None)
    return why and why + format_again(delivery, options)


def format_again(delivery: Delivery, options: str = "") -> str:
    """The command that builds, tests and delivers, as the end of a refusal."""
    return f": dbt-bridge build --select +exposure:{delivery.name}{options}"


def format_options(project: Project) -> str:
    """What the next command needs to be of the same place: ` --target prod`."""
    options = project.options
    named = (("--profile", options.profile), ("--target", options.target))
    return "".join(f" {flag} {value}" for flag, value in named if value)


def _list_obstacles(delivery: Delivery, known: Mapping[str, NodeRecord]) -> Iterator[str]:
    built = sorted(n for n in delivery.ancestors if n.startswith(("model.", "seed.", "snapshot.")))
    for node in (*built, *sorted(delivery.gates)):
        if why := _find_obstacle(node, known.get(node), delivery.relations.get(node, "")):
            yield why
    for hook in sorted(delivery.hooks & known.keys()):
        if known[hook].status not in PASSED:
            yield f"{describe_node(hook)}: {known[hook].status} ({known[hook].command}, {format_time(known[hook])})"
    for test, read in sorted(delivery.tested.items()):
        for node in sorted(read & known.keys()):
            if _is_outdated(known[test], known[node]):
                yield (
                    f"{describe_node(node)} was built again ({known[node].command}, {format_time(known[node])}) after"
                    f" {describe_node(test)} had passed, so what is in it now was not tested"
                )


def _find_obstacle(node: str, record: NodeRecord | None, relation: str) -> str | None:
    if record is None:
        did = "was not built" if node.startswith(("model.", "seed.", "snapshot.")) else "did not run"
        return f"{describe_node(node)} {did} here, as far as is known"
    if record.status == UNFINISHED:
        return f"{describe_node(node)}: {record.command} began at {format_time(record)} and did not come to its end"
    if record.status not in PASSED:
        return f"{describe_node(node)}: {record.status}"
    if relation and record.relation and record.relation != relation:
        return f"{describe_node(node)} was built as {record.relation}, and is {relation} now"
    return None


def _is_outdated(test: NodeRecord, node: NodeRecord) -> bool:
    """Whether a test ran before what it read was built as it is now; dbt itself keeps the order within one run."""
    return test.build_id != node.build_id and test.started_at < node.finished_at


def describe_node(node: str) -> str:
    """A unique_id's readable part: without the project, and without a test's hash."""
    kind, _, name = node.partition(".")
    parts = name.split(".")[1:]
    kind = "hook" if kind == HOOK else kind
    return f"{kind} {'.'.join(parts[:1] if kind == 'test' else parts) or name}"


def format_time(record: NodeRecord) -> str:
    return f"{record.started_at:%Y-%m-%d %H:%M:%S} UTC"


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
