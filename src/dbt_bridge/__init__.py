"""dbt-bridge: one dbt project moves, transforms, verifies and delivers data.

`open_project` is for notebooks and orchestrators, `transfer` and `api_to_df` for dbt's Python models. Everything is
imported when it is first used: dbt imports every installed `dbt_*` module at each start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbt_bridge.errors import BridgeError as BridgeError
    from dbt_bridge.errors import ConnectionFailed as ConnectionFailed
    from dbt_bridge.errors import DbtFailed as DbtFailed
    from dbt_bridge.errors import DestinationError as DestinationError
    from dbt_bridge.errors import KeyRefused as KeyRefused
    from dbt_bridge.errors import MissingExtra as MissingExtra
    from dbt_bridge.errors import OriginError as OriginError
    from dbt_bridge.errors import TypeRefused as TypeRefused
    from dbt_bridge.errors import UsageError as UsageError
    from dbt_bridge.nouns.parity import Parity as Parity
    from dbt_bridge.nouns.receipt import Receipt as Receipt
    from dbt_bridge.observe.progress import Progress as Progress
    from dbt_bridge.python_models.guarded_client import guard_client as guard_client
    from dbt_bridge.python_models.transfer import api_to_df as api_to_df
    from dbt_bridge.python_models.transfer import transfer as transfer
    from dbt_bridge.run.open_project import OpenProject as OpenProject
    from dbt_bridge.run.open_project import open_project as open_project

__version__ = "0.1.0"

__all__ = [
    "BridgeError",
    "ConnectionFailed",
    "DbtFailed",
    "DestinationError",
    "KeyRefused",
    "MissingExtra",
    "OpenProject",
    "OriginError",
    "Parity",
    "Progress",
    "Receipt",
    "TypeRefused",
    "UsageError",
    "__version__",
    "api_to_df",
    "guard_client",
    "open_project",
    "transfer",
]

_HOMES = {
    "dbt_bridge.errors": (
        *("BridgeError", "ConnectionFailed", "DbtFailed", "DestinationError", "KeyRefused", "MissingExtra"),
        *("OriginError", "TypeRefused", "UsageError"),
    ),
    "dbt_bridge.nouns.parity": ("Parity",),
    "dbt_bridge.nouns.receipt": ("Receipt",),
    "dbt_bridge.observe.progress": ("Progress",),
    # dbt's plugin manager looks for `plugins` in every `dbt_*` module (dbt.plugins.manager).
    "dbt_bridge.python_models.plugins": ("plugins",),
    "dbt_bridge.python_models.guarded_client": ("guard_client",),
    "dbt_bridge.python_models.transfer": ("api_to_df", "transfer"),
    "dbt_bridge.run.open_project": ("OpenProject", "open_project"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dbt_bridge' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """For completion in notebooks: what is public, imported or not."""
    return [*globals(), *(name for name in __all__ if name not in globals())]
