"""The command `dbt-bridge`, which all others are under."""

from __future__ import annotations

import shlex

import click

from dbt_bridge.errors import UsageError

_MORE_THAN_DBT = {
    **dict.fromkeys(
        ("run", "seed", "snapshot", "test", "retry"), "dbt-bridge build lands the sources first, tests and delivers"
    ),
    "debug": "dbt-bridge doctor looks at origins, warehouse and destinations",
}
_DBT_COMMANDS = (
    *_MORE_THAN_DBT,
    "clean", "clone", "compile", "deps", "docs", "list", "ls", "parse", "run-operation", "show", "source",
)  # fmt: skip


class _Commands(click.Group):
    """Our commands. dbt's own, typed here, are pointed back to dbt."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name in _DBT_COMMANDS and name not in self.commands:
            more = f" ({_MORE_THAN_DBT[name]})" if name in _MORE_THAN_DBT else ""
            raise UsageError(f"{name!r} is a command of dbt itself", mend=f"dbt {shlex.join(args)}{more}")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dbt-bridge", prog_name="dbt-bridge")
def cli() -> None:
    """Move, transform, verify and deliver data in one dbt project.

    Sources and exposures say where their rows live, in `config.meta.bridge` of the dbt YAML. Exit codes: 0 all done,
    1 something failed or differs, 2 the command or the project is wrong and nothing was touched, 130 interrupted.

    \b
    Example:
      dbt-bridge demo              see it work, on a real PostgreSQL and DuckDB
      dbt-bridge init my_project   write a project of your own
      dbt-bridge build             land the sources, run dbt build, deliver the exposures
    """
