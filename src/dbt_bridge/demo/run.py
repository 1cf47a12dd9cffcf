"""`dbt-bridge demo`: a shop in a real PostgreSQL, built into DuckDB, delivered back, and checked at both ends."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from dbt_bridge.demo import check, parity, shop
from dbt_bridge.demo.guard import open_guarded_server
from dbt_bridge.demo.postgres import Server
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import DbtOptions
from dbt_bridge.nouns.receipt import Receipt
from dbt_bridge.observe.progress import Silent, make_reporter, print_summary
from dbt_bridge.project.load import load_project
from dbt_bridge.prove.repair import RepairOptions, repair
from dbt_bridge.run.open_project import open_project
from dbt_bridge.run.outcomes import BuildOutcome
from dbt_bridge.scaffold import template
from dbt_bridge.simulate.mix import Simulation, simulate
from dbt_bridge.verify.report.terminal import print_parities

_WAREHOUSE = "shop.duckdb"
_MARK = ".dbt-bridge-demo.json"  # says that this folder is the demo's, and which server was kept


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What the demo showed: every hop of its builds, and the last comparison of the two ends.

    Attributes:
        ok: no build failed, and the two ends never differed.
        checks: each with `what`, `same`, and the answers of `postgres` and `duckdb`.
        parities: what `verify` found: first with writers, then with the planted corruption, then after the repair.
    """

    ok: bool
    receipts: Sequence[Receipt]
    checks: Sequence[Mapping[str, object]]
    parities: Sequence[Parity] = ()


def demo(directory: Path, scale: float = 1, *, keep: bool = False) -> DemoOutcome:
    """Run the demo, telling its story on standard output.

    Args:
        directory: where the dbt project goes; new, or one of an earlier demo, whose files stay as they are.
        scale: 1 is about 200,000 rows.
        keep: let the server run on afterwards, so that the project can be built again.

    Raises:
        UsageError: the folder holds something else, or the server of an earlier demo still runs.
    """
    directory = directory.resolve()
    if not scale > 0:
        raise UsageError(f"a scale of {scale:g} makes no shop", mend="dbt-bridge demo --scale 1")
    again = _is_a_demo(directory)
    started = time.monotonic()
    with _interrupt_on_hangup(), open_guarded_server() as (server, let_live):
        urls = _create_databases(server)
        say(f"PostgreSQL {read_server_version(urls['shop'])} is running on 127.0.0.1:{server.port}", started)
        sizes = shop.Sizes.of_scale(scale)
        rows = shop.fill(urls["shop"], sizes)
        say(f"the shop has {rows:,} rows in 6 tables", started)
        _write_project(directory, urls, again)
        say(f"the dbt project is in {directory}" + (" (an earlier demo's files, as you left them)" * again), started)
        shown = _build_and_compare(directory, urls, started)
        if shown.ok:
            made = simulate(urls["shop"], shop.make_business(sizes))
            say(_format_business(made), started)
            second = _build_and_compare(directory, urls, started, quiet=True)
            shown = replace(second, receipts=[*shown.receipts, *second.receipts])
        if shown.ok:
            shown = _prove_and_repair(shown, directory, urls["shop"], started)
        if keep:
            _mark(directory, server)
            let_live()
        else:
            _drop_slots(directory, started)
    _print_ending(directory, server if keep else None, shown.ok)
    return shown


def say(text: str, started: float) -> None:
    print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)


def read_server_version(url: str) -> str:
    with psycopg.connect(url) as connection:
        return str(connection.info.parameter_status("server_version"))


def _format_business(made: Simulation) -> str:
    return (
        f"the shop did a day of business: {made.inserts:,} orders came, {made.deletes:,} were erased, {made.updates:,} "
        "orders, customers and prices changed"
    )


def _drop_slots(directory: Path, started: float) -> None:
    """A slot that nobody reads would keep the server's log for ever."""
    with chdir(directory):
        for dropped in open_project(directory, profiles_dir=directory).drop_slots(None):
            if dropped.slot:
                say(f"the replication slot {dropped.slot} is dropped (dbt-bridge slots drop)", started)


def _create_databases(server: Server) -> dict[str, str]:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE shop")
        connection.execute("CREATE DATABASE crm")
    return {name: server.url(name) for name in ("shop", "crm")}


def _write_project(directory: Path, urls: Mapping[str, str], again: bool) -> None:
    answers = template.Answers(origin_url=urls["shop"], delivery_url=urls["crm"], warehouse=_WAREHOUSE)
    if not again:
        template.write_files(directory, template.render_project("shop", answers, over="shop_cdc"))
        _mark(directory, None)
        return
    # The new shop is not the old one's future: its warehouse starts empty, and the credentials are new.
    for file in (_WAREHOUSE, f"{_WAREHOUSE}.wal", ".dlt/secrets.toml"):
        (directory / file).unlink(missing_ok=True)
    secrets = Path(".dlt/secrets.toml")
    template.write_files(directory, {secrets: template.render_project("shop", answers)[secrets]})


def _build_and_compare(directory: Path, urls: Mapping[str, str], started: float, *, quiet: bool = False) -> DemoOutcome:
    outcome = _build(directory, quiet=quiet)
    checks = _compare(urls, directory, started) if outcome.ok else []
    return DemoOutcome(outcome.ok and all(check["same"] for check in checks), outcome.receipts, checks)


