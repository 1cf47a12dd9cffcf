"""Suspicious rows are judged by what both sides really have: nothing that a side leaves out passes for equal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.verify.arrow_sides import ArrowSide, HashingSide

from dbt_bridge.errors import OriginError, TypeRefused
from dbt_bridge.nouns.parity import Parity
from dbt_bridge.verify.compare import compare
from dbt_bridge.verify.request import Tolerance, VerifyRequest

BEGAN = datetime(2026, 11, 21, tzinfo=UTC)
OPENED = Parity("load", "source.a.b.c", "o", "d", "rows", "failed", "now", BEGAN, BEGAN, 0.0, error="not yet")
ROWS = pa.table({"id": pa.array(range(40)), "v": [str(i) for i in range(40)]})


def compared(origin: ArrowSide, destination: ArrowSide, **asked: Any) -> Parity:
    return compare(OPENED, origin, destination, VerifyRequest(**{"key": ("id",), **asked}))


def test_a_key_that_one_side_spells_twice_is_a_duplicate() -> None:
    numbers = [Decimal(i) for i in range(40)]
    origin = pa.table({"id": pa.array(numbers, pa.decimal128(10, 1)), "v": ROWS["v"]})
    spelled = [*map(str, range(40)), "3.0"]
    destination = pa.table({"id": spelled, "v": [*ROWS["v"].to_pylist(), "3"]})
    parity = compared(ArrowSide("orders", origin), ArrowSide("landed", destination))
    assert (parity.status, parity.duplicates, parity.examples[0].rows) == ("different", 1, (1, 2))


@pytest.mark.parametrize("method", ["digests", "buckets"])
def test_the_primary_key_of_another_column_of_that_name_does_not_make_a_key_unique(method: str) -> None:
    """The origin's `id` is its primary key, and is not the column that lands as `id`."""
    codes = ["a", "a", "b"]
    origin = HashingSide("orders", pa.table({"id": [1, 2, 3], "code": codes}), key=("id",))
    landed = ArrowSide("landed", pa.table({"id": codes}))
    parity = compared(origin, landed, key=("code",), columns={"code": "id"}, method=method)
    assert (parity.status, parity.duplicates) == ("different", 1)


class Forgetful(ArrowSide):
    """A side that does not find a row by its own key."""

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        if keys is not None:
            self.asked_by_key += 1
            keys = keys.slice(1)
        return super().rows(columns, keys)


class Generous(ArrowSide):
    """A side whose database takes every key for the one that was asked for."""

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        return super().rows(columns, None)


@pytest.mark.parametrize("side", [Forgetful, Generous])
def test_what_a_side_answers_to_keys_is_not_trusted(side: type[ArrowSide]) -> None:
    parity = compared(side("orders", ROWS), ArrowSide("landed", ROWS.slice(1)))
    assert (parity.only_in_origin, parity.only_in_destination, parity.different) == (1, 0, 0)
    parity = compared(ArrowSide("orders", ROWS.slice(1)), side("landed", ROWS))
    assert (parity.only_in_origin, parity.only_in_destination, parity.different) == (0, 1, 0)


@pytest.mark.parametrize("name", ["_place", "_dbt_bridge_place", "_key", "_row", "_at", "k0", "v0"])
def test_columns_may_have_the_names_that_a_comparison_uses_itself(name: str) -> None:
    origin = pa.table({"id": [1, 2], name: ["a", "b"]})
    destination = pa.table({"id": [1, 2], name: ["a", "c"]})
    parity = compared(ArrowSide("orders", origin), ArrowSide("landed", destination))
    assert parity.columns == {name: 1}
    parity = compared(ArrowSide("orders", origin), ArrowSide("landed", destination), key=())
    assert (parity.only_in_origin, parity.only_in_destination) == (1, 1)


def test_a_table_of_as_many_columns_as_postgres_takes() -> None:
    origin = pa.table({"id": [1, 2], **{f"c{i}": [i, i] for i in range(1599)}})
    destination = origin.set_column(1500, "c1499", pa.array([1499, 0]))
    parity = compared(HashingSide("orders", origin), ArrowSide("landed", destination))
    assert (parity.different, parity.columns) == (1, {"c1499": 1})


def test_half_a_surrogate_pair_in_json_is_compared() -> None:
    one, other, spelled = '{"a": "\\ud800"}', '{"a": "\\ud801"}', '{"a":"\\uD800"}'
    origin, destination = (pa.table({"id": [1, 2], "v": pa.array([one, text], pa.json_())}) for text in (one, other))
    assert compared(ArrowSide("orders", origin), ArrowSide("landed", destination)).columns == {"v": 1}
    same = pa.table({"id": [1, 2], "v": pa.array([spelled, one], pa.json_())})
    assert compared(ArrowSide("orders", origin), ArrowSide("landed", same)).is_equal


