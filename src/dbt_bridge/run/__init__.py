"""sync -> dbt build -> verify -> deliver: the only place that knows all rooms."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dbt_bridge.errors import MissingExtra
from dbt_bridge.run.build import Options, Outcome, build, deliver, reconciled, sync

if TYPE_CHECKING:
    from dbt_bridge.prove.reconcile import (
        ReconcileOptions,
        looked_at,
        reconcile,
        reconcile_required,
    )
    from dbt_bridge.prove.recorder import VerifyOptions
    from dbt_bridge.prove.repair import Repaired, RepairOptions, repair
    from dbt_bridge.prove.verify import verify

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
    "ReconcileOptions": "reconcile",
    "RepairOptions": "repair",
    "Repaired": "repair",
    "VerifyOptions": "recorder",
    "looked_at": "reconcile",
    "reconcile": "reconcile",
    "reconcile_required": "reconcile",
    "repair": "repair",
    "verify": "verify",
}


def __getattr__(name: str) -> Any:
    if name not in _COMPARING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"dbt_bridge.prove.{_COMPARING[name]}"), name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("dbt_bridge"):
            raise
        raise MissingExtra("verify", "comparing rows") from missing
