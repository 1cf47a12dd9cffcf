"""The demo's ending: parity is proven at an LSN while the shop goes on writing, and a planted corruption is mended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from dbt_bridge.nouns.parity import Parity
from dbt_bridge.nouns.project import Project
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.sync import SyncOptions, sync
from dbt_bridge.simulate.mix import Mix, simulate

# What a careless hand does to a warehouse: a price is changed, a customer goes, an order comes that was never made.
_CORRUPTION = (
    """
    UPDATE shop_landing.products
    SET price = price + 0.01
    WHERE product_id = (SELECT min(product_id) FROM shop_landing.products)
    """,
    "DELETE FROM shop_landing.customers WHERE customer_id = (SELECT min(customer_id) FROM shop_landing.customers)",
    """
    INSERT INTO shop_landing.orders
    SELECT * REPLACE (-1 AS order_id)
    FROM shop_landing.orders
    LIMIT 1
    """,
)
_BUSINESS = Mix(inserts=50_000, updates=50_000, deletes=5_000, seed=7)  # more than fits beside a comparison
PLANTED = {"products": 1, "customers": 1, "orders": 1}
"""Table of the source -> rows that differ afterwards."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What `verify` found while the shop was written to.

    Attributes:
        transactions: that committed at the origin meanwhile.
    """

    parities: Sequence[Parity]
    transactions: int

    @property
    def rows(self) -> int:
        return sum(parity.rows_origin or 0 for parity in self.parities)

    @property
    def differences(self) -> dict[str, int]:
        """Table of the source -> rows that differ; only those where any does."""
        found = {parity.node.rpartition(".")[2]: parity.differences or 0 for parity in self.parities}
        return {table: count for table, count in found.items() if count}

    @property
    def failures(self) -> list[str]:
        """Why tables could not be compared."""
        return [f"{parity.node}: {parity.error}" for parity in self.parities if parity.status == "failed"]


def verify_while_writing(project: Project, url: str) -> Proof:
    """Verify while the shop is written to, one transaction after the other."""
    with _write_meanwhile(url) as count:
        parities = verify(project, VerifyOptions(), Silent(), deliveries=False)
        return Proof(parities, count())


def verify_now(project: Project) -> Proof:
    """Verify while nobody writes."""
    return Proof(verify(project, VerifyOptions(), Silent(), deliveries=False), 0)


def corrupt(project: Project, warehouse: Path) -> None:
    """Plant three differences in the landing tables, behind everything that the shop wrote: it cannot mend them."""
    sync(project, SyncOptions(), Silent())
    with duckdb.connect(str(warehouse)) as connection:
        for statement in _CORRUPTION:
            connection.execute(statement)


class _Enough(Exception):
    """The writer has written enough."""


@contextmanager
def _write_meanwhile(url: str) -> Iterator[Callable[[], int]]:
    """A writer beside what runs in the context, from its first transaction on; answers how many it has made."""
    made, began, stop, failures = [0], threading.Event(), threading.Event(), []

    def count(done: int, of: int) -> None:
        made[0] = done
        began.set()
        if stop.is_set():
            raise _Enough

    def write() -> None:
        try:
            simulate(url, _BUSINESS, progress=count)
        except _Enough:
            pass
        except BaseException as failure:
            failures.append(failure)
        finally:
            began.set()

    thread = threading.Thread(target=write, name="dbt-bridge-demo-writer", daemon=True)
    thread.start()
    try:
        began.wait()
        yield lambda: made[0]
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]
