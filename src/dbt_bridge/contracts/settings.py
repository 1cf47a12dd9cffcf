"""What a project says of an origin, a destination or its warehouse: what a connector opens them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbt_bridge.nouns.project import WarehouseProfile


@dataclass(frozen=True, slots=True)
class ProfileOutput:
    """One output of a dbt profile.

    Attributes:
        profile, target: the names of the profile and of this output.
        adapter: its `type`.
        values: what it says, rendered, without `type` and `threads`; never printed.
    """

    profile: str
    target: str
    adapter: str
    threads: int
    values: Mapping[str, Any] = field(repr=False)


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
        owner: `project/target`, so that a log which nobody uses any more tells whose it was.
        tell: takes sentences for a person: whom the origin waits for, how near the bound is.
    """

    origin: OriginSettings
    source: str
    slot: str
    max_wal: int | None = None
    owner: str = ""
    tell: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class DestinationSettings:
    """What `[destination.NAME]` says; looked up when asked, so that a connector pays only for what it reads.

    Attributes:
        destination_type: the setting of this name without its module; NAME itself where there is none.
        project_root: the folder of `dbt_project.yml`; None where dlt's own working folder counts.
        is_configured: whether there is such a section, in `.dlt/` or the environment.
        find_setting: key -> text, from the environment or `.dlt/`; None where it is not set.
        dlt_destination: dlt's destination object. Raises UsageError for a type that dlt does not know.
        dlt_configuration: dlt's configuration with its credentials. Raises UsageError where a setting is missing.
        find_alone: key -> text, where that text alone says what dlt would make of it; None where dlt must be asked.
    """

    name: str
    destination_type: str
    project_root: Path | None
    is_configured: Callable[[], bool]
    find_setting: Callable[[str], str | None]
    dlt_destination: Callable[[], Any]
    dlt_configuration: Callable[[], Any]
    find_alone: Callable[[str], str | None] = lambda _: None


@dataclass(frozen=True, slots=True)
class WarehouseSettings:
    """dbt's profile.

    Attributes:
        destination: what `[destination.ADAPTER]` says beyond it.
    """

    profile: WarehouseProfile
    project_root: Path | None
    destination: Callable[[], DestinationSettings]


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """The session in which dbt runs a Python model.

    Attributes:
        connection: that of dbt's adapter.
        name: of the destination that the model writes to, for receipts.
    """

    connection: Any
    name: str
