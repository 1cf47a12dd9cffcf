"""reconcile: models against the legacy relations and queries that they replace, across databases and dialects."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from pyarrow.types import is_temporal

from dbt_bridge.contracts.capabilities import AnswersQueries, OpensOnce
from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.contracts.queries import Queries
from dbt_bridge.contracts.side import Side
from dbt_bridge.errors import BridgeError, DestinationError, OriginError, TypeRefused, UsageError
from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import (
    LEVELS,
    Aggregate,
    Level,
    Method,
    Parity,
    Status,
)
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import new_load_id
from dbt_bridge.nouns.reconciliation import (
    DeclaredTolerance,
    Reconciliation,
    Selection,
    in_parentheses,
)
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.destinations import open_place, open_warehouse
from dbt_bridge.project.origins import open_queries, origin_settings
from dbt_bridge.prove.pair_columns import NamedColumns, Paired, pair_declared
from dbt_bridge.prove.recorder import ParityRecorder, fail_parity, start_parity
from dbt_bridge.verify.ab_metrics import Answer, apply_tolerances, compare_metric
from dbt_bridge.verify.compare import compare, finish_parity
from dbt_bridge.verify.request import Tolerance, VerifyRequest
from dbt_bridge.verify.rows.column_pairs import pair_columns

_WORDS = ("legacy", "new")


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """What the command line says beyond the selection.

    Attributes:
        level: instead of the declared levels.
        shown: differences that are told in full, per model.
    """

    level: Level | None = None
    method: Method = "auto"
    shown: int = 100


def reconcile(project: Project, options: ReconcileOptions, progress: Progress) -> list[Parity]:
    """Compare the selected models with what they replace; each has a row in `_dbt_bridge.parity`.

    What could not be compared is a failed parity, whatever the reason.
    """
    chosen = [r for r in project.reconciliations if project.selected is None or r.node in project.selected]
    return _compare_all(project, chosen, options, progress)


def reconcile_required(project: Project, nodes: Collection[str], progress: Progress) -> list[Parity]:
    """Compare these models where it is required of them."""
    due = [declared for declared in project.reconciliations if declared.required and declared.node in nodes]
    return _compare_all(project, due, ReconcileOptions(), progress)


def describe_reconciliations(project: Project, warehouse: Ledger) -> Iterator[tuple[Reconciliation, str | BridgeError]]:
    """What each selected reconciliation would compare, or why it cannot; reads no row."""
    with ExitStack() as stack:
        databases = _Databases(project, warehouse, stack)
        for declared in project.reconciliations:
            if project.selected is not None and declared.node not in project.selected:
                continue
            try:
                yield declared, _describe_one(declared, Both(databases.legacy(declared), databases.warehouse()))
            except BridgeError as error:
                yield declared, _of_yaml(error)


def _describe_one(declared: Reconciliation, ends: Both[Queries]) -> str:
    for metric in declared.metrics:
        for end, sql in zip(ends, (metric.legacy, metric.new), strict=True):
            end.names(in_parentheses(sql))
    metrics = f"{len(declared.metrics)} metric{'' if len(declared.metrics) == 1 else 's'}"
    if declared.relation is None and not declared.query:
        return metrics
    selected = _select_both(declared, ends)
    pairs = selected.pairs
    for end, selection in zip(ends, selected.selections, strict=True):
        end.names(in_parentheses(selection.sql(end.quote_identifier)))
    if declared.tolerances and not pairs.key and "rows" in declared.levels:
        raise UsageError(
            "rows have no key to meet by, so no tolerance can be kept", mend="declare `key:`, or `levels: [aggregates]`"
        )
    if declared.tolerances and set(declared.levels) != {"counts"}:
        _check_tolerances(declared, selected, ends)
    by = f"by {', '.join(pairs.key)}" if pairs.key else "as whole rows, for want of a key"
    return f"{len(pairs.new)} columns, {by}" + (f"; {metrics}" if declared.metrics else "")


def _check_tolerances(declared: Reconciliation, selected: _Selected, ends: Both[Queries]) -> None:
    """As a comparison does; of columns without a tolerance no type is asked for, as some databases look at values."""
    pairs = selected.pairs
    folded = {name.casefold() for name in declared.tolerances}
    asked = [name for name in pairs.new if name in pairs.key or name.casefold() in folded]
    sides = Both[Side](
        *(
            end.side(word, replace(selection, values={name: selection.values[name] for name in asked}, key=()))
            for end, word, selection in zip(ends, _WORDS, selected.selections, strict=True)
        )
    )
    tolerances = _tolerances(_match_tolerances(declared, sides, pairs))
    request = VerifyRequest(key=pairs.key, columns={name: name for name in asked}, tolerances=tolerances)
    pair_columns(sides, request)


def _compare_all(
    project: Project, chosen: Sequence[Reconciliation], options: ReconcileOptions, progress: Progress
) -> list[Parity]:
    if not chosen:
        return []
    load_id = new_load_id()
    with (
        closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse,
        ExitStack() as stack,
        ParityRecorder(warehouse, progress) as recorder,
    ):
        databases = _Databases(project, warehouse, stack)
        for declared in chosen:
            recorder.record(_one(declared, databases, load_id, options, progress))
            recorder.flush()
    return recorder.parities


class _Databases:
    """The warehouse and the legacy systems of a run, each opened once, and in one state where it has snapshots."""

    def __init__(self, project: Project, warehouse: Ledger, stack: ExitStack) -> None:
        self._project = project
        self._warehouse = warehouse
        self._stack = stack
        self._opened: dict[tuple[str, str], Queries] = {}

    @property
    def name(self) -> str:
        """Of the warehouse."""
        return self._warehouse.name

    def warehouse(self, database: str = "") -> Queries:
        return self._known(("", database), lambda: self._of_warehouse(database))

    def legacy(self, declared: Reconciliation) -> Queries:
        """That of an origin; the warehouse where none is named."""
        origin = declared.origin
        if not origin:
            return self.warehouse(declared.legacy_database)
        return self._known((origin, ""), lambda: self._of_origin(origin))

    def _known(self, name: tuple[str, str], make: Callable[[], Queries]) -> Queries:
        if name not in self._opened:
            self._opened[name] = make()
            self._stack.callback(self._opened[name].close)
        return self._opened[name]

    def _of_origin(self, origin: str) -> Queries:
        settings = origin_settings(origin, project_root=self._project.root)
        if isinstance(self._warehouse, OpensOnce) and self._warehouse.is_database_of(settings):
            return self.warehouse()
        return open_queries(settings)

    def _of_warehouse(self, database: str) -> Queries:
        place = open_place(self._warehouse, database)
        if not isinstance(place, AnswersQueries):
            raise UsageError(
                f"the warehouse {self._warehouse.name!r} answers no queries, which reconcile needs",
                mend="reconcile where the rows are: in DuckDB, PostgreSQL, or a warehouse that dlt asks in SQL",
            )
        return place.queries(self._project.warehouse.schema)


def _one(
    declared: Reconciliation, databases: _Databases, load_id: str, options: ReconcileOptions, progress: Progress
) -> Parity:
    """One reconciliation: rows by the deepest level, aggregates beside them where both are wanted, then metrics."""
    levels = (options.level,) if options.level else declared.levels
    deepest: Level = max(levels, key=LEVELS.index, default="aggregates")
    names = Both(declared.legacy, f"{databases.name}: {declared.display_name}")
    blank = replace(start_parity(load_id, declared.node, names, deepest), words=_WORDS)
    progress.started(declared.node, blank.destination, None)
    found = blank
    try:
        ends = Both(databases.legacy(declared), databases.warehouse())
        if declared.relation is not None or declared.query:
            found = _compare_rows(declared, ends, found, levels, options, progress)
        else:
            found = replace(found, status="equal", level="aggregates", error=None)
        return _with_metrics(declared, ends, found) if declared.metrics else found
    except BridgeError as error:
        return fail_parity(found, _of_yaml(error))


def _of_yaml(error: BridgeError) -> BridgeError:
    """The error with a mend for who wrote the block, where an origin's own speaks of tables that land."""
    if isinstance(error, TypeRefused) and error.needs_override:
        mend = "give it an expression in `columns:`, such as NULLIF(column, '0000-00-00') or a CAST"
        return TypeRefused(error.what, mend=mend)
    if isinstance(error, OriginError) and error.is_unexplained:
        return OriginError(error.what, mend="correct its SQL in the YAML, if it is not the server's fault")
    return error


