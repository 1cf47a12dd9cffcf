"""That there is no row for what is to be done."""

from __future__ import annotations

from dbt_bridge.errors import OriginError


class NothingToChange(OriginError):
    """No row is left that can be updated or deleted; inserts may make some."""
