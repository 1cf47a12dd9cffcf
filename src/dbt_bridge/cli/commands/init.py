"""init: a dbt project that works."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OUTPUT, add_options, make_output


@cli.command(short_help="Write a dbt project that works.")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="The dbt project's name; the folder's by default.")
@click.option(
    "--origin-url",
    envvar="DBT_BRIDGE_ORIGIN_URL",
    help="Your own database: the project gets its tables, and .dlt/secrets.toml this URL.",
)
@click.option("--origin-schema", help="Schema of --origin-url to take; its default one otherwise.")
@click.option(
    "--template",
    type=click.Choice(["shop", "lakehouse"]),
    default="shop",
    show_default=True,
    help="The demo's shop in DuckDB, or in Delta tables kept by change data capture.",
)
@add_options(*OUTPUT)
def init(
    directory: Path, name: str | None, origin_url: str | None, origin_schema: str | None, template: str, **given: Any
) -> int:
    """Write a dbt project that works into DIRECTORY: sources, models, tests, snapshot, seed, exposure.

    Without --origin-url it is the demo's shop, to be changed into yours. The lakehouse is the shop in Delta tables,
    with entry points for schedulers.

    \b
    Example:
      dbt-bridge init my_project
      dbt-bridge init my_project --origin-url postgresql://me:secret@host/database
      dbt-bridge init my_lake --template lakehouse
      cd my_project && dbt-bridge doctor
    """
    output = make_output(given)
    from dbt_bridge.scaffold.template import Answers, write_project

    name = name or re.sub(r"\W+", "_", directory.resolve().name, flags=re.ASCII).lower()
    answers = Answers(name=name, warehouse=f"{name}.duckdb")
    if template != "shop":
        answers = replace(answers, origin_url=origin_url) if origin_url else answers
        files = write_project(directory, answers, template)
    elif origin_url:
        from dbt_bridge.scaffold.from_origin import write_own_project

        files = write_own_project(directory, replace(answers, origin_url=origin_url), origin_schema)
    else:
        files = write_project(directory, answers)
    if output.as_json:
        output.print_document(files=[str(file) for file in files])
    elif not output.quiet:
        click.echo(f"{len(files)} files are in {directory}")
        first = "" if origin_url else f"put the origin's URL into {directory / '.dlt' / 'secrets.toml'}, then: "
        click.echo(f"  -> {first}cd {shlex.quote(str(directory))} && dbt-bridge doctor")
    return 0
