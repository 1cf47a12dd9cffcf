"""Makes docs/img/build.svg: what a terminal shows of a real `dbt-bridge build` of the demo's shop."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from dbt_bridge.demo import shop
from dbt_bridge.demo.guard import open_guarded_server
from dbt_bridge.scaffold import template
from dbt_bridge.simulate.mix import simulate

IMAGE = Path(__file__).parent / "img" / "build.svg"
COLUMNS = 132
SELECTION = "source:shop.orders source:shop.payments stg_orders stg_payments int_order_payments fct_orders"


def main() -> None:
    with open_guarded_server() as (server, _), tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")
        sizes = shop.Sizes.of_scale(1)
        shop.fill(server.url("shop"), sizes)
        template.write_project(
            Path(folder), template.Answers(origin_url=server.url("shop"), delivery_url=server.url("shop"))
        )
        command = [str(Path(sys.executable).with_name("dbt-bridge")), "build", "--select", *SELECTION.split()]
        subprocess.run(command[:2], cwd=folder, check=True, capture_output=True)
        simulate(server.url("shop"), shop.make_business(sizes))  # so that the picture shows changes that are merged
        shown = _in_a_terminal(command, folder)
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(f"$ dbt-bridge build --select {SELECTION}", style="bold", highlight=False)
    console.print(Text.from_ansi(shown))
    IMAGE.parent.mkdir(exist_ok=True)
    picture = console.export_svg(title="dbt-bridge build", theme=MONOKAI)
    # rich links a web font; who shows the picture should ask nobody for it, and `monospace` is the next choice.
    IMAGE.write_text(re.sub(r"\n\s*@font-face \{.*?\n\s*\}", "", picture, flags=re.DOTALL), encoding="utf-8")
    print(f"wrote {IMAGE}")


def _in_a_terminal(command: list[str], folder: str) -> str:
    """What the command prints. Standard error is no terminal: live lines would overwrite each other."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "DBT_PRINTER_WIDTH": "70"}
    with subprocess.Popen(
        ["bash", "-c", 'exec "$@" 2> >(cat)', "bash", *command],
        cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs,
    ):  # fmt: skip
        os.close(theirs)
        read = bytearray()
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the terminal's other end is closed (Linux)
                break
            if not chunk:
                break
            read += chunk
    os.close(ours)
    return read.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    main()
