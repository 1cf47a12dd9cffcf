"""A selection that leaves nothing: what was selected, and how to select what there is."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.selector import format_selector
from dbt_bridge.project.arguments import format_selection

if TYPE_CHECKING:
    from dbt_bridge.nouns.parity import Parity
    from dbt_bridge.nouns.project import DbtOptions

__all__ = [
    "MOVED",
    "REPLACING",
    "SELECTING",
    "format_selection",
    "nothing_compared",
    "nothing_there",
    "require_compared",
]

MOVED = "source table or exposure with a config.meta.bridge block"
REPLACING = "model with config.meta.bridge.reconcile"

_SELECTED_AS = {
    MOVED: "select tables as source:NAME.TABLE (a ? stands for a blank) and deliveries as exposure:NAME",
    REPLACING: "select models by their name",
}
SELECTING = f"{_SELECTED_AS[REPLACING]}, {_SELECTED_AS[MOVED].removeprefix('select ')}"


def require_compared(parities: Sequence[Parity], things: str, options: DbtOptions) -> None:
    """A gate that compared nothing must not pass.

    Args:
        things: what is compared, for a selection that has none of it.

    Raises:
        UsageError: nothing was compared.
    """
    if not parities:
        raise nothing_compared(things, options)


def nothing_compared(things: str, options: DbtOptions) -> UsageError:
    """The message says what the selection has none of."""
    given = format_selection(options)
    whose = f"{given} leaves no" if given else "the project has no"
    advice = f"{_SELECTED_AS[things]}; " if given and things in _SELECTED_AS else ""
    return UsageError(
        f"nothing was compared: {whose} {things}", mend=f"{advice}look at what is declared: dbt-bridge plan"
    )


def nothing_there(options: DbtOptions, there: Sequence[str]) -> UsageError:
    """A selection that names tables which neither dbt nor the origins know.

    Args:
        there: unique_ids of what the origins have.
    """
    names = [format_selector(node) for node in there]
    asked = [part for selector in options.select for part in selector.split()]
    nearest = next((near[0] for one in asked if (near := get_close_matches(one.strip("+@"), names, n=1))), None)
    return UsageError(
        f"{format_selection(options)} selects nothing: dbt declares no such table, and the origin has none",
        mend=f"did you mean {nearest}?" if nearest else f"one of {', '.join(sorted(names)[:10])}",
    )
