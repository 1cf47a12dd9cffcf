"""What a connector is: one technology, the words that name it in settings and profiles, and what it can open.

A package registers its connector as an entry point, ours as any other:

    [project.entry-points."dbt_bridge.connectors"]
    jsonl = "dbt_bridge_jsonl.connector:JSONL"

The module that holds the `Connector` is imported whenever a connector is looked for, also for another technology: it
imports nothing but the standard library and this module at its top, and drivers inside the functions that open.
`dbt_bridge.testing` has the tests that an implementation must pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_bridge.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from dbt_bridge.contracts.change_source import ChangeSource
    from dbt_bridge.contracts.destination import Destination, Ledger
    from dbt_bridge.contracts.origin import Origin
    from dbt_bridge.nouns.project import WarehouseProfile
    from dbt_bridge.nouns.reconciliation import Queries

GROUP = "dbt_bridge.connectors"
ANY = "*"
"""A fall-back's word: it opens what no other connector names."""


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """The credentials of `[sources.NAME]`.

    Attributes:
        name: as in `origin: NAME` of the dbt YAML.
        url: `drivername://user:password@host:port/database?query`, with its password.
        drivername: as written, such as `mysql+pymysql`.
        project_root: the folder of `dbt_project.yml`, where relative paths start.
    """

    name: str
    url: str
    drivername: str
    project_root: Path

    @property
    def scheme(self) -> str:
        """The drivername without the driver: `mysql` of `mysql+pymysql`."""
        return self.drivername.partition("+")[0]

    def with_drivername(self, drivername: str) -> str:
        """The URL with another drivername."""
        return f"{drivername}{self.url.removeprefix(self.drivername)}"


@dataclass(frozen=True, slots=True)
class ChangeSourceSettings:
    """What a dbt source with `replication: cdc` says of the log that it is followed through.

    Attributes:
        source: dbt's name of it.
        slot: the name under which the origin keeps the log for this source; no other source has it.
        max_wal: bytes of log that the origin may keep; None for no bound.
        tell: takes sentences for a person: whom the origin waits for, how near the bound is.
    """

    origin: OriginSettings
    source: str
    slot: str
    max_wal: int | None = None
    tell: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class DestinationSettings:
    """What `[destination.NAME]` says; looked up when asked, so that a connector pays only for what it reads.

    Attributes:
        destination_type: the setting of this name without its module; NAME itself where there is none.
        project_root: the folder of `dbt_project.yml`; None where dlt's own working folder counts.
        find_setting: key -> text, from the environment or `.dlt/`; None where it is not set.
        dlt_destination: dlt's destination object. Raises UsageError for a type that dlt does not know.
        dlt_configuration: dlt's configuration with its credentials. Raises UsageError where a setting is missing.
    """

    name: str
    destination_type: str
    project_root: Path | None
    find_setting: Callable[[str], str | None]
    dlt_destination: Callable[[], Any]
    dlt_configuration: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class WarehouseSettings:
    """dbt's profile.

    Attributes:
        is_configured: whether `[destination.ADAPTER]` is there too, for what the profile does not say.
        destination: what it says; with nothing but its type where it is not there.
    """

    profile: WarehouseProfile
    project_root: Path | None
    is_configured: Callable[[], bool]
    destination: Callable[[], DestinationSettings]


@dataclass(frozen=True, slots=True)
class Connector:
    """One technology.

    Attributes:
        name: of the connector.
        title: for people: `Postgres`; empty for one that stands for several technologies.
        drivernames: schemes of origins' URLs, without a driver.
        adapters: types of dbt profiles.
        destination_types: values of `destination_type` in `[destination.NAME]`.
        extra: of the package that registers it, named where a driver is not installed.
        open_origin: rows to land. Constructing an origin does no I/O; neither does one of the following.
        open_queries: the same database, to answer queries in its own SQL.
        open_change_source: the same database, whose log is followed (`replication: cdc`).
        open_destination: where rows are delivered or landed.
        open_warehouse: dbt's warehouse, which keeps the audit tables too.
    """

    name: str
    title: str = ""
    drivernames: frozenset[str] = frozenset()
    adapters: frozenset[str] = frozenset()
    destination_types: frozenset[str] = frozenset()
    extra: str = ""
    open_origin: Callable[[OriginSettings], Origin] | None = None
    open_queries: Callable[[OriginSettings], Queries] | None = None
    open_change_source: Callable[[ChangeSourceSettings], ChangeSource] | None = None
    open_destination: Callable[[DestinationSettings], Destination] | None = None
    open_warehouse: Callable[[WarehouseSettings], Ledger] | None = None


@contextmanager
def require_extra(extra: str, needed_for: str, *, of: str = "dbt-bridge", own: str = "dbt_bridge") -> Iterator[None]:
    """What is imported inside is optional.

    Args:
        extra: that brings it.
        needed_for: for people: `the Postgres origin 'shop_pg'`.
        of: the package whose extra it is.
        own: the module of that package: what is missing inside of it is a fault, and no extra.

    Raises:
        MissingExtra: it is not installed.
        UsageError: nor does the package say what brings it.
    """
    try:
        yield
    except ImportError as missing:
        if (missing.name or "").partition(".")[0] == own:
            raise
        if not extra:
            raise UsageError(
                f"{needed_for} needs the module {missing.name!r}, which is not installed",
                mend=f"see what {of} says of its installation",
            ) from missing
        raise MissingExtra(extra, needed_for, of=of) from missing
