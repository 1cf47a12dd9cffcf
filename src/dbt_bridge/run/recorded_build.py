"""dbt runs, and the warehouse keeps what became of each node: as unfinished before, as it ended afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from dbt_bridge.contracts.destination import Ledger
from dbt_bridge.deliver import build_record
from dbt_bridge.deliver.build_record import Known
from dbt_bridge.deliver.gate import format_options
from dbt_bridge.deliver.tested_rows import take_fingerprints
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import Project
from dbt_bridge.project.destinations import open_warehouse
from dbt_bridge.project.redirected import mark_redirected
from dbt_bridge.run.altered_landings import list_exposed, look_at, mark_altered

if TYPE_CHECKING:
    from dbt_bridge.project.invoke import BuildResult


def run_recorded(
    project: Project,
    dbt_build: Callable[[], BuildResult],
    build_id: str,
    command: str = "dbt-bridge build",
    nodes: Iterable[str] | None = None,
    *,
    is_verified: bool = False,
) -> tuple[BuildResult, Known]:
    """Run dbt; what is known of every node afterwards. A project that delivers nothing needs no record of it.

    Nothing is open while dbt runs: it may be another process's turn to hold the warehouse's file.

    Args:
        build_id: of this run, and of no other.
        nodes: what it builds and tests; by default what the project's selection names.
        is_verified: its landings were compared with their origins, and are to stay as they were.
    """
    about_to_run = build_record.list_built(project) if nodes is None else frozenset(nodes)
    exposed = list_exposed(project, about_to_run) if is_verified or project.deliveries else {}
    if not project.deliveries and not exposed:
        return mark_redirected(project, dbt_build()), {}
    with _open(project) as warehouse:
        landings = look_at(exposed, warehouse)
        before = build_record.select_known(build_record.read_records(warehouse), build_record.find_place(project))
        begun = build_record.begin_build(project, about_to_run, before, build_id, command)
        build_record.save_records(warehouse, begun.records.values(), build_id)
    result = mark_redirected(project, dbt_build())
    with _open(project) as warehouse:
        result = mark_altered(result, landings, look_at(exposed, warehouse), project.graph)
        known: Known = build_record.finish_build(begun, result, project.graph)
        ended = [record for node, record in known.items() if node in begun.records or before.get(node) is not record]
        build_record.save_records(warehouse, ended, build_id)
        known = _take_fingerprints(project, known, warehouse, build_id)
    return result, known


def read_known(project: Project, *, keep: bool = True) -> Known:
    """As `find_known`.

    Raises:
        UsageError: nothing was ever built here.
    """
    known = find_known(project, keep=keep)
    if not known:
        raise UsageError(
            f"nothing is known of a build of {project.name} for the target {project.target} in this warehouse, so"
            " nothing is known of the tests that guard deliveries",
            mend=f"dbt-bridge build{format_options(project)}",
        )
    return known


def find_known(project: Project, *, keep: bool = True) -> Known:
    """What is known of each node, of builds of the bridge's own and of what dbt's last command says beyond that.

    Args:
        keep: write down what dbt's last command says, as its next one may overwrite it.
    """
    from dbt_bridge.deliver.dbt_runs import adopt_run
    from dbt_bridge.project.run_results import read_last_run

    with _open(project) as warehouse:
        records = build_record.read_records(warehouse)
        known: Known = build_record.select_known(records, build_record.find_place(project))
        run = read_last_run(project.target_path)
        adopted = adopt_run(run, project, records, known) if run is not None else {}
        known = {**known, **adopted}
        if keep and run is not None:
            build_record.save_records(warehouse, adopted.values(), run.invocation_id)
            known = _take_fingerprints(project, known, warehouse, run.invocation_id)
    return known


def _open(project: Project) -> closing[Ledger]:
    return closing(open_warehouse(project.warehouse, project_root=project.root))


def _take_fingerprints(project: Project, known: Known, warehouse: Ledger, build_id: str) -> Known:
    """Of every delivery's model, selected or not: a later command delivers what was built and tested now."""
    taken = take_fingerprints(project.deliveries, known, warehouse)
    build_record.save_records(warehouse, taken.values(), build_id)
    return {**known, **taken}
