"""How many transactions of which kind, in which order, at which pace."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from dbt_bridge.errors import ConnectionFailed, OriginError, UsageError, scrubbed
from dbt_bridge.simulate.shop import Shop, is_shop
from dbt_bridge.simulate.tables import Tables
from dbt_bridge.simulate.writer import KINDS, Kind, NothingToChange, Writer

_PATIENCE = 5  # times that a transaction is tried again when another writer was in its way


@dataclass(frozen=True, slots=True)
class Mix:
    """What is to be done.

    Attributes:
        inserts, updates, deletes: transactions.
        rate: transactions per second; None for as many as the server takes.
        seconds: without a rate, the transactions are spread over this time. With one, `rate * seconds` transactions
            are made, in the proportion of the three numbers.
        seed: the same seed on the same rows makes the same choices.
    """

    inserts: int
    updates: int
    deletes: int
    rate: float | None = None
    seconds: float | None = None
    seed: int = 0

    def counts(self) -> dict[Kind, int]:
        """How many transactions of each kind: exactly `rate * seconds` in all, where both are given.

        Raises:
            UsageError: there is nothing to do.
        """
        given = dict(zip(KINDS, (self.inserts, self.updates, self.deletes), strict=True))
        parts = sum(given.values())
        if not parts:
            raise UsageError("nothing to simulate: all three numbers are 0", mend="dbt-bridge simulate 100 50 10")
        if self.rate is None or self.seconds is None:
            return given
        wanted = round(self.rate * self.seconds)
        counts = {kind: wanted * part // parts for kind, part in given.items()}
        by_remainder = sorted(KINDS, key=lambda kind: (-(wanted * given[kind] % parts), KINDS.index(kind)))
        for kind in by_remainder[: wanted - sum(counts.values())]:
            counts[kind] += 1
        return counts

    def order(self) -> list[Kind]:
        """Every transaction's kind, shuffled by the seed."""
        kinds = [kind for kind, count in self.counts().items() for _ in range(count)]
        random.Random(self.seed).shuffle(kinds)
        return kinds

    def pace(self) -> float | None:
        """Seconds between two transactions; None for none."""
        if self.rate is not None:
            return 1 / self.rate
        return None if self.seconds is None else self.seconds / sum(self.counts().values())


@dataclass(frozen=True, slots=True)
class Simulation:
    """What was done.

    Attributes:
        inserts, updates, deletes: transactions that committed.
        rows: per table: rows that were inserted, updated and deleted.
    """

    inserts: int
    updates: int
    deletes: int
    seconds: float
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def simulate(
    url: str, mix: Mix, tables: Sequence[str] = (), progress: Callable[[int, int], None] = lambda done, of: None
) -> Simulation:
    """Make the transactions, one connection, one after the other.

    Args:
        tables: what to write to: names (`schema.table`) or globs; the demo's shop as a whole when there are none.
        progress: called after each transaction: how many are done, of how many.

    Raises:
        UsageError: the database is no shop and no tables are named, or a table cannot be written to.
        OriginError: the server refused, or no row is left to change.
    """
    kinds = mix.order()
    done: Counter[Kind] = Counter()
    rows: Counter[tuple[str, str]] = Counter()
    started = time.monotonic()
    try:
        connection = psycopg.connect(url, autocommit=True)
    except psycopg.Error as error:
        raise ConnectionFailed(f"the database cannot be reached: {scrubbed(str(error))}", mend="check --url") from error
    with connection:
        draws = random.Random(f"{mix.seed} rows")
        writer = _writer(connection, draws, tables)
        for number in _at_their_times(len(kinds), mix.pace()):
            try:
                rows += _write_patiently(writer, kinds[number], draws)
            except NothingToChange:
                # Rows must be there before they can be changed: an insert that comes later is made now.
                if "insert" not in kinds[number + 1 :]:
                    raise
                later = kinds.index("insert", number + 1)
                kinds[number], kinds[later] = kinds[later], kinds[number]
                rows += _write_patiently(writer, kinds[number], draws)
            done[kinds[number]] += 1
            progress(number + 1, len(kinds))
    by_table: dict[str, dict[str, int]] = {}
    for (table, what), count in sorted(rows.items()):
        by_table.setdefault(table, dict.fromkeys(KINDS, 0))[what] = count
    seconds = time.monotonic() - started
    return Simulation(done["insert"], done["update"], done["delete"], seconds, by_table)


def _writer(connection: psycopg.Connection, draws: random.Random, tables: Sequence[str]) -> Writer:
    if tables:
        return Tables(connection, tables, draws)
    if is_shop(connection):
        return Shop(connection, draws)
    raise UsageError(
        "the database has no schema `shop` with the demo's tables",
        mend="name tables of your own: dbt-bridge simulate 100 50 10 --tables 'public.*'",
    )


def _at_their_times(count: int, pause: float | None) -> Iterator[int]:
    """The numbers from 0, each at its time: a late one does not move those after it."""
    started = time.monotonic()
    for number in range(count):
        if pause is not None and (early := started + number * pause - time.monotonic()) > 0:
            time.sleep(early)
        yield number


def _write_patiently(writer: Writer, kind: Kind, draws: random.Random) -> Counter[tuple[str, str]]:
    """One transaction; again where another writer took the row or the key first."""
    for attempt in range(_PATIENCE + 1):
        try:
            return writer.write(kind)
        except (psycopg.errors.UniqueViolation, psycopg.errors.ForeignKeyViolation, psycopg.errors.LockNotAvailable,
                psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure) as error:  # fmt: skip
            if attempt == _PATIENCE:
                raise _describe_refusal(kind, error) from error
            if isinstance(error, psycopg.errors.UniqueViolation):
                draws.seed()  # an earlier run with the same seed made these very values
        except psycopg.Error as error:
            raise _describe_refusal(kind, error) from error
    raise AssertionError("the last attempt answers or raises")


def _describe_refusal(kind: Kind, error: psycopg.Error) -> OriginError:
    said = " ".join(str(error).split())
    return OriginError(f"{kind}: the server refused: {scrubbed(said)}", mend="what committed before it stays")
