"""`python killed_sync.py`: syncs in processes of their own, which kill themselves at a named step.

The product has no hooks for it: a function that the step ends or begins with is replaced here by one that counts its
calls and sends SIGKILL at the n-th. Each line of the input is one sync (`Orders` as JSON), in a fork of this process,
which has imported everything and started no thread; each line of the output says how it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import secrets
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dbt_bridge.connectors.duckdb import warehouse
from dbt_bridge.connectors.duckdb.warehouse import DuckDBWarehouse
from dbt_bridge.connectors.lake.delta.destination import DeltaDestination
from dbt_bridge.connectors.postgres.changes import receiver
from dbt_bridge.connectors.postgres.destination.warehouse import PostgresWarehouse
from dbt_bridge.nouns.project import (
    LandingSource,
    LandingTable,
    Project,
    WarehouseProfile,
)
from dbt_bridge.observe.progress import Silent
from dbt_bridge.run.sync import SyncOptions, sync


@dataclass(frozen=True, slots=True)
class Step:
    """Where a process dies: before or after a call of `module:object.function`, in thread or process as it comes."""

    function: str
    after: bool = False


COPYING: Mapping[str, Step] = {
    "before the slot is made": Step("dbt_bridge.cdc.preparation:Preparation._copy"),
    "the slot is made": Step("dbt_bridge.connectors.postgres.changes.slot:Replication.create_slot", after=True),
    "a table is staged": Step("dbt_bridge.cdc.snapshot_copy:_build_copy"),
    "everything is staged": Step("dbt_bridge.cdc.preparation:copy_tables", after=True),
    "joined, not committed": Step("dbt_bridge.cdc.applier:Applier._join", after=True),
}
FOLLOWING: Mapping[str, Step] = {
    "received": Step("dbt_bridge.connectors.postgres.changes.stream:ReplicationStream.next", after=True),
    "decoded": Step("dbt_bridge.connectors.postgres.changes.pgoutput.decoder:Decoder.decode", after=True),
    "applied, not committed": Step("dbt_bridge.cdc.applier:Applier._apply", after=True),
    "right before the commit": Step("dbt_bridge.cdc.applier:Applier._receipts", after=True),
    "committed, not acknowledged": Step("dbt_bridge.connectors.postgres.changes.stream:ReplicationStream.acknowledge"),
    "acknowledged": Step("dbt_bridge.connectors.postgres.changes.stream:ReplicationStream.acknowledge", after=True),
    "the stream ends": Step("dbt_bridge.connectors.postgres.changes.stream:ReplicationStream.close", after=True),
}
REPAIRING: Mapping[str, Step] = {
    "compared": Step("dbt_bridge.prove.repair_changes:plan_repair", after=True),
    "read": Step("dbt_bridge.prove.repair_changes:_change", after=True),
    "applied in part": Step("dbt_bridge.prove.repair_changes:_change"),  # the pieces before this one are applied
    "applied, not committed": Step("dbt_bridge.prove.repair:_refuse_moved", after=True),
    "inside of the commit": Step("dbt_bridge.connectors.duckdb.audit:append_receipts", after=True),
    "a step of Delta's commit": Step(
        "dbt_bridge.connectors.lake.delta.landing_table:FollowedTable._commit", after=True
    ),
    "committed": Step("dbt_bridge.prove.repair:_compare_again"),
    "compared again": Step("dbt_bridge.prove.repair:_update_parity", after=True),
}
VERIFYING: Mapping[str, Step] = {
    "a table's turn": Step("dbt_bridge.prove.recorder:compare"),
    "a table is compared": Step("dbt_bridge.prove.recorder:compare", after=True),
}
STEPS = {**COPYING, **FOLLOWING}


@dataclass(frozen=True, slots=True)
class Orders:
    """What the process is to do.

    Attributes:
        step: a name of `STEPS`; empty to live.
        call: at which of its calls it dies.
        chunk_rows, run_messages: how many changes the destination, and messages the feed, take at once.
        destination: a dlt destination's name; None for the warehouse.
        profile: of the warehouse.
        environment: of the process: the ends' settings.
        temporary: the system's folder for temporary files.
        node: what the tables' unique_ids begin with.
        largest_file: bytes; stands for a disk that is full.
    """

    folder: str
    tables: tuple[str, ...]
    adapter: str
    profile: Mapping[str, Any]
    step: str = ""
    call: int = 1
    chunk_rows: int = 40
    run_messages: int = 100
    destination: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    temporary: str | None = None
    node: str = "source.shop.shop"
    slot: str = "dbt_bridge_kill"
    largest_file: int | None = None


def project(orders: Orders) -> Project:
    tables = tuple(LandingTable(f"{orders.node}.{name}", name, name, replication="cdc") for name in orders.tables)
    source = LandingSource(
        name="shop", origin="shop_pg", origin_schema="public", landing_schema="landing", landing_database="",
        destination=orders.destination, tables=tables,
        defaults=LandingTable("source.shop.shop", "", "", replication="cdc"),
        slot=orders.slot,
    )  # fmt: skip
    profile = WarehouseProfile(orders.adapter, "warehouse", "main", 2, orders.profile)
    return replace(Project(Path(orders.folder), "shop", profile, (), ()), sources=(source,))


def found(step: Step) -> tuple[Any, str, Callable[..., Any]]:
    """What holds the step's function, its name in there, and itself.

    Raises:
        AttributeError: the product has no such function any more.
    """
    module, _, path = step.function.partition(":")
    holder: Any = importlib.import_module(module)
    *objects, name = path.split(".")
    for part in objects:
        holder = getattr(holder, part)
    return holder, name, getattr(holder, name)


def _deadly(step: Step, call: int) -> None:
    holder, name, function = found(step)
    left = [call]

    def counted(*given: Any, **named: Any) -> Any:
        left[0] -= 1
        if not left[0] and not step.after:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = function(*given, **named)
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(holder, name, counted)


def _synced(orders: Orders) -> list[str | None]:
    """The errors of one sync."""
    DuckDBWarehouse.chunk_rows = PostgresWarehouse.chunk_rows = DeltaDestination.chunk_rows = orders.chunk_rows
    os.environ.update(orders.environment)
    tempfile.tempdir = orders.temporary
    warehouse._PROCESS = secrets.token_hex(4)  # what a process of its own would have drawn
    receiver.RUN_MESSAGES = orders.run_messages
    if orders.largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (orders.largest_file, orders.largest_file))
    if orders.step:
        _deadly(STEPS[orders.step], orders.call)
    receipts = sync(project(orders), SyncOptions(), Silent())
    return [receipt.error for receipt in receipts if receipt.status != "success"]


def _forked(orders: Orders) -> int:
    """The exit code of one sync: minus the signal, or whether it failed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 3
    try:
        errors = _synced(orders)
        code = 1 if errors else 0
        print(*errors, sep="\n", file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# What a sync imports only when it needs it: each fork would again, for more time than its sync takes.
LATE = (
    "pandas", "arro3.core", "dbt_bridge.cdc.capture", "dbt_bridge.connectors.dlt.connector",
    "dbt_bridge.connectors.duckdb.connector", "dbt_bridge.connectors.lake.connector",
    "dbt_bridge.connectors.lake.delta.apply", "dbt_bridge.connectors.lake.delta.history",
    "dbt_bridge.connectors.postgres.changes.source", "dbt_bridge.connectors.postgres.connector",
    "dbt_bridge.connectors.postgres.origin.origin", "dbt_bridge.connectors.sqlalchemy.connector",
)  # fmt: skip


def import_late() -> None:
    for module in LATE:
        importlib.import_module(module)


def main() -> None:
    import_late()
    for line in sys.stdin:
        given = json.loads(line)
        print(_forked(Orders(**{**given, "tables": tuple(given["tables"])})), flush=True)


if __name__ == "__main__":
    main()
