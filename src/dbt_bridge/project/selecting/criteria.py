"""dbt's selector syntax as values: of the command line and of selectors.yml, for what dbt cannot say of itself.

dbt decides what is selected. It does not say what an exclusion names, nor anything of tables that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

_CRITERION = re.compile(r"(?P<before>@|\d*\+)?(?:(?P<method>[\w.]+):)?(?P<value>.*?)(?P<after>\+\d*)?", re.DOTALL)
"""dbt's own pattern (`dbt.graph.selector_spec`)."""


@dataclass(frozen=True, slots=True)
class Criterion:
    """`2+tag:nightly+`: a method, its value, and how far it reaches.

    Attributes:
        method: empty where dbt chooses by the value: a path, a file or a name.
    """

    method: str
    value: str
    before: str = ""
    after: str = ""

    def __str__(self) -> str:
        return f"{self.before}{self.method}{':' if self.method else ''}{self.value}{self.after}"


Together = tuple[Criterion, ...]
"""Criteria that a node must all meet (`a,b`)."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What is meant to be selected.

    Attributes:
        included: any of these; None for everything.
        excluded: none of these.
    """

    included: tuple[Together, ...] | None = None
    excluded: tuple[Together, ...] = field(default=())

    def list_criteria(self) -> Iterator[Criterion]:
        """All that are included."""
        return (criterion for together in self.included or () for criterion in together)


def parse_texts(texts: Iterable[str]) -> tuple[Together, ...]:
    """What stands after `--select` or `--exclude`."""
    parts = [part for text in texts for part in text.split()]
    return tuple(tuple(map(_parse_criterion, part.split(","))) for part in parts)


def _parse_criterion(text: str) -> Criterion:
    found = _CRITERION.fullmatch(text)
    assert found is not None, "every part of it may be absent"
    return Criterion(found["method"] or "", found["value"], found["before"] or "", found["after"] or "")


def spell_texts(alternatives: Iterable[Together]) -> tuple[str, ...]:
    """As they stand after `--select`."""
    return tuple(",".join(map(str, together)) for together in alternatives)


def parse_definition(name: str, selectors: Mapping[str, Mapping[str, Any]]) -> Selection:
    """A selector of selectors.yml. An exclusion inside of a part counts for the whole.

    Args:
        selectors: all of them, by name: each may hold others.
    """
    excluded: list[Together] = []
    return Selection(tuple(_Definitions(selectors).list_named(name, excluded)), tuple(excluded))


@dataclass(frozen=True, slots=True)
class _Definitions:
    selectors: Mapping[str, Mapping[str, Any]]
    within: tuple[str, ...] = ()

    def list_named(self, name: str, excluded: list[Together]) -> list[Together]:
        if name in self.within or name not in self.selectors:  # dbt refuses both
            return []
        inside = _Definitions(self.selectors, (*self.within, name))
        return inside.list_alternatives(self.selectors[name].get("definition"), excluded)

    def list_alternatives(self, definition: Any, excluded: list[Together]) -> list[Together]:
        if isinstance(definition, str):
            return [(_parse_criterion(definition),)]  # dbt takes no blank and no comma for more than itself here
        if not isinstance(definition, Mapping):
            return []
        for one in definition.get("exclude") or ():
            excluded += self.list_alternatives(one, excluded)
        if "union" in definition:
            return [together for one in definition["union"] for together in self.list_alternatives(one, excluded)]
        if "intersection" in definition:
            each = [self.list_alternatives(one, excluded) for one in definition["intersection"]]
            sides = [side for side in each if side]  # a part that only excludes adds nothing
            return [tuple(c for together in chosen for c in together) for chosen in product(*sides)] if sides else []
        if "method" in definition:
            method, value = str(definition["method"]), str(definition.get("value", ""))
            if method == "selector":
                return self.list_named(value, excluded)
            before = "@" if definition.get("childrens_parents") else _spell_reach(definition, "parents", "{}+")
            return [(Criterion(method, value, before, _spell_reach(definition, "children", "+{}")),)]
        return [(Criterion(str(method), str(value)),) for method, value in definition.items() if method != "exclude"]


def _spell_reach(definition: Mapping[str, Any], side: str, form: str) -> str:
    return form.format(definition.get(f"{side}_depth") or "") if definition.get(side) else ""


def list_meeting(
    alternatives: Sequence[Together],
    meets: Callable[[Criterion], Sequence[str]],
    both: Callable[[str, str], str | None],
) -> tuple[str, ...]:
    """The globs of what meets any of the alternatives.

    Args:
        meets: the globs of what meets one criterion.
        both: the glob of what two globs have in common; None for nothing.
    """
    found: dict[str, None] = {}
    for together in alternatives:
        common: list[str] | None = None
        for criterion in together:
            globs = meets(criterion)
            met = globs if common is None else [glob for pair in product(common, globs) if (glob := both(*pair))]
            common = list(met)
        found |= dict.fromkeys(common or ())
    return tuple(found)
