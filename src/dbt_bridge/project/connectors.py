"""Which connector opens what: found by the entry points of all installed packages, ours among them.

A connector that names the technology itself comes before a fall-back (`ANY`: dlt, SQLAlchemy).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from dbt_bridge import connectors as ours
from dbt_bridge.contracts.change_source import ChangeSource
from dbt_bridge.contracts.connector import ANY, GROUP, Connector
from dbt_bridge.contracts.destination import Destination, Ledger
from dbt_bridge.contracts.model_session import ModelSession
from dbt_bridge.contracts.origin import Origin
from dbt_bridge.contracts.queries import Queries
from dbt_bridge.contracts.settings import (
    ChangeSourceSettings,
    DestinationSettings,
    OriginSettings,
    SessionSettings,
    WarehouseSettings,
)
from dbt_bridge.errors import UsageError, require_extra
from dbt_bridge.nouns.names import UNKNOWN, NameRules

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Opening(Generic[S, T]):
    """One thing that connectors open.

    Attributes:
        spoken: for people, followed by the word that names the technology.
        words: of those that a connector takes.
        opener: of a connector; None where it cannot.
    """

    spoken: str
    words: Callable[[Connector], frozenset[str]]
    opener: Callable[[Connector], Callable[[S], T] | None]


ORIGINS: Opening[OriginSettings, Origin] = Opening(
    "an origin with the drivername", lambda c: c.drivernames, lambda c: c.open_origin
)
QUERIES: Opening[OriginSettings, Queries] = Opening(
    "an origin with the drivername", lambda c: c.drivernames, lambda c: c.open_queries
)
CHANGE_SOURCES: Opening[ChangeSourceSettings, ChangeSource] = Opening(
    "a change source with the drivername", lambda c: c.drivernames, lambda c: c.open_change_source
)
DESTINATIONS: Opening[DestinationSettings, Destination] = Opening(
    "a destination of the type", lambda c: c.destination_types, lambda c: c.open_destination
)
WAREHOUSES: Opening[WarehouseSettings, Ledger] = Opening(
    "a warehouse with dbt's adapter", lambda c: c.adapters, lambda c: c.open_warehouse
)
SESSIONS: Opening[SessionSettings, ModelSession] = Opening(
    "the Python models of dbt's adapter", lambda c: c.adapters, lambda c: c.open_session
)


@dataclass(frozen=True, slots=True)
class Registered:
    """A connector, and the package that registers it."""

    connector: Connector
    distribution: str
    module: str

    def needs(self, needed_for: str) -> AbstractContextManager[None]:
        """What is imported inside may be missing: its extra is named then.

        Args:
            needed_for: what is opened, as `the {} destination 'x'`; the connector's title stands in the braces.
        """
        words = " ".join(needed_for.replace("{}", self.connector.title).split())
        own = self.module.partition(".")[0]
        return require_extra(self.connector.extra, words, of=self.distribution, own=own)


class Registry:
    """The connectors of some entry points; their modules are imported when one is first looked for."""

    def __init__(self, points: Sequence[EntryPoint]) -> None:
        self._points = points

    def open(self, what: Opening[S, T], word: str, settings: S, needed_for: str) -> T:
        """Open something.

        Args:
            word: a drivername without its driver, a destination type, or dbt's adapter.
            needed_for: see `Registered.needs`.

        Raises:
            UsageError: no connector does, two do, or one that might could not be imported.
            MissingExtra: its driver is not installed.
        """
        found, opener = self._find(what, word)
        with found.needs(needed_for):
            return opener(settings)

    def find(self, what: Opening[S, T], word: str) -> Connector:
        """The connector that opens this.

        Raises:
            UsageError: as `open` does.
        """
        return self._find(what, word)[0].connector

    def find_name_rules(self, what: Opening[S, T], word: str) -> NameRules:
        """How the database that this word names reads names.

        Raises:
            UsageError: as `open` does.
        """
        return self.find(what, word).names.get(word, UNKNOWN)

    def list_titles(self, what: Opening[S, T]) -> list[str]:
        """For people: the technologies that are opened, those that stand for several left out."""
        connectors = [one.connector for one in self._loaded[0]]
        return sorted(c.title for c in connectors if c.title and what.opener(c) is not None)

    def can_open(self, what: Opening[S, T], word: str) -> bool:
        """Whether a connector opens this.

        Raises:
            UsageError: none does, but one that might could not be imported.
        """
        registered, failures = self._loaded
        connectors = [one.connector for one in registered]
        if any(not {word, ANY}.isdisjoint(what.words(c)) and what.opener(c) is not None for c in connectors):
            return True
        if failures:
            raise failures[0]
        return False

    def _find(self, what: Opening[S, T], word: str) -> tuple[Registered, Callable[[S], T]]:
        """The connector that opens this, and how: one that names it, or else the fall-back."""
        registered, failures = self._loaded
        for one in registered:
            _require_one([other for other in registered if other.connector.name == one.connector.name], "the same name")
        for candidate in (word, ANY):
            openers = [
                (one, opener)
                for one in registered
                if candidate in what.words(one.connector) and (opener := what.opener(one.connector)) is not None
            ]
            _require_one([one for one, _ in openers], f"{what.spoken} {word!r}")
            if openers:
                return openers[0]
            if failures:
                raise failures[0]  # it might be the one: a fall-back would read or write otherwise
        known = sorted({known for one in registered for known in what.words(one.connector) if known != ANY})
        raise UsageError(
            f"no connector opens {what.spoken} {word!r}",
            mend=f"install the package that brings it; known are {', '.join(known)}",
        )

    @cached_property
    def _loaded(self) -> tuple[list[Registered], list[UsageError]]:
        """The connectors, and why others are none."""
        registered: list[Registered] = []
        failures: list[UsageError] = []
        for point in self._points:
            try:
                registered.append(_load(point))
            except UsageError as error:
                failures.append(error)
        return registered, failures


def _require_one(claiming: Sequence[Registered], what: str) -> None:
    if len(claiming) < 2:
        return
    packages = [one.distribution for one in claiming]
    spoken = " and ".join(f"{one.connector.name!r} of {one.distribution}" for one in claiming)
    others = [package for package in packages if package != "dbt-bridge"] or packages
    raise UsageError(f"several connectors claim {what}: {spoken}", mend=f"remove one: pip uninstall {others[-1]}")


@cache
def registry() -> Registry:
    """The connectors of this environment.

    Raises:
        UsageError: the installation is older than the code, and lacks some of ours.
    """
    points = tuple(entry_points(group=GROUP))
    modules = {point.module.rpartition(".")[0] for point in points}
    lacking = [m.name for m in pkgutil.iter_modules(ours.__path__) if f"{ours.__name__}.{m.name}" not in modules]
    if lacking:
        raise UsageError(
            f"dbt-bridge is installed without its connectors {', '.join(lacking)}: the installation is older than"
            " its code",
            mend="install it again from its wheel, with --force-reinstall --no-deps (docs/install.md); in a clone:"
            " rm -f .venv/.installed && make install",
        )
    return Registry(points)


def _load(point: EntryPoint) -> Registered:
    """Import what an entry point names.

    Raises:
        UsageError: it cannot be imported, or is no connector.
    """
    distribution = point.dist.name if point.dist is not None else point.module.partition(".")[0]
    mend = f"upgrade or remove it: pip install --upgrade {distribution}, or pip uninstall {distribution}"
    try:
        connector = point.load()
    except Exception as error:  # whatever a package of somebody else does when it is imported
        raise UsageError(
            f"the connector {point.name!r} of {distribution} cannot be imported: {type(error).__name__}: {error}",
            mend=mend,
        ) from error
    if not isinstance(connector, Connector):
        raise UsageError(
            f"the connector {point.name!r} of {distribution} is a {type(connector).__name__}, and no Connector",
            mend=mend,
        )
    return Registered(connector, distribution, point.module)
