"""verify: Postgres against DuckDB, every value of every row, against the server's own COPY and against reladiff.

    python benchmarks/verify.py [--rows 5000000] [--url postgresql://...] [--methods digests buckets values]
                                [--differences 20 0 50000] [--reladiff PATH] [--data-diff PATH]

Without --url an embedded PostgreSQL is started, and removed afterwards. The table is the one of copy_to_duckdb.py: 17
columns (4 numeric, a uuid, texts, timestamps). It is landed once in DuckDB; then differences are planted there: half
are changed values, a quarter missing rows, a quarter extra rows, scattered over the table or clustered at its start.
Each comparison runs in a process of its own with a COPY before and after it, and must find exactly what was planted.

--reladiff and --data-diff name those programs, each in an environment of its own: `pip install "duckdb<2"
"reladiff[postgresql,duckdb]"`. They know no smallint and no date of DuckDB: all are then timed without these columns.
"""

# ruff: noqa: S608  (names and numbers made here)

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg import sql

import copy_to_duckdb as copying

UNKNOWN = ("status_code", "d")  # to reladiff 0.6 and data-diff 0.11
WIRE_GOAL = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--url", help="of a Postgres database to fill and read")
    parser.add_argument("--methods", nargs="*", default=["digests", "buckets", "values"])
    parser.add_argument("--differences", type=int, nargs="*", default=[20, 0, 50_000])
    parser.add_argument("--reladiff", help="the program")
    parser.add_argument("--data-diff", help="the program")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measured(*args.measure)))
        return
    programs = {name: path for name, path in (("reladiff", args.reladiff), ("data-diff", args.data_diff)) if path}
    with copying.server(args.url) as (url, psql), tempfile.TemporaryDirectory() as folder:
        table = copying.fill(url, args.rows)
        landed = Path(folder) / "landed.duckdb"
        copying.by_bridge(url, table, 2, folder)
        (Path(folder) / "bench.duckdb").rename(landed)
        print(
            f"{args.rows:,} rows x 17 columns; planted differences are half changed, a quarter missing, a quarter extra"
        )
        print(f"{'what':52} {'seconds':>8} {'COPY':>6} {'ratio':>6} {'peak MB':>8} {'wire':>7}  found")
        for count in args.differences:
            for how in ("scattered", "clustered") if count else ("scattered",):
                spoilt = planted(landed, table, args.rows, count, how)
                for method in args.methods:
                    line(
                        f"{method}, {count:,} differences {how if count else ''}",
                        url,
                        psql,
                        table,
                        spoilt,
                        method,
                        count,
                    )
        if programs:
            beside(url, psql, table, planted(landed, table, args.rows, 20, "scattered"), programs)