def test_aggregates_of_what_is_no_number_are_refused() -> None:
    origin = pa.table({"id": [1], "v": pa.array([Decimal("1.5")], pa.decimal128(10, 1))})
    with pytest.raises(TypeRefused, match="'abc' is no number"):
        compared(
            ArrowSide("orders", origin), ArrowSide("landed", pa.table({"id": [1], "v": ["abc"]})), level="aggregates"
        )


def test_sums_of_long_numbers_are_exact() -> None:
    """Two values change places with a last digit, so that nothing but the sum is apart."""

    def side(*last: str) -> pa.Table:
        return pa.table({"id": [1, 2, 3], "v": ["1" * 300 + digit for digit in last]})

    origin = pa.table({"id": [1, 2, 3], "v": pa.array([Decimal(1)] * 3, pa.decimal128(9, 0))})
    apart = []
    for last in (("0", "4", "9"), ("0", "5", "9")):
        parity = compared(ArrowSide("orders", origin), ArrowSide("landed", side(*last)), level="aggregates")
        apart.append(next(a.destination for a in parity.aggregates if (a.column, a.what) == ("v", "sum")))
    assert int(apart[1] or 0) - int(apart[0] or 0) == 1


class Endless(ArrowSide):
    """Rows that never end, unless nobody reads on; then they tell so."""

    def __init__(self, then: Any) -> None:
        super().__init__("landed", ROWS)
        self.ended = threading.Event()
        self._then = then

    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        rows = ROWS.select(list(columns))

        def batches() -> Iterator[pa.RecordBatch]:
            until = time.monotonic() + 180
            try:
                while time.monotonic() < until:
                    yield from rows.to_batches()
                    self._then()
            finally:
                self.ended.set()

        return pa.RecordBatchReader.from_batches(rows.schema, batches())


class Broken(ArrowSide):
    def rows(self, columns: Sequence[str], keys: pa.Table | None = None) -> pa.RecordBatchReader:
        def batches() -> Iterator[pa.RecordBatch]:
            yield from ROWS.select(list(columns)).to_batches()
            raise OriginError("the server went away", mend="run it again")

        return pa.RecordBatchReader.from_batches(ROWS.select(list(columns)).schema, batches())


@pytest.fixture
def minding_ctrl_c() -> Iterator[None]:
    """A test run in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("minding_ctrl_c")
@pytest.mark.parametrize("level", ["rows", "aggregates"])
def test_an_interruption_while_only_the_destination_is_read_ends_it(level: Any, tmp_path: Path) -> None:
    pressed: list[None] = []

    def press_once() -> None:
        time.sleep(0.001)
        pressed.append(None)
        if len(pressed) == 300:  # the origin's forty rows were read long ago
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    origin = ArrowSide("orders", ROWS)
    endless = Endless(press_once)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        compared(origin, endless, level=level)
    assert endless.ended.is_set()
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("level", ["rows", "aggregates"])
@pytest.mark.parametrize("broken", [0, 1])
def test_a_side_that_breaks_off_ends_the_other(
    level: Any, broken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    endless = Endless(lambda: None)
    sides = (Broken("orders", ROWS), endless) if broken == 0 else (endless, Broken("landed", ROWS))
    with pytest.raises(OriginError, match="went away"):
        compared(*sides, level=level)
    assert endless.ended.wait(180)
    assert [path.name for path in tmp_path.glob("*/*")] == [".lock"], "nothing else is left on disk"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("verify")]


def numerics(*values: str) -> ArrowSide:
    """A column as Postgres's `numeric` without digits travels."""
    side = ArrowSide("numbers", pa.table({"id": range(len(values)), "n": list(values)}))
    columns = (side.table.columns[0], replace(side.table.columns[1], origin_type="numeric"))
    side.table = replace(side.table, columns=columns)
    return side


def test_numerics_without_digits_are_numbers() -> None:
    one, other = numerics("1.10", "NaN", "1e30", "0.00", "5"), numerics("1.1", "NaN", "1" + "0" * 30, "-0", "5.0000001")
    parity = compared(one, other)
    assert (parity.different, parity.examples[0].key) == (1, {"id": "4"})
    assert compared(one, other, tolerances={"n": Tolerance(Decimal("0.001"))}).is_equal
    assert compared(one, other, tolerances={"n": Tolerance(Decimal("0.00000001"))}).different == 1
