"""What both of dbt's runners guarantee, and the values that they answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from dbt_bridge.nouns.graph import Graph
from dbt_bridge.nouns.project import DbtOptions, WarehouseProfile

NOTHING = "dbt_bridge.looks.and.builds.nothing"
"""A selector that names no node.

To look at a project is a `dbt build` of nothing: unlike `dbt parse` it reads the project with the flags of a build
(`flags.WHICH`, `flags.FULL_REFRESH`), so that both see the same nodes, and share one partial parse. dbt ends before it
opens a connection or runs a hook where nothing is selected.
"""


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What dbt says of one node: `success`, `pass`, `warn`, `error`, `fail`, `skipped`, `no-op`, ...

    Attributes:
        relation_name: the relation that it made, as dbt writes it into SQL; empty for what makes none.
        compiled_code: the SQL that dbt ran; empty where there was none.
        completed_at: when it ended, in UTC; None where dbt does not say.
    """

    unique_id: str
    status: str
    message: str | None
    seconds: float
    relation_name: str = ""
    completed_at: datetime | None = None
    compiled_code: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A `dbt build`: whether dbt itself calls it a success, and every node that it reached.

    Attributes:
        partial: `--empty` or `--sample`, when dbt was told (by its environment) to build without the real rows.
        invocation_id: dbt's own id of the run; empty where it did not run.
        deferred: whether models that were not selected were taken from elsewhere (`--defer`).
    """

    success: bool
    nodes: tuple[NodeResult, ...]
    error: str | None = None
    partial: str | None = None
    invocation_id: str = ""
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """A project as dbt read it.

    Attributes:
        graph: its nodes.
        profile, target: the names of the profile and of its output.
        warehouse: that output, with the adapter's own defaults; None where the runner cannot tell.
        is_repeatable: whether the same files, options and environment always give the same graph: not where a plugin
            of dbt adds nodes from elsewhere.
    """

    graph: Graph
    profile: str = ""
    target: str = ""
    warehouse: WarehouseProfile | None = field(default=None, repr=False)
    is_repeatable: bool = True


class Runner(Protocol):
    """dbt, wherever it is. No call but `build` changes `manifest.json` or `run_results.json` of the project."""

    @property
    def identity(self) -> str:
        """What is another text where another dbt, or another version of it, would run; costs no start of dbt."""

    def parse(self, options: DbtOptions) -> Parsed:
        """The project, with the flags that a `dbt build` of these options has.

        Raises:
            UsageError: dbt cannot parse it, or its profile.
            MissingExtra: dbt, or its adapter of the profile's type, is not installed.
        """

    def list_selected(self, options: DbtOptions) -> frozenset[str]:
        """unique_ids of what the options select (`dbt ls`).

        Raises:
            UsageError: dbt does not understand the selection.
        """

    def build(self, options: DbtOptions, *, quiet: bool = False) -> BuildResult:
        """Run `dbt build`, printing what dbt prints; afterwards nothing of it runs, or holds a file, any more.

        Args:
            quiet: dbt prints errors only.

        Raises:
            DbtFailed: dbt stopped before or while it ran nodes (a wrong option, a lost warehouse).
            KeyboardInterrupt: the user stopped it.
        """


def as_utc(moment: datetime) -> datetime:
    """dbt's moments are in UTC, some of them without saying so."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def find_partial_option(arguments: Mapping[str, Any]) -> str | None:
    """The option that makes dbt build on no rows or on a sample of them, from what dbt says of its own run."""
    return next((f"--{name}" for name in ("empty", "sample") if arguments.get(name)), None)
