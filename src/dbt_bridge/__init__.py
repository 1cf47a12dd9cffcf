"""dbt-bridge: one dbt project moves, transforms, verifies and delivers data.

Everything is imported when it is first used: dbt imports every installed `dbt_*` module at each start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbt_bridge.python_models.transfer import api_to_df as api_to_df
    from dbt_bridge.python_models.transfer import transfer as transfer

__version__ = "0.1.0"

__all__ = ["__version__", "api_to_df", "transfer"]

_LAZY = {
    "transfer": ("dbt_bridge.python_models.transfer", "transfer"),
    "api_to_df": ("dbt_bridge.python_models.transfer", "api_to_df"),
    # dbt's plugin manager looks for this name in every `dbt_*` module (dbt.plugins.manager).
    "plugins": ("dbt_bridge.python_models.ghost_sources", "plugins"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dbt_bridge' has no attribute {name!r}")
    from importlib import import_module

    module, its_name = _LAZY[name]
    return getattr(import_module(module), its_name)
