"""Which columns of two systems belong together, from what was declared and what both have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from dbt_bridge.contracts.queries import Queries
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.reconciliation import Reconciliation

_WORD = re.compile(r"[^\W\d]\w*")  # a column's name as people write it; everything else is SQL


@dataclass(frozen=True, slots=True)
class Value:
    """A value of one side: SQL, and the column that it is where it is nothing else."""

    sql: str
    column: str = ""


@dataclass(frozen=True, slots=True)
class Paired:
    """What is compared.

    Attributes:
        legacy, new: name -> value; both have the same names, which are the new side's.
        key: some of these names; empty to compare whole rows.
        only_legacy, only_new: columns that have no counterpart, and are not compared.
    """

    legacy: Mapping[str, Value]
    new: Mapping[str, Value]
    key: tuple[str, ...]
    only_legacy: tuple[str, ...] = field(default=())
    only_new: tuple[str, ...] = field(default=())


class NamedColumns:
    """One side's columns, found by their exact name or, where that is clear, by it in another case."""

    def __init__(self, word: str, names: Sequence[str], database: Queries) -> None:
        self.names = names
        self._word = word
        self._database = database

    def find(self, name: str) -> str | None:
        if name in self.names:
            return name
        alike = [own for own in self.names if own.casefold() == name.casefold()]
        return alike[0] if len(alike) == 1 else None

    def column(self, name: str) -> Value:
        return Value(self._database.quote_identifier(name), name)

    def value(self, said: str, where: str) -> Value:
        """A column, or SQL.

        Raises:
            UsageError: it looks like a column's name, and there is none.
        """
        found = self.find(said.strip())
        if found is not None:
            return self.column(found)
        if not _WORD.fullmatch(said.strip()):
            return Value(f"(\n{said}\n)")
        raise self.missing(said.strip(), where)

    def missing(self, name: str, where: str) -> UsageError:
        near = get_close_matches(name, self.names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.names)}"
        return UsageError(f"{where}: the {self._word} side has no column {name!r}", mend=hint)


def pair_declared(
    declared: Reconciliation, legacy: NamedColumns, new: NamedColumns, legacy_key: tuple[str, ...]
) -> Paired:
    """Which values are compared, and by which key.

    Args:
        legacy_key: the legacy relation's own, for want of a better one.

    Raises:
        UsageError: a name that was declared is nowhere, or nothing is left to compare.
    """
    where = f"model {declared.name}, reconcile"
    pairs = _by_name(declared, legacy, new, where)
    for name, pairing in declared.columns.items():
        own = new.find(name)
        if own is None and not pairing.new:
            raise new.missing(name, where)
        place = own or name
        other = legacy.value(pairing.legacy, where) if pairing.legacy else _same(legacy, place, where)
        pairs[place] = (other, new.value(pairing.new, where) if pairing.new else new.column(place))
    key = _key(declared, legacy, new, pairs, legacy_key)
    _check_names(declared, [*pairs, *legacy.names, *new.names], pairs, where)
    if not pairs:
        raise UsageError(
            f"{where}: no column has the same name on both sides", mend="say which belong together in `columns:`"
        )
    ours, theirs = {n: new for n, (_, new) in pairs.items()}, {n: old for n, (old, _) in pairs.items()}
    return Paired(
        theirs,
        ours,
        key,
        _find_unused(declared, legacy.names, theirs, declared.legacy_filter),
        _find_unused(declared, new.names, ours, declared.new_filter),
    )


def _find_unused(
    declared: Reconciliation, names: Sequence[str], values: Mapping[str, Value], condition: str
) -> tuple[str, ...]:
    """The columns that nothing is said of: not compared, in no expression and no filter, not left out on purpose."""
    if declared.only:
        return ()
    passed_over = {_fold(name) for name in declared.exclude} | {_fold(v.column) for v in values.values()}
    said = "\n".join([condition, *(value.sql for value in values.values() if not value.column)])
    return tuple(name for name in names if _fold(name) not in passed_over and not _mentions(said, name))


def _mentions(sql: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql, re.IGNORECASE) is not None


def _by_name(
    declared: Reconciliation, legacy: NamedColumns, new: NamedColumns, where: str
) -> dict[str, tuple[Value, Value]]:
    """The columns that both sides have under one name, in the new side's order."""
    excluded = {_fold(name) for name in declared.exclude}
    for name in declared.only:
        if new.find(name) is None and name not in declared.columns:
            raise new.missing(name, where)
    only = {_fold(name) for name in declared.only}
    found: dict[str, tuple[Value, Value]] = {}
    for name in new.names:
        if _fold(name) in excluded or (only and _fold(name) not in only):
            continue
        other = legacy.find(name)
        if other is not None:
            found[name] = (legacy.column(other), new.column(name))
        elif only and name not in declared.columns:
            raise legacy.missing(name, where)
    return found


def _same(legacy: NamedColumns, name: str, where: str) -> Value:
    found = legacy.find(name)
    if found is None:
        raise legacy.missing(name, where)
    return legacy.column(found)


def _key(
    declared: Reconciliation,
    legacy: NamedColumns,
    new: NamedColumns,
    pairs: dict[str, tuple[Value, Value]],
    legacy_key: tuple[str, ...],
) -> tuple[str, ...]:
    where = f"model {declared.name}, reconcile.key"
    if declared.key:
        named = []
        for name, other in declared.key.items():
            own = new.find(name) or (name if name in pairs else None)
            if own is None:
                raise new.missing(name, where)
            if own not in declared.columns:
                pairs[own] = (legacy.value(other, where), new.column(own))
            named.append(own)
        return tuple(named)
    own_key = [new.find(name) for name in declared.default_key]
    if own_key and all(name is not None and name in pairs for name in own_key):
        return tuple(name for name in own_key if name is not None)
    by_column = {value.column: name for name, (value, _) in pairs.items() if value.column}
    if legacy_key and all(column in by_column for column in legacy_key):
        return tuple(by_column[column] for column in legacy_key)
    return ()


def _check_names(declared: Reconciliation, known: Sequence[str], compared: Iterable[str], where: str) -> None:
    for use, names, choice, is_not in (
        ("exclude", declared.exclude, known, "which neither side has"),
        ("tolerances", declared.tolerances, list(compared), "which is not compared"),
    ):
        valid = {_fold(name) for name in choice}
        for name in names:
            if _fold(name) not in valid:
                near = get_close_matches(name, choice, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(dict.fromkeys(choice))}"
                raise UsageError(f"{where}: `{use}` names {name!r}, {is_not}", mend=hint)


def _fold(name: str) -> str:
    return name.casefold()