def _build(directory: Path, *, quiet: bool) -> BuildOutcome:
    """`dbt-bridge build` in the folder."""
    with chdir(directory), make_reporter() as progress:
        outcome = open_project(directory, profiles_dir=directory, progress=progress).build(dbt_output=not quiet)
    print_summary(outcome.receipts)
    return outcome


def _compare(urls: Mapping[str, str], directory: Path, started: float) -> list[dict[str, object]]:
    answers = check.ask_both_ends(urls, directory / _WAREHOUSE)
    for answer in answers:
        what, there, here = answer.check.what, _format_values(answer.postgres), _format_values(answer.duckdb)
        print(f"  same   {what}: {there}" if answer.same else f"  DIFFER {what}: Postgres {there}, DuckDB {here}")
    same = sum(answer.same for answer in answers)
    say(f"{same} of {len(answers)} checks have the same answer in PostgreSQL and in DuckDB", started)
    return [{"what": a.check.what, "same": a.same, "postgres": a.postgres, "duckdb": a.duckdb} for a in answers]


def _prove_and_repair(shown: DemoOutcome, directory: Path, url: str, started: float) -> DemoOutcome:
    """Parity at an LSN while the shop writes on; then a corruption that is planted, found and repaired."""
    with chdir(directory):
        project = load_project(DbtOptions(project_dir=directory, profiles_dir=directory))
        first = parity.verify_while_writing(project, url)
        say(_format_proof(first), started)
        parity.corrupt(project, directory / _WAREHOUSE)
        say("a careless hand changes a price, deletes a customer and adds an order in the warehouse", started)
        second = parity.verify_now(project)
        print_parities(second.parities)
        mended = repair(project, RepairOptions(), Silent())
    print_summary(mended.receipts)
    found = second.differences == parity.PLANTED
    say("verify found exactly these" if found else f"verify found {second.differences}", started)
    whole = mended.ok and all(now.is_equal for now in mended.parities)
    say("repair copied these rows again, and both ends hold the same" if whole else "repair FAILED", started)
    parities = [*first.parities, *second.parities, *mended.parities]
    ok = not (first.differences or first.failures) and found and whole
    return replace(shown, ok=ok, receipts=[*shown.receipts, *mended.receipts], parities=parities)


def _format_proof(proven: parity.Proof) -> str:
    if proven.differences or proven.failures:
        return f"NOT proven: {proven.differences or ''} {' '.join(proven.failures)}"
    points = {found.at for found in proven.parities}
    return (
        f"parity is proven: {proven.rows:,} rows in {len(proven.parities)} tables are the same at both ends"
        f" at {', '.join(sorted(points))}, value by value, while the shop made {proven.transactions:,} transactions"
    )


def _format_values(values: tuple[object, ...]) -> str:
    return ", ".join(f"{value:,}" if value is not None else "NULL" for value in values)


def _is_a_demo(directory: Path) -> bool:
    """Whether an earlier demo made this folder. Refuses one whose server still runs."""
    try:
        state = json.loads((directory / _MARK).read_text())
    except FileNotFoundError:
        return False
    pid, data = state.get("pid"), state.get("data")
    if pid and (Path(data) / "postmaster.pid").exists():
        raise UsageError(
            f"the PostgreSQL that an earlier demo kept for {directory} is still running (process {pid})",
            mend=f"stop it: kill -INT {pid}; or name another folder: dbt-bridge demo --dir DIR",
        )
    return True


def _mark(directory: Path, server: Server | None) -> None:
    state = {"pid": server.pid, "data": str(server.data), "port": server.port} if server else {}
    (directory / _MARK).write_text(json.dumps(state))


@contextmanager
def _interrupt_on_hangup() -> Iterator[None]:
    """A closed terminal interrupts like Ctrl-C, so that the server is stopped in order."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGHUP, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _print_ending(directory: Path, kept: Server | None, ok: bool) -> None:
    shown = os.path.relpath(directory)
    shown = shown if len(shown) < len(str(directory)) else str(directory)
    print("\nEverything arrived, twice, and is proven." if ok else "\nNot everything arrived: read the lines above.")
    print("What to try next:")
    print(f"  cd {shown}")
    if kept:
        print("  dbt-bridge plan                                   what a build would do, in order")
        print("  dbt-bridge stream --build                         follow the shop; in another terminal:")
        print("  dbt-bridge simulate 700 200 100 --for 60s         a thousand transactions in a minute")
        print("  dbt-bridge verify                                 prove it again, while the shop writes on")
        print("  dbt-bridge slots                                  what the server keeps for us")
        print("  dbt-bridge build --select +fct_orders             only the orders, and what they need")
        print("  dbt-bridge deliver --dry-run                      what the CRM would get")
        print(f"  psql or any client at 127.0.0.1:{kept.port}; the password is in .dlt/secrets.toml")
        print(f"The server keeps running. Stop it with: kill -INT {kept.pid}; its files are in {kept.data}")
    else:
        print("  dbt show --inline 'from _dbt_bridge.receipts'     what every hop did")
        print("  dbt-bridge demo --keep --dir another              the same, and the server keeps running")
        print("  dbt-bridge init my_project                        a project of your own")
