"""dbt's open DuckDB session, and what the current dbt run asks for: how `transfer` finds where it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbt_bridge.errors import UsageError

_ADAPTER = "duckdb"
"""The only adapter that runs Python models in dbt's own process; the others send them to a cluster."""


@dataclass(frozen=True, slots=True)
class Session:
    """The session of the Python model that is running.

    Attributes:
        adapter: dbt's type of the warehouse.
        connection: the model's own; a relation that the model returns must come from it.
        project_root: the folder of `dbt_project.yml`.
        node: dbt's unique_id of the model; its relation's name where dbt does not tell.
    """

    adapter: str
    connection: Any
    project_root: Path
    node: str


def session(dbt: Any, given: Any = None) -> Session:
    """The session of the running model.

    Args:
        dbt: the first argument of `def model(dbt, session)`.
        given: its second argument; found through dbt's adapter when None.

    Raises:
        UsageError: called outside of a dbt-duckdb Python model without `session=`.
    """
    _read_flags()  # refuses where dbt itself is not there
    connection = _unwrap(given if given is not None else _find_connection())
    return Session(_ADAPTER, connection, project_root(), _node(dbt))


def refuse_partial_run(what: str) -> None:
    """Raise where dbt runs on no rows or on a sample: what is written then would replace real rows.

    Raises:
        UsageError: this is a `dbt run --empty` or `--sample`.
    """
    flags = _read_flags()
    for flag in ("EMPTY", "SAMPLE"):
        if getattr(flags, flag, None):
            option = f"--{flag.lower()}"
            raise UsageError(
                f"dbt runs with {option}, and {what} would put its partial rows in the place of real ones",
                mend=f"run dbt without {option}, or leave this model out: --exclude",
            )


def _read_flags() -> Any:
    """dbt's own flags of this run.

    Raises:
        UsageError: there is no dbt 1 in this environment, whose Python models alone can call us.
    """
    try:
        from dbt.flags import get_flags
    except ImportError:
        raise UsageError(
            "transfer, api_to_df and ghost sources need dbt 1 with dbt-duckdb, which is not installed here",
            mend="pip install 'dbt-core<2' dbt-duckdb; with dbt 2, land the rows as a source instead: `bridge` in its "
            "config.meta, then dbt-bridge sync",
        ) from None
    return get_flags()  # type: ignore[no-untyped-call]


def _find_connection() -> Any:
    """The connection that dbt opened for this thread (the one that dbt-duckdb hands to the model)."""
    from dbt.adapters.factory import FACTORY

    adapter = FACTORY.adapters.get(_ADAPTER)
    connection = adapter.connections.get_if_exists() if adapter is not None else None
    if connection is None:
        raise UsageError(
            "there is no dbt-duckdb session in this thread",
            mend="call transfer inside `def model(dbt, session)`, and pass session=session from threads of your own",
        )
    return connection.handle.cursor()


def _unwrap(given: Any) -> Any:
    """dbt-duckdb hands wrappers to models (for retries and errors); the connection is inside."""
    while hasattr(given, "_cursor"):
        given = given._cursor
    return given


def project_root() -> Path:
    """The folder of `dbt_project.yml`, wherever dbt was started."""
    given = getattr(_read_flags(), "PROJECT_DIR", None)
    return Path(given or ".").resolve()


def _node(dbt: Any) -> str:
    from dbt_common.events.contextvars import get_node_info

    unique_id = (get_node_info() or {}).get("unique_id")
    this = getattr(dbt, "this", None)
    return str(unique_id or getattr(this, "identifier", None) or "")
