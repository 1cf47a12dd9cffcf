"""How long commands take to start their own work on a project that has not changed.

A dbt project of so many models, a table that is copied and one that is followed from a PostgreSQL of pip, a delivery.
Everything is landed and built once; then each command runs as a process of its own:

    python benchmarks/startup.py [--models 10 500] [--rounds 3] [--commands sync plan]

`ready` is from the start of the process until the project is read and what the command opens first is open; `whole`
until its end; `CPU` is the process's own, and the one to look at on a machine that does other work too. The least of
the rounds is printed: what else runs only adds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dbt_bridge.demo import postgres

COMMANDS = {
    "sync": ["sync", "--quiet"],
    "plan": ["plan"],
    "verify": ["verify", "--quiet"],
    "slots": ["slots"],
    "deliver": ["deliver", "--dry-run", "--quiet"],
}

HEAVY = ("dbt", "dlt", "pandas", "polars", "sqlalchemy", "networkx", "agate", "sqlglot")

# Runs one command as `dbt-bridge` does, and says on the last line of standard error when it was ready.
CHILD = """
import json, os, sys, time
began = float(os.environ["BEGAN"])
from dbt_bridge.cli import main
from dbt_bridge.project import connectors
opened = connectors.Registry.open
times = []
def noted(self, *given):
    try:
        return opened(self, *given)
    finally:
        times.append((time.time() - began, time.process_time()))
connectors.Registry.open = noted
code = 1
try:
    main()
except SystemExit as ended:
    code = ended.code
heavy = [name for name in HEAVY if name in sys.modules]
whole = time.time() - began, time.process_time()
print(json.dumps([code, *(times or [whole])[0], *whole, heavy]), file=sys.stderr)
""".replace("HEAVY", repr(HEAVY))

PROFILES = "shop: {target: dev, outputs: {dev: {type: duckdb, path: shop.duckdb, threads: 2}}}\n"
SECRETS = """[sources.shop_pg]
credentials = "{url}"
[destination.crm_pg]
destination_type = "postgres"
credentials = "{url}"
"""
SOURCES = """sources:
  - name: shop
    schema: landing
    config: {meta: {bridge: {origin: shop_pg, schema: public, primary_key: id, slot: shop_SIZE}}}
    tables:
      - name: copied
        config: {meta: {bridge: {replication: incremental, cursor: id}}}
      - name: followed
        config: {meta: {bridge: {replication: cdc}}}
exposures:
  - name: crm
    type: application
    owner: {name: me, email: me@example.com}
    depends_on: [ref('model_0')]
    config:
      meta: {bridge: {destination: crm_pg, schema: crm, table: people, write_disposition: merge, primary_key: id}}
"""


def make_project(root: Path, models: int, url: str) -> None:
    """A project of so many models, each with a test."""
    (root / ".dlt").mkdir()
    (root / "models").mkdir()
    (root / "dbt_project.yml").write_text("{name: shop, profile: shop}\n")
    (root / "profiles.yml").write_text(PROFILES)
    (root / ".dlt" / "secrets.toml").write_text(SECRETS.format(url=url))
    described = ["models:"]
    for number in range(models):
        reads = "source('shop', 'followed')" if number % 10 == 0 else f"ref('model_{number - 1}')"
        (root / "models" / f"model_{number}.sql").write_text(f"select id, name from {{{{ {reads} }}}}\n")  # noqa: S608
        described.append(f"  - {{name: model_{number}, columns: [{{name: id, data_tests: [not_null]}}]}}")
    (root / "models" / "all.yml").write_text("\n".join(described) + "\n" + SOURCES.replace("SIZE", str(models)))


def run(root: Path, arguments: list[str]) -> tuple[float, float, float, float, list[str]]:
    """Seconds until ready, and of CPU until then; the same until the end; which heavy modules were imported."""
    environment = {**os.environ, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "BEGAN": str(time.time())}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    code, *seconds, heavy = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stdout + done.stderr
    return *seconds, heavy


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, nargs="+", default=[10, 500])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    given = parser.parse_args()
    server = postgres.start(settings={"fsync": "off", "wal_level": "logical"})
    print("| models | command | ready s | CPU s until then | whole s | CPU s | imported |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    try:
        for models in given.models:
            with tempfile.TemporaryDirectory() as folder:
                measure(Path(folder), models, given, server)
    finally:
        postgres.remove(server)


def measure(root: Path, models: int, given: argparse.Namespace, server: postgres.Server) -> None:
    import psycopg

    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "shop_{models}"'.encode())
    url = server.url(f"shop_{models}")
    with psycopg.connect(url, autocommit=True) as origin:
        for table in ("copied", "followed"):
            origin.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, name text)".encode())
            origin.execute(f"INSERT INTO {table} SELECT i, 'x' || i FROM generate_series(1, 100) AS i".encode())  # noqa: S608
    make_project(root, models, url)
    run(root, ["build", "--quiet"])
    for name in given.commands:
        run(root, COMMANDS[name])
        rounds = [run(root, COMMANDS[name]) for _ in range(given.rounds)]
        least = [f"{min(values):.2f}" for values in list(zip(*rounds, strict=True))[:4]]
        print("|", " | ".join([str(models), f"`{name}`", *least, " ".join(rounds[0][4]) or "-"]), "|", flush=True)
    with psycopg.connect(url, autocommit=True) as origin:
        origin.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )


if __name__ == "__main__":
    main()