def _compare_rows(
    declared: Reconciliation,
    ends: Both[Queries],
    blank: Parity,
    levels: Sequence[Level],
    options: ReconcileOptions,
    progress: Progress,
) -> Parity:
    selected = _select_both(declared, ends)
    pairs, selections = selected.pairs, selected.selections
    sides = Both[Side](
        ends.origin.side(blank.origin, selections.origin),
        ends.destination.side(blank.destination, selections.destination),
    )
    allowed = _match_tolerances(declared, sides, pairs)
    asked = VerifyRequest(
        method=options.method,
        key=pairs.key,
        columns={name: name for name in pairs.new},
        tolerances=_tolerances(allowed),
        shown=options.shown,
        progress=lambda done: progress.advanced(declared.node, done, 0),
    )
    found = [
        _at_level(replace(blank, level=level), sides, replace(asked, level=level), allowed)
        for level in sorted(set(levels), key=LEVELS.index)
        if level != "counts" or set(levels) == {"counts"}  # the other levels count too
    ]
    return _note_unpaired(_merge_levels(found), pairs)


@dataclass(frozen=True, slots=True)
class _Selected:
    """What is read of both sides, under the same names, and how these names came about."""

    selections: Both[Selection]
    pairs: Paired


def _select_both(declared: Reconciliation, ends: Both[Queries]) -> _Selected:
    legacy = ends.origin
    rows = legacy.relation(declared.relation) if declared.relation else in_parentheses(declared.query)
    legacy_key = legacy.key(declared.relation) if declared.relation else ()
    pairs = pair_declared(
        declared,
        NamedColumns("legacy", legacy.names(rows), legacy),
        NamedColumns("new", _names_of_model(declared, ends.destination), ends.destination),
        legacy_key,
    )
    names = {value.column: name for name, value in pairs.legacy.items() if value.column}
    unique = tuple(names[column] for column in legacy_key) if set(legacy_key) <= names.keys() else ()
    theirs = Selection(
        rows,
        {n: v.sql for n, v in pairs.legacy.items()},
        declared.legacy_filter,
        declared.relation,
        {n: v.column for n, v in pairs.legacy.items() if v.column},
        unique,
    )
    ours = Selection(declared.this, {n: v.sql for n, v in pairs.new.items()}, declared.new_filter)
    return _Selected(Both(theirs, ours), pairs)


