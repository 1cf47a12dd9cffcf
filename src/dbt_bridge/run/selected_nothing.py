"""A selection that leaves nothing: what was selected, and how to select what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.dbt_flags import spell_flags

if TYPE_CHECKING:
    from dbt_bridge.nouns.parity import Parity
    from dbt_bridge.nouns.project import DbtOptions

MOVED = "source table or exposure with a config.meta.bridge block"
REPLACING = "model with config.meta.bridge.reconcile"

_SELECTED_AS = {
    MOVED: "select tables as source:NAME.TABLE (a ? stands for a blank) and deliveries as exposure:NAME",
    REPLACING: "select models by their name",
}
SELECTING = f"{_SELECTED_AS[REPLACING]}, {_SELECTED_AS[MOVED].removeprefix('select ')}"


def format_selection(options: DbtOptions) -> str:
    """The selection's flags, as a command line has them; empty for none."""
    flags = (("--select", options.select), ("--exclude", options.exclude))
    given = [f"{flag} {' '.join(selectors)}" for flag, selectors in flags if selectors]
    return " ".join([*given, *spell_flags(options.flags, "selection")])


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
