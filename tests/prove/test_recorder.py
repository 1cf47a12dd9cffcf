"""The line that is told as soon as a comparison ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import Aggregate, Parity
from dbt_bridge.prove.recorder import format_parity, start_parity

DONE = replace(
    start_parity("load", "model.shop.fct", Both("old: fct", "duckdb: main.fct"), "rows", "now"),
    status="different", error=None, rows_origin=77, rows_destination=77, only_in_origin=0, only_in_destination=0,
    different=0, duplicates=0,
)  # fmt: skip
APART = Aggregate("", "revenue", "1", "2", same=False)


@pytest.mark.parametrize(
    ("parity", "line"),
    [
        (replace(DONE, status="equal"), "duckdb: main.fct: 77 rows equal, 0.0 s"),
        (replace(DONE, different=1), "duckdb: main.fct: 1 of 77 rows differs, 0.0 s"),
        (replace(DONE, aggregates=(APART,)), "duckdb: main.fct: 77 rows equal, 1 aggregate differs, 0.0 s"),
        (replace(DONE, different=2, aggregates=(APART,)), "duckdb: main.fct: 2 of 77 rows differ, 0.0 s"),
        (replace(DONE, level="counts", different=None), "duckdb: main.fct: the counts differ, 0.0 s"),
    ],
)
def test_a_line_says_what_was_found(parity: Parity, line: str) -> None:
    assert format_parity(parity) == line
