"""What a `build` would do, in order, from the dbt project alone: no connection is opened.

What the last sync saw at the origins is told with it (`last_look`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from dbt_bridge.nouns.outcome import Outcome, rows_to_arrow
from dbt_bridge.run.last_look import Note, recall

if TYPE_CHECKING:
    import pyarrow as pa

    from dbt_bridge.nouns.project import (
        Delivery,
        LandingSource,
        LandingTable,
        Project,
    )
    from dbt_bridge.nouns.reconciliation import Reconciliation
    from dbt_bridge.project.selection import BuildNode


@dataclass(frozen=True, slots=True)
class Landing:
    """One table that would land. `table` is `*` for all tables of the origin's schema that dbt does not declare.

    Attributes:
        primary_key: from the YAML; empty when the origin's catalog decides.
        write_disposition: None when the origin's key decides between append and merge.
    """

    node: str
    origin: str
    table: str
    lands_in: str
    destination: str
    replication: str
    cursor: str | None
    lag: float
    write_disposition: str | None
    primary_key: tuple[str, ...]
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One exposure that would be delivered, when every one of `models` and `gates` passes.

    Attributes:
        columns: the only ones that are sent; empty for all of the model.
        evolve: whether columns may be added to, and widened in, a table that the bridge did not create.
        deletes: `own`: rows that an earlier delivery inserted and the model has no more are deleted.
    """

    node: str
    model: str
    destination: str
    table: str
    write_disposition: str
    primary_key: tuple[str, ...]
    models: tuple[str, ...]
    gates: tuple[str, ...]
    columns: tuple[str, ...] = ()
    evolve: bool = False
    deletes: str = "none"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One model, and what it replaces; `build` compares them only where it is `required`."""

    node: str
    legacy: str
    levels: tuple[str, ...]
    metrics: tuple[str, ...]
    required: bool


@dataclass(frozen=True, slots=True)
class _Step:
    """A line of the plan as a row."""

    step: str
    node: str
    what: str


@dataclass(frozen=True, slots=True)
class Plan(Outcome):
    """The steps of a build, and what `reconcile` compares.

    Attributes:
        notes: what the last sync saw at the origins: logs that no source uses, columns that no log has.
    """

    project: str
    landings: tuple[Landing, ...]
    nodes: tuple[BuildNode, ...]
    deliveries: tuple[Outgoing, ...]
    reconciliations: tuple[Comparison, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.landings or self.nodes or self.deliveries or self.reconciliations)

    @property
    def problems(self) -> tuple[str, ...]:
        return ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def as_document(self) -> dict[str, Any]:
        return self._make_document(plan=self.as_json())

    def to_arrow(self) -> pa.Table:
        """A row for each thing to do, in order: step (land, build, deliver, reconcile), node, what; all texts. Then a
        row for each thing that the last sync saw: note, subject, what."""
        rows = [("land", one.node, _format_landing(one)) for one in self.landings]
        rows += [("build", one.unique_id, _format_node(one)) for one in self.nodes]
        rows += [("deliver", one.node, _format_delivery(one)) for one in self.deliveries]
        rows += [("reconcile", one.node, _format_comparison(one)) for one in self.reconciliations]
        rows += [("note", one.subject, _format_note(one)) for one in self.notes]
        return rows_to_arrow(_Step, [_Step(*row) for row in rows])


def make_plan(project: Project) -> Plan:
    """The plan of a project's selection.

    Raises:
        UsageError: a delivery of it is impossible.
    """
    from dbt_bridge.project.claims import refuse_impossible
    from dbt_bridge.project.selection import list_build_order

    refuse_impossible(project)
    return Plan(
        project=project.name,
        landings=tuple(landing for source in project.sources for landing in _list_landings(source, project)),
        nodes=list_build_order(project.graph, project.selected),
        deliveries=tuple(
            _make_outgoing(delivery)
            for delivery in project.deliveries
            if project.selected is None or delivery.node in project.selected
        ),
        reconciliations=tuple(
            _make_comparison(declared)
            for declared in project.reconciliations
            if project.selected is None or declared.node in project.selected
        ),
        notes=recall(project),
    )


def _list_landings(source: LandingSource, project: Project) -> list[Landing]:
    landings = [_make_landing(source, table, project) for table in source.tables if project.needs(table.node)]
    prefix = source.defaults.node
    globs = ("*",) if project.needed is None else project.needed_undeclared
    named = [glob for glob in globs if glob == "*" or glob.startswith(prefix)]
    left_out = tuple(glob.removeprefix(prefix) for glob in project.not_needed_undeclared if glob.startswith(prefix))
    if source.every_table and named:
        every = _make_landing(source, source.defaults, project)
        include = tuple(glob.removeprefix(prefix) for glob in named if glob not in ("*", f"{prefix}*"))
        landings.append(replace(every, include=include or source.include, exclude=(*source.exclude, *left_out)))
    return landings


def _make_landing(source: LandingSource, table: LandingTable, project: Project) -> Landing:
    incremental = table.replication == "incremental"
    name = table.identifier or "*"
    return Landing(
        node=table.node if table.identifier else f"{table.node}*",
        origin=source.origin,
        table=f"{source.origin_schema}.{name}" if source.origin_schema else name,
        lands_in=str(source.relation_of(replace(table, identifier=name))),
        destination=source.destination or project.warehouse.adapter,
        replication=table.replication,
        cursor=table.cursor if incremental else None,
        lag=table.lag if incremental else 0,
        write_disposition="replace" if table.replication == "initial_copy" else table.write_disposition,
        primary_key=table.primary_key,
    )


def _make_outgoing(delivery: Delivery) -> Outgoing:
    made = (node for node in delivery.ancestors if node.startswith(("model.", "seed.", "snapshot.")))
    return Outgoing(
        node=delivery.node,
        model=delivery.model,
        destination=delivery.destination,
        table=f"{delivery.schema}.{delivery.table}",
        write_disposition=delivery.write_disposition,
        primary_key=delivery.primary_key,
        models=tuple(sorted(made)),
        gates=tuple(sorted(delivery.gates)),
        columns=delivery.columns,
        evolve=delivery.evolve,
        deletes=delivery.deletes,
    )


def _make_comparison(declared: Reconciliation) -> Comparison:
    return Comparison(
        node=declared.node,
        legacy=declared.legacy,
        levels=declared.levels if declared.relation or declared.query else (),
        metrics=tuple(metric.name for metric in declared.metrics),
        required=declared.required,
    )


def print_plan(plan: Plan, out: IO[str]) -> None:
    """The plan as a tree."""
    from rich.console import Console
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(f"dbt-bridge build: {plan.project}"))
    required = [one for one in plan.reconciliations if one.required]
    others = [one for one in plan.reconciliations if not one.required]
    steps = [
        (f"land {_format_tables(plan.landings)}", [_format_landing(one) for one in plan.landings]),
        (f"dbt build: {_format_count(len(plan.nodes), 'node')}", [_format_node(one) for one in plan.nodes]),
        (
            f"deliver {_format_count(len(plan.deliveries), 'exposure')}",
            [_format_delivery(one) for one in plan.deliveries],
        ),
    ]
    if required:
        title = f"reconcile {_format_count(len(required), 'model')}"
        steps.insert(2, (title, [_format_comparison(one) for one in required]))
    titled = [(f"{number}. {title}", lines) for number, (title, lines) in enumerate(steps, 1)]
    if others:
        titled.append(("only with dbt-bridge reconcile", [_format_comparison(one) for one in others]))
    if plan.notes:
        titled.append(("seen by the last sync", [_format_note(one) for one in plan.notes]))
    for title, lines in titled:
        branch = tree.add(Text(title, style="bold"))
        for line in lines:
            branch.add(Text(line))
    Console(file=out, width=None if out.isatty() else 10_000, highlight=False).print(tree)


def _format_tables(landings: tuple[Landing, ...]) -> str:
    every = sum(landing.node.endswith(".*") for landing in landings)
    declared = _format_count(len(landings) - every, "table")
    return f"{declared}, and all others of {_format_count(every, 'schema')}" if every else declared


def _format_landing(landing: Landing) -> str:
    facts = [landing.replication.replace("_", " ")]
    if landing.cursor:
        facts.append(f"from cursor {landing.cursor}" + (f" with lag {landing.lag:g}" if landing.lag else ""))
        facts.append(landing.write_disposition or "merge by the origin's key, append without one")
    if landing.primary_key:
        facts.append(f"key {', '.join(landing.primary_key)}")
    if landing.include:
        facts.append(f"only {', '.join(landing.include)}")
    if landing.exclude:
        facts.append(f"without {', '.join(landing.exclude)}")
    return f"{landing.origin}: {landing.table} -> {landing.destination}: {landing.lands_in} ({'; '.join(facts)})"


def _format_node(node: BuildNode) -> str:
    tests = f", then {_format_count(len(node.tests), 'test')}" if node.tests else ""
    made = f" ({node.materialized})" if node.materialized != node.kind else ""
    return f"{node.kind} {node.name}{made}{tests}"


def _format_note(note: Note) -> str:
    subject = note.subject if note.subject.startswith("origin ") else _shorten(note.subject)
    mend = f" -> {note.mend}" if note.mend else ""
    return f"{subject}: {note.what} ({note.seen_at}){mend}"


def _format_comparison(comparison: Comparison) -> str:
    metrics = [_format_count(len(comparison.metrics), "metric")] if comparison.metrics else []
    compared = f" ({', '.join([*comparison.levels, *metrics])})" if comparison.levels else ""
    return f"{_shorten(comparison.node)}: against {comparison.legacy}{compared}"


def _format_delivery(delivery: Outgoing) -> str:
    by = f" by {', '.join(delivery.primary_key)}" if delivery.write_disposition == "merge" else ""
    gates = f"{_format_count(len(delivery.models), 'node')} and {_format_count(len(delivery.gates), 'test')}"
    facts = [f"{delivery.write_disposition}{by}"]
    if delivery.columns:
        facts.append(f"only {', '.join(delivery.columns)}")
    if delivery.deletes == "own":
        facts.append("deletes its own rows that left the model")
    if delivery.evolve:
        facts.append("may add and widen columns")
    return (
        f"{_shorten(delivery.node)}: {_shorten(delivery.model)} -> {delivery.destination}: {delivery.table} "
        f"({'; '.join(facts)}; when {gates} pass)"
    )


def _shorten(unique_id: str) -> str:
    return unique_id.split(".", 2)[-1]


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
