"""deliver: the rows of exposures go out to where people work (reverse ETL)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from types import MappingProxyType

from dbt_bridge.deliver.build_record import Known
from dbt_bridge.deliver.delivery import deliver_exposure, start_delivery
from dbt_bridge.deliver.gate import find_refusal, format_options
from dbt_bridge.deliver.tested_rows import find_change
from dbt_bridge.errors import require_extra
from dbt_bridge.nouns import receipt as record
from dbt_bridge.nouns.node_record import PASSED
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import Project
from dbt_bridge.nouns.receipt import Receipt, new_load_id
from dbt_bridge.observe.progress import Progress
from dbt_bridge.project.claims import refuse_impossible, refuse_shared_databases
from dbt_bridge.project.destinations import open_warehouse
from dbt_bridge.run.outcomes import DeliverOutcome, Parities, Receipts
from dbt_bridge.run.recorded_build import read_known


def deliver_last_build(project: Project, progress: Progress, *, dry_run: bool) -> DeliverOutcome:
    """Deliver the selected exposures, as the last `dbt build` left their models.

    Raises:
        UsageError: nothing was ever built here.
    """
    refuse_shared_databases(project)
    refuse_impossible(project)
    known = read_known(project, keep=not dry_run)
    statuses = {node: one.status for node, one in known.items()}
    required = reconcile_built(project, statuses, progress, for_deliveries=True)
    receipts = deliver(project, known, progress, dry_run=dry_run, unproven=list_unproven(required))
    return DeliverOutcome(Receipts(receipts), Parities(required))


def deliver(
    project: Project,
    known: Known,
    progress: Progress,
    *,
    dry_run: bool = False,
    load_id: str | None = None,
    unproven: Mapping[str, str] = MappingProxyType({}),
) -> list[Receipt]:
    """Deliver the selected exposures whose ancestors and their tests all passed; a skipped one says why.

    Args:
        known: the last build of each node, of this run or of earlier ones.
        dry_run: only count what would be inserted, updated and deleted.
        unproven: source tables and models on which nothing may be delivered, and why.
    """
    load_id = load_id or new_load_id()
    chosen = [d for d in project.deliveries if project.selected is None or d.node in project.selected]
    if not chosen:
        return []
    receipts: list[Receipt] = []
    with closing(open_warehouse(project.warehouse, project_root=project.root)) as warehouse:
        for item in chosen:
            receipt = start_delivery(item, load_id)
            options = format_options(project)
            why = find_refusal(item, known, unproven, options)
            built = known.get(item.model)
            if why is None and built is not None and built.build_id != load_id:  # else it was just built and tested
                why = find_change(item, known, warehouse, options)
            if why is not None:
                receipt = record.skip_receipt(receipt, why)
            else:
                receipt = deliver_exposure(
                    item,
                    warehouse,
                    project.root,
                    receipt,
                    progress,
                    dry_run=dry_run,
                    build_id=known[item.model].build_id if item.model in known else "",
                )
            if not dry_run:
                warehouse.record([receipt])  # at once: what follows may be killed
            progress.finished(receipt)
            receipts.append(receipt)
    return receipts


def reconcile_built(
    project: Project, statuses: Mapping[str, str], progress: Progress, *, for_deliveries: bool = False
) -> list[Parity]:
    """Compare the models with `required: true` that dbt built with what they replace.

    Args:
        statuses: dbt's status per unique_id of what ran.
        for_deliveries: only those models that a selected exposure depends on.
    """
    due = {r.node for r in project.reconciliations if r.required and statuses.get(r.node) in PASSED}
    if for_deliveries:
        due &= {
            n for d in project.deliveries if project.selected is None or d.node in project.selected for n in d.ancestors
        }
    if not due:
        return []
    with require_extra("verify", "comparing rows"):
        from dbt_bridge.prove.reconcile import reconcile_required
    return reconcile_required(project, due, progress)


def list_unproven(required: Iterable[Parity]) -> dict[str, str]:
    """Models on which nothing may be delivered -> why."""
    reasons = {"different": "it does not reconcile with", "failed": "it could not be compared with"}
    return {p.node: f"{reasons[p.status]} {p.origin}" for p in required if not p.is_equal}