def planted(landed: Path, table: str, rows: int, count: int, how: str) -> Path:
    """A copy of the landed file with so many differences."""
    import duckdb

    spoilt = landed.with_name("spoilt.duckdb")
    shutil.copy(landed, spoilt)
    step = max(1, rows // max(count, 1)) if how == "scattered" else 1
    changed, missing = count // 2, count // 4
    extra = count - changed - missing
    place = f"(id - 1) // {step}"
    on_step = f"(id - 1) % {step} = 0"
    with duckdb.connect(str(spoilt)) as connection:
        name = f'landing."{table}"'
        connection.execute(f"UPDATE {name} SET amount = amount + 0.01 WHERE {on_step} AND {place} < {changed}")
        connection.execute(
            f"DELETE FROM {name} WHERE {on_step} AND {place} BETWEEN {changed} AND {changed + missing - 1}"
        )
        connection.execute(
            f"INSERT INTO {name} SELECT * REPLACE (id + {rows} AS id) FROM {name}"
            f" WHERE {on_step} AND {place} BETWEEN {changed + missing} AND {count - 1}"
        )
        found = connection.execute(f"SELECT count(*) FROM {name}").fetchone()
        assert found == (rows - missing + extra,), found
    return spoilt


def line(what: str, url: str, psql: str, table: str, file: Path, method: str, count: int) -> None:
    before = copying.copy_to_nowhere(url, psql, table)
    command = [sys.executable, __file__, "--measure", url, table, str(file), method]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    after = copying.copy_to_nowhere(url, psql, table)
    if done.returncode:
        print(f"{what:52} failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return
    result = json.loads(done.stdout.splitlines()[-1])
    limit = (before + after) / 2
    found = [result[kind] for kind in ("different", "only_in_origin", "only_in_destination")]
    expected = [count // 2, count // 4, count - count // 2 - count // 4]
    verdict = "exactly these" if found == expected else f"WRONG: {found} instead of {expected}"
    print(
        f"{what:52} {result['seconds']:8.1f} {limit:6.1f} {result['seconds'] / limit:6.2f} {result['peak_mb']:8.0f}"
        f" {result['wire']:7.1%}  {verdict}",
        flush=True,
    )


def measured(url: str, table: str, file: str, method: str, *without: str) -> dict[str, object]:
    """One comparison in this process: seconds after the imports, peak memory, share of the table's bytes sent."""
    from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
    from dbt_bridge.connectors.postgres.origin.origin import PostgresOrigin
    from dbt_bridge.contracts.destination import Replica
    from dbt_bridge.nouns.both import Both
    from dbt_bridge.nouns.table import Table, TableName
    from dbt_bridge.prove.recorder import start_parity
    from dbt_bridge.prove.sides import make_landing_side, make_origin_side
    from dbt_bridge.verify.compare import compare
    from dbt_bridge.verify.request import VerifyRequest

    begin = time.perf_counter()
    with PostgresOrigin("bench", url) as origin, DuckDBWarehouse.open(file) as warehouse:
        described = origin.describe(TableName(copying.SCHEMA, table))
        columns = tuple(warehouse.map_column(c) for c in described.table.columns if c.name not in without)
        replica = Replica("bench", Table(TableName("landing", table), columns, described.table.key))
        with warehouse.open_state() as state:
            there = make_origin_side(origin, described.table, columns, {}, 2, "origin")
            here = make_landing_side(state, replica, "landing")
            asked = VerifyRequest(method=method, key=described.table.key, columns={c.name: c.name for c in columns})  # type: ignore[arg-type]
            blank = start_parity("bench", "bench", Both("origin", "landing"), "rows")
            parity = compare(blank, there, here, asked)
    seconds = time.perf_counter() - begin
    wire = getattr(there, "wire_bytes", None) or parity.bytes or 0
    return {
        "seconds": seconds,
        "peak_mb": peak_mb(),
        "wire": wire / (described.bytes or 1),
        "method": parity.method,
        "different": parity.different,
        "only_in_origin": parity.only_in_origin,
        "only_in_destination": parity.only_in_destination,
    }


def peak_mb() -> float:
    """Of this process: ru_maxrss would begin with what the parent had, which planted the differences (exec(2))."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def beside(url: str, psql: str, table: str, file: Path, programs: dict[str, str]) -> None:
    """The same columns by each program and by the bridge, one after the other."""
    print(f"the same with 20 scattered differences, without {' and '.join(UNKNOWN)}")
    names = [c for c in column_names(url, table) if c not in (*UNKNOWN, "id")]
    command = [sys.executable, __file__, "--measure", url, table, str(file), "auto", *UNKNOWN]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    ours = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{'dbt-bridge, ' + str(ours['method']):52} {ours['seconds']:8.1f} {'':6} {'':6} {ours['peak_mb']:8.0f}",
        flush=True,
    )
    for name, program in programs.items():
        arguments = [f"{url}?options=", f"{copying.SCHEMA}.{table}", f"duckdb://{file}", f"landing.{table}", "-k", "id"]
        arguments += [part for column in names for part in ("-c", column)]
        begin = time.perf_counter()
        ran = subprocess.run([program, *arguments, "--stats"], check=False, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        said = " ".join(ran.stdout.split())[:120] if not ran.returncode else ran.stderr.strip().splitlines()[-1]
        print(f"{name:52} {seconds:8.1f} {'':6} {seconds / float(ours['seconds']):5.1f} times ours  {said}", flush=True)


def column_names(url: str, table: str) -> list[str]:
    with psycopg.connect(url) as connection:
        query = sql.SQL("SELECT * FROM {} LIMIT 0").format(sql.Identifier(copying.SCHEMA, table))
        return [column.name for column in connection.execute(query).description or ()]


if __name__ == "__main__":
    main()
