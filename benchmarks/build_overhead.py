"""What `dbt-bridge build` costs over `dbt-bridge sync` and `dbt build` alone: goal under 2 s.

    python benchmarks/build_overhead.py [SCALE] [ROUNDS]

The demo's shop in an embedded PostgreSQL; three commands, each as a user starts it, in turns, the median of each:

    build     dbt-bridge build, without its deliveries
    sync      dbt-bridge sync
    dbt       dbt build

The sum of the two parts starts Python and parses the project twice as well, so the overhead can be negative.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg

from dbt_bridge.demo import shop
from dbt_bridge.demo.guard import open_guarded_server
from dbt_bridge.scaffold import template

BIN = Path(sys.executable).parent
COMMANDS = {
    "build": ["dbt-bridge", "build", "--exclude", "resource_type:exposure", "--full-refresh"],
    "sync": ["dbt-bridge", "sync", "--full-refresh"],
    "dbt": ["dbt", "build", "--exclude", "resource_type:exposure", "--full-refresh"],
}


def main(scale: float, rounds: int) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with open_guarded_server() as (server, _), tempfile.TemporaryDirectory() as folder:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE shop")
        rows = shop.fill(server.url("shop"), shop.Sizes.of_scale(scale))
        template.write_project(
            Path(folder), template.Answers(origin_url=server.url("shop"), delivery_url=server.url("shop"))
        )
        run("build", folder)  # everything is parsed and read once before the clock runs
        for _ in range(rounds):
            for name in COMMANDS:
                seconds[name].append(run(name, folder))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    overhead = medians["build"] - medians["sync"] - medians["dbt"]
    print(f"{rows:,} rows, {rounds} rounds, median seconds")
    print("| dbt-bridge build | dbt-bridge sync | dbt build | overhead |")
    print("| --- | --- | --- | --- |")
    print(f"| {medians['build']:.1f} | {medians['sync']:.1f} | {medians['dbt']:.1f} | {overhead:+.1f} |")


def run(name: str, folder: str) -> float:
    command, *arguments = COMMANDS[name]
    started = time.perf_counter()
    done = subprocess.run([BIN / command, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - started


if __name__ == "__main__":
    given = sys.argv[1:]
    main(float(given[0]) if given else 1.0, int(given[1]) if len(given) > 1 else 3)
