"""simulate: something happens at the origin."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import OUTPUT, Span, add_options, make_output
from dbt_bridge.errors import UsageError, require_extra, scrubbed

_DEMO = "dbt-bridge-demo"
_MARK = ".dbt-bridge-demo.json"
_POSTGRES = ("postgres", "postgresql")  # the only databases that are written to here


@cli.command(short_help="Make transactions at the origin, for trying.")
@click.argument("inserts", type=click.IntRange(min=0))
@click.argument("updates", type=click.IntRange(min=0))
@click.argument("deletes", type=click.IntRange(min=0))
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Transactions per second.")
@click.option(
    "--for",
    "seconds",
    type=Span(),
    metavar="TIME",
    help="Spread them over this time; with --rate: make N transactions per second of it, in this proportion.",
)
@click.option("--url", help="PostgreSQL to write to; by default the kept demo's, or the project's only origin.")
@click.option(
    "--tables",
    multiple=True,
    metavar="NAME",
    help="Write single rows to these tables instead, like shop.orders or 'public.*'; may be repeated.",
)
@click.option("--seed", type=int, help="The same seed on the same rows makes the same choices; by default another one.")
@click.option(
    "--project-dir",
    type=click.Path(path_type=Path),
    envvar="DBT_PROJECT_DIR",
    help="Folder of the demo or the project; the working directory or one above it by default.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask before writing to an origin that is not the demo's.")
@add_options(*OUTPUT)
def simulate(
    inserts: int, updates: int, deletes: int, *, url: str | None, tables: tuple[str, ...], yes: bool, **given: Any
) -> int:
    """Make exactly so many transactions at the origin: INSERTS, UPDATES, DELETES.

    In the demo's shop an insert is an order with its lines and payment, an update is an order on its way, a
    customer who moves or a new price, a delete is an order with all that belongs to it. With --tables each
    transaction is one row, with valid keys and foreign keys.

    \b
    Example:
      dbt-bridge simulate 100 50 10
      dbt-bridge simulate 70 20 10 --rate 1000 --for 60s
      dbt-bridge simulate 5 5 5 --url postgresql://me:secret@localhost:5432/dev --tables 'public.*'
    """  # fmt: skip
    output = make_output(given)
    with require_extra("postgres-driver", "simulate"):
        from dbt_bridge.simulate.mix import Mix
        from dbt_bridge.simulate.mix import simulate as make
    seed = secrets.randbelow(1 << 31) if given["seed"] is None else given["seed"]
    mix = Mix(inserts, updates, deletes, given["rate"], given["seconds"], seed)
    mix.counts()
    if url is None:
        url, is_demo = _find_origin(given["project_dir"])
        if not is_demo and not yes:
            if output.as_json:
                raise UsageError("this is no demo's database, and with --json nothing can be asked", mend="add --yes")
            click.confirm(f"Write {inserts + updates + deletes} transactions to {scrubbed(url)}?", abort=True, err=True)
    made = make(url, mix, tables, _make_bar(silent=output.as_json or output.quiet))
    if output.as_json:
        output.print_document(simulated={**made.as_json(), "seed": seed})
    elif not output.quiet:
        total = made.inserts + made.updates + made.deletes
        click.echo(
            f"{total:,} transactions in {made.seconds:.1f} s: {made.inserts:,} inserts, {made.updates:,} updates, "
            f"{made.deletes:,} deletes (--seed {seed})"
        )
        for table, counts in made.rows.items():
            click.echo(f"  {table}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items() if count))
    return 0


def _find_origin(folder: Path | None) -> tuple[str, bool]:
    """The URL of the demo's database, or of the only Postgres origin of the project; and whether it is the demo's."""
    from dbt_bridge.project.load import nearest_project
    from dbt_bridge.project.origins import list_origins, origin_settings

    root = folder or nearest_project(Path.cwd())
    if not (root / "dbt_project.yml").is_file() and (root / _DEMO / _MARK).is_file():
        root = root / _DEMO
    names = list_origins(project_root=root)
    if len(names) != 1:
        what = f"several origins are configured: {', '.join(names)}" if names else "no origin is configured here"
        raise UsageError(what, mend="say which database: --url postgresql://...; or first: dbt-bridge demo --keep")
    settings = origin_settings(names[0], project_root=root)
    if settings.scheme not in _POSTGRES:
        raise UsageError(f"the origin {names[0]!r} is no PostgreSQL", mend="--url postgresql://...")
    return settings.with_drivername("postgresql"), (root / _MARK).is_file()


def _make_bar(*, silent: bool) -> Callable[[int, int], None]:
    """Shows how far it is, on a terminal."""
    if silent or not sys.stderr.isatty():
        return lambda done, of: None

    def report(done: int, of: int) -> None:
        if done == of or done % 100 == 0:
            end = "\n" if done == of else ""
            click.echo(f"\r{done:,} of {of:,}{end}", err=True, nl=False)

    return report
