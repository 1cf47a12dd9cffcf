"""demo: a shop on the own machine, moved and proven."""

from __future__ import annotations

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

import click

from dbt_bridge.cli.group import cli
from dbt_bridge.cli.options import DEBUG, JSON, add_options
from dbt_bridge.cli.output import FAILED, Output
from dbt_bridge.errors import require_extra


@cli.command(short_help="See it work, with a PostgreSQL of its own.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default="dbt-bridge-demo",
    show_default=True,
    help="Where the demo's dbt project goes.",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="1 is about 200,000 rows.",
)
@click.option("--keep", is_flag=True, help="Let the PostgreSQL run on, to try other commands.")
@add_options(JSON, DEBUG)
def demo(directory: Path, scale: float, *, keep: bool, as_json: bool, debug: bool) -> int:
    """See it work: a shop in a real PostgreSQL, built into DuckDB, delivered back, checked at both ends.

    \b
    Example:
      dbt-bridge demo
      dbt-bridge demo --dir /tmp/shop --scale 5 --keep
    """
    with require_extra("demo", "the demo"):
        from dbt_bridge.demo.run import demo as run_demo
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        shown = run_demo(directory, scale, keep=keep)
    if as_json:
        status = "success" if shown.ok else "failed"
        receipts, parities = [r.as_json() for r in shown.receipts], [p.as_json() for p in shown.parities]
        Output().print_document(status=status, receipts=receipts, checks=shown.checks, parity=parities)
    return 0 if shown.ok else FAILED