def _match_tolerances(declared: Reconciliation, sides: Both[Side], pairs: Paired) -> dict[str, DeclaredTolerance]:
    """The declared tolerances, by the names of what is compared. Raises UsageError: one is of the wrong unit."""
    names = {name.casefold(): name for name in pairs.new}
    allowed = {names[name.casefold()]: tolerance for name, tolerance in declared.tolerances.items()}
    _check_units(allowed, sides, f"model {declared.name}, reconcile")
    return allowed


def _tolerances(allowed: Mapping[str, DeclaredTolerance]) -> dict[str, Tolerance]:
    return {name: Tolerance(given.amount, given.relative) for name, given in allowed.items()}


def _check_units(allowed: Mapping[str, DeclaredTolerance], sides: Both[Side], where: str) -> None:
    """Moments are apart by a time, numbers by a number or a share: a share of a date says nothing.

    Raises:
        UsageError: a tolerance is of the wrong unit.
    """
    for name, given in allowed.items():
        is_moment = any((c := side.table.column(name)) is not None and is_temporal(c.type) for side in sides)
        if is_moment and not given.time:
            raise UsageError(
                f"{where}: {name!r} is a moment, and its tolerance {given.text!r} is no time",
                mend="write it like `2 seconds` or `1 day`",
            )
        if given.time and not is_moment:
            raise UsageError(
                f"{where}: {name!r} is no moment, and its tolerance {given.text!r} is a time",
                mend="write it like `0.5` or `0.1%`",
            )


def _names_of_model(declared: Reconciliation, new: Queries) -> list[str]:
    try:
        return new.names(declared.this)
    except BridgeError as error:
        # The warehouse is no origin, although the connector of one reads it.
        raise DestinationError(
            f"{declared.display_name} is not there, or cannot be read: {error.what_without_role}",
            mend=f"build it: dbt-bridge build --select {format_shell_selector(declared.node)}",
        ) from error


def _at_level(
    blank: Parity, sides: Both[Side], asked: VerifyRequest, allowed: Mapping[str, DeclaredTolerance]
) -> Parity:
    parity = compare(blank, sides.origin, sides.destination, asked)
    return apply_tolerances(replace(parity, error=None), allowed)


def _merge_levels(found: Sequence[Parity]) -> Parity:
    """The deepest level's parity with the aggregates of the other."""
    deepest = found[-1]
    aggregates = tuple(aggregate for parity in found for aggregate in parity.aggregates)
    status: Status = "equal" if all(parity.is_equal for parity in found) else "different"
    sent = [parity.bytes for parity in found if parity.bytes is not None]
    return finish_parity(deepest, aggregates=aggregates, status=status, bytes=sum(sent) if sent else None)


def _note_unpaired(parity: Parity, pairs: Paired) -> Parity:
    """What has no counterpart is not compared, and that is said."""
    notes = [
        f"only {word} has {', '.join(names)}"
        for word, names in zip(_WORDS, (pairs.only_legacy, pairs.only_new), strict=True)
        if names
    ]
    if not notes:
        return parity
    return replace(parity, why="; ".join(part for part in (parity.why, "not compared: " + ", ".join(notes)) if part))


def _with_metrics(declared: Reconciliation, ends: Both[Queries], found: Parity) -> Parity:
    """Every metric is asked, also after one that cannot be compared, which makes the whole fail."""
    aggregates: list[Aggregate] = []
    errors: list[str] = []
    for metric in declared.metrics:
        try:
            answers = Answer(*ends.origin.result(metric.legacy)), Answer(*ends.destination.result(metric.new))
            aggregates += compare_metric(metric, *answers)
        except BridgeError as error:
            errors.append(f"metric {metric.name!r}: {_of_yaml(error)}".removeprefix(f"metric {metric.name!r}: metric "))
    together = replace(found, aggregates=(*found.aggregates, *aggregates))
    if errors:
        return fail_parity(together, "\n".join(errors))
    same = found.is_equal and all(aggregate.same for aggregate in aggregates)
    return finish_parity(together, status="equal" if same else "different")
