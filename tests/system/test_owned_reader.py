"""Readers end when their owner says so, whatever still refers to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from dbt_bridge.system.owned_reader import close_reader, make_reader, owning

SCHEMA = pa.schema([("n", pa.int64())])


class Rows:
    """Batches without end, and whether they were ended."""

    def __init__(self) -> None:
        self.ended = False

    def stream(self) -> Iterator[pa.RecordBatch]:
        try:
            while True:
                yield pa.record_batch([pa.array([1])], schema=SCHEMA)
        finally:
            self.ended = True


def test_an_error_in_the_middle_ends_the_rows_though_its_traceback_refers_to_them() -> None:
    rows = Rows()
    with pytest.raises(ValueError, match="refused") as kept, owning(make_reader(SCHEMA, rows.stream())) as reader:
        for _ in reader:
            raise ValueError("refused")
    assert rows.ended and kept.tb is not None


def test_the_reader_inside_is_ended_with_the_outer_one() -> None:
    rows = Rows()
    inner = make_reader(SCHEMA, rows.stream())
    inner.read_next_batch()
    outer = make_reader(SCHEMA, (batch for batch in inner), inner)
    close_reader(outer)  # before its first batch
    assert rows.ended
    close_reader(outer)


def test_a_reader_of_somebody_else_is_closed_as_it_can_be() -> None:
    table = pa.table({"n": [1, 2]})
    with owning(pa.RecordBatchReader.from_stream(table)) as reader:
        assert reader.read_next_batch().num_rows == 2
    with owning(table.to_reader()) as reader:
        assert reader.read_all() == table


def test_every_stream_of_batches_has_an_owner() -> None:
    """A generator behind pyarrow's own reader could not be ended: only lists may be there."""
    sources = Path(__file__).parents[2] / "src/dbt_bridge"
    found = [
        f"{file.relative_to(sources)}: {line.strip()}"
        for file in sources.rglob("*.py")
        for line in file.read_text().splitlines()
        if "RecordBatchReader.from_batches(" in line and "[" not in line
    ]
    assert sorted(line.partition(":")[0] for line in found) == [
        "replicate/log_state.py",  # read to its end by the statement that it is registered for
        "system/owned_reader.py",
        "testing/destination.py",
    ], found
