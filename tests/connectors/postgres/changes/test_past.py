"""What tells one past of a log from another: timelines that fork, and the last commit that changed something."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.connectors.postgres.changes.messages import SLACK, Messages
from dbt_bridge.connectors.postgres.changes.past.timeline import Branch, find_fork, parse_history, read_branches
from dbt_bridge.connectors.postgres.changes.past.witness import Commit, CommitWatch, Past
from dbt_bridge.errors import OriginError

HISTORY = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000028\tbefore 2026-11-30 12:00:00+00\n"
ONE = (Branch(1),)
THREE = (Branch(1, 0x3000000), Branch(2, 0x5000028), Branch(3))


def test_a_history_is_the_way_to_a_timeline() -> None:
    asked: list[int] = []

    def read(timeline: int) -> str:
        asked.append(timeline)
        return HISTORY

    assert read_branches(1, read) == ONE
    assert read_branches(3, read) == THREE == (*parse_history(HISTORY), Branch(3))
    assert asked == [3], "the first has none"


def test_a_history_that_is_gone_leaves_the_timeline_alone() -> None:
    def refuse(timeline: int) -> str:
        raise OriginError(f'could not open file "pg_wal/{timeline:08X}.history": No such file or directory')

    assert read_branches(3, refuse) == (Branch(3),)


@pytest.mark.parametrize(
    ("before", "now", "fork"),
    [
        (ONE, ONE, None),
        (ONE, THREE, 0x3000000),
        (THREE, THREE, None),
        (THREE, ONE, 0x3000000),  # an older standby came back
        ((*THREE[:2], Branch(4)), THREE, 0x5000028),
        ((Branch(1, 0x2000000), Branch(2)), THREE, 0x2000000),  # two standbys took over with one number
        ((Branch(1, 0x3000000), Branch(2)), THREE, 0x5000028),
        ((Branch(3),), THREE, None),  # its history was gone
        (THREE, (Branch(3),), None),
        ((Branch(7),), THREE, 0),
        ((), THREE, None),
    ],
)
def test_two_ways_are_one_up_to_where_they_fork(
    before: tuple[Branch, ...], now: tuple[Branch, ...], fork: int | None
) -> None:
    assert find_fork(before, now) == fork


@pytest.mark.parametrize(
    "past", [Past(THREE, Commit(0x16B374D848, 4_294_967_295, -1)), Past(ONE, None, 0x3000000, 0x2000000), Past()]
)
def test_a_past_is_read_back_as_it_was_written(past: Past) -> None:
    assert Past.of_text(past.as_text()) == past


def run_of(messages: list[tuple[str, bytes]]) -> Messages:
    bodies = [body for _, body in messages]
    ends = np.cumsum([len(body) for body in bodies], dtype=np.int64)
    starts = np.concatenate(([0], ends[:-1])).astype(np.int64) if bodies else ends
    kinds = np.frombuffer("".join(kind for kind, _ in messages).encode(), np.uint8)
    return Messages(np.frombuffer(b"".join(bodies) + bytes(SLACK), np.uint8), kinds, starts, ends)


@given(st.lists(st.text("RYOMIUDT", max_size=4), max_size=8), st.lists(st.integers(0, 40), max_size=4))
def test_the_last_commit_is_that_of_the_last_transaction_with_a_change(
    transactions: list[str], cuts: list[int]
) -> None:
    """However the messages are cut into runs."""
    messages: list[tuple[str, bytes]] = []
    expected = None
    for number, said in enumerate(transactions, 1):
        messages.append(("B", struct.pack(">QqI", number << 33, -number, number)))
        messages += [(kind, b"....") for kind in said]
        messages.append(("C", bytes(25)))
        if set(said) & set("IUDT"):
            expected = Commit(number << 33, number, -number)
    places = [0, *sorted(min(cut, len(messages)) for cut in cuts), len(messages)]
    watch = CommitWatch()
    for first, last in itertools.pairwise(places):
        watch.read(run_of(messages[first:last]))
    assert watch.last == expected
