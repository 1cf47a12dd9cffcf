"""Writes docs/commands.md from the command line's own help (`make docs`); a test compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from dbt_bridge.cli import cli

PAGE = Path(__file__).with_name("commands.md")
_WIDTH = 78  # click's own for a terminal of 80 columns


def commands_page() -> str:
    """The page: a heading and the help of every command."""
    parts = [
        "# Commands\n",
        "This page is generated from the command line's own help: `make docs`.\n",
        "Exit codes: 0 all done, 1 something failed or differs, 2 the command or the project is wrong and nothing was"
        " touched, 130 interrupted.\n",
    ]
    top = click.Context(cli, info_name="dbt-bridge", terminal_width=_WIDTH, **cli.context_settings)
    parts.append(f"## dbt-bridge\n\n```text\n{cli.get_help(top)}\n```\n")
    parts += _commands_of(cli, top)
    return "\n".join(parts)


def _commands_of(group: click.Group, above: click.Context) -> Iterator[str]:
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=name, parent=above, terminal_width=_WIDTH)
        yield f"## {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"
        if isinstance(command, click.Group):
            yield from _commands_of(command, context)


if __name__ == "__main__":
    PAGE.write_text(commands_page(), encoding="utf-8")
    print(f"wrote {PAGE}")
