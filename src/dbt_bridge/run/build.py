"""build = sync -> (verify what landed) -> dbt build -> (reconcile what is required) -> deliver what passed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dbt_bridge.errors import UsageError, require_extra
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import new_load_id
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.claims import refuse_impossible
from dbt_bridge.project.destinations import wait_for_warehouse
from dbt_bridge.run.deliver import deliver, list_unproven, reconcile_built
from dbt_bridge.run.outcomes import BuildOutcome, Parities, Receipts
from dbt_bridge.run.recorded_build import run_recorded
from dbt_bridge.run.sync import SyncOptions, sync

if TYPE_CHECKING:
    from dbt_bridge.project.invoke import BuildResult


def build(
    project: Project,
    dbt_build: Callable[[], BuildResult],
    options: SyncOptions,
    progress: Progress,
    *,
    verify: bool = False,
) -> BuildOutcome:
    """Land what the selection needs, build on it, deliver what passed. Stops before dbt when a table did not land.

    With `verify` dbt builds on what was compared with its origins (cdc tables at one LSN); where that is not equal
    dbt runs all the same, and nothing is delivered that comes from there. Models that are required to reconcile are
    compared with what they replace once dbt has built them.

    Raises:
        UsageError: an origin or a destination is not configured; or a bound for cdc tables, and a verification that
            brings them to a point of its own.
    """
    if verify and (options.until_lsn is not None or options.max_seconds is not None):
        raise UsageError(
            "--verify brings cdc tables to an LSN of its own, so --until-lsn and --max-seconds cannot hold them back",
            mend="dbt-bridge sync with the bound, then dbt-bridge build --verify without it",
        )
    refuse_impossible(project)
    load_id = new_load_id()
    landed = sync(project, options, progress, load_id=load_id)
    if any(receipt.status == "failed" for receipt in landed):
        progress.message("dbt was not run: not every table landed")
        return BuildOutcome(Receipts(landed))
    landings = _verify_landings(project, options, progress) if verify else []
    wait_for_warehouse(project.warehouse, project_root=project.root)  # dbt itself would not
    dbt, known = run_recorded(project, dbt_build, load_id, is_verified=verify)
    # Built without the real rows, no model is what it is to replace.
    statuses = {} if dbt.partial else {node.unique_id: node.status for node in dbt.nodes}
    models = reconcile_built(project, statuses, progress)
    unproven = _list_unproven_landings(landings) | list_unproven(models)
    delivered = deliver(project, known, progress, load_id=load_id, unproven=unproven)
    return BuildOutcome(Receipts((*landed, *delivered)), Parities((*landings, *models)), dbt)


def _verify_landings(project: Project, options: SyncOptions, progress: Progress) -> list[Parity]:
    with require_extra("verify", "comparing rows"):
        from dbt_bridge.prove.recorder import VerifyOptions
        from dbt_bridge.prove.verify import verify
    return verify(project, VerifyOptions(threads=options.threads), progress, deliveries=False)


def _list_unproven_landings(parities: Iterable[Parity]) -> dict[str, str]:
    """Source tables on which nothing may be delivered -> why."""
    reasons = {
        "different": "it is not what its origin has (verify)",
        "failed": "it could not be compared with its origin (verify)",
    }
    return {p.node: reasons[p.status] for p in parities if not p.is_equal}
