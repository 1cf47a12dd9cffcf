"""sync -> dbt build -> verify -> deliver: the only place that knows all rooms."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dbt_bridge.errors import MissingExtra
from dbt_bridge.run.build import Options, Outcome, build, deliver, reconciled, sync

if TYPE_CHECKING:
    from dbt_bridge.run.comparing import VerifyOptions
    from dbt_bridge.run.reconciling import ReconcileOptions, looked_at, reconcile, reconcile_required
    from dbt_bridge.run.repairing import Repaired, RepairOptions, repair
    from dbt_bridge.run.verifying import verify

__all__ = [
    "Options",
    "Outcome",
    "ReconcileOptions",
    "RepairOptions",
    "Repaired",
    "VerifyOptions",
    "build",
    "deliver",
    "looked_at",
    "reconcile",
    "reconcile_required",
    "reconciled",
    "repair",
    "sync",
    "verify",
]

# What compares needs DuckDB and numpy, which a run that only moves rows may lack.
_COMPARING = {
    "ReconcileOptions": "reconciling",
    "RepairOptions": "repairing",
    "Repaired": "repairing",
    "VerifyOptions": "comparing",
    "looked_at": "reconciling",
    "reconcile": "reconciling",
    "reconcile_required": "reconciling",
    "repair": "repairing",
    "verify": "verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _COMPARING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_COMPARING[name]}"), name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("dbt_bridge"):
            raise
        raise MissingExtra("verify", "comparing rows") from missing
