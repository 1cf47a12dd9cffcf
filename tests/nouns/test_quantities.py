"""Times and sizes, as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.cli.options import Span
from dbt_bridge.nouns.bridge_keys import SourceBlock
from dbt_bridge.nouns.quantities import format_bytes, parse_duration, parse_size
from dbt_bridge.project.bridge_block import read_block

SECONDS = {
    "ms": "0.001", "millisecond": "0.001", "milliseconds": "0.001", "s": "1", "second": "1", "seconds": "1",
    "m": "60", "minute": "60", "minutes": "60", "h": "3600", "hour": "3600", "hours": "3600",
    "d": "86400", "day": "86400", "days": "86400", "w": "604800", "week": "604800", "weeks": "604800",
}  # fmt: skip
BYTES = {"": 1, "B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}
NUMBERS = st.decimals(0, 10**9, places=3).map(lambda number: f"{number.normalize():f}")
SPANS = st.lists(st.tuples(NUMBERS, st.sampled_from(sorted(SECONDS))), min_size=1, max_size=4)


@given(SPANS, st.sampled_from(["", " ", "  "]), st.booleans())
def test_a_time_is_the_sum_of_its_spans_in_words_and_in_letters(
    spans: list[tuple[str, str]], blank: str, shouted: bool
) -> None:
    text = blank.join(f"{number}{blank}{unit}" for number, unit in spans)
    expected = sum((Decimal(number) * Decimal(SECONDS[unit]) for number, unit in spans), Decimal())
    assert parse_duration(text.upper() if shouted else text) == expected


@given(NUMBERS)
def test_a_number_alone_is_seconds(number: str) -> None:
    assert parse_duration(f" {number} ") == Decimal(number)


# What YAML took and what the command line took before both took the same, as they were written in these places.
_YAML = re.compile(r"(\d+(?:\.\d+)?)\s*(second|minute|hour|day|week)s?")
_CLI = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")


@given(st.from_regex(_YAML, fullmatch=True) | st.from_regex(_CLI, fullmatch=True))
def test_each_place_takes_what_either_of_them_took(text: str) -> None:
    seconds = float(parse_duration(text))
    block = read_block(SourceBlock, {"origin": "shop_pg", "lag": text}, "source shop").keys
    assert block.lag == seconds
    if seconds:
        assert Span().convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "-1 hour", "10 minuts", "1 hour 30", "5min", "1.5.5 h", "1h and 5m", "1e3"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_duration(text)
    with pytest.raises(click.BadParameter, match="is not a time like 2s"):
        Span().convert(text, None, None)


@given(NUMBERS, st.sampled_from(sorted(BYTES)), st.sampled_from(["", " "]))
def test_a_size_is_its_number_of_units_of_1024(number: str, unit: str, blank: str) -> None:
    assert parse_size(f"{number}{blank}{unit}") == int(Decimal(number) * BYTES[unit])


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "10 apples", "1 kib", "1e3"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_size(text)


@given(st.integers(0, 10**15 - 1))
def test_a_formatted_size_says_the_bytes_to_a_tenth_of_its_unit(size: int) -> None:
    number, unit = format_bytes(size).split()
    scale = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}[unit]
    assert abs(Decimal(number) * scale - size) <= Decimal(scale) / 20
