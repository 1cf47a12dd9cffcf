"""The command `dbt-bridge`, which all others are under."""

from __future__ import annotations

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
