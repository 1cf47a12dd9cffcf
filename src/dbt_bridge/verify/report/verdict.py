"""What comparisons say in a sentence, and what to do next: the same words in the terminal and in the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC

from dbt_bridge.nouns.parity import Level, Parity
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.verify.report.display import format_count

NOT_COMPARED = "not compared: "  # in `Parity.why`, before the columns that have no counterpart at the other side
_LEGIBLE = 48  # characters of what stands beside a table's name
_MOST_NAMES = 3  # tables that are named in a verdict; the others are counted
_SAME: dict[Level, str] = {
    "rows": "the same rows as",
    "aggregates": "the same counts and aggregates as",
    "counts": "as many rows as",
}


def format_verdict(parities: Sequence[Parity]) -> str:
    """`5 of 6 tables hold the same rows as the origin, at LSN 0/16B3748; 20 rows of shop_landing.orders differ.`"""
    if not parities:
        return "Nothing was compared."
    equal = [p for p in parities if p.status == "equal"]
    different = [p for p in parities if p.status == "different"]
    failed = [p for p in parities if p.status == "failed"]
    parts = []
    if equal or different:
        parts.append(_format_equal(len(equal), parities))
    if different:
        parts.append(_format_different(different))
    if failed:
        parts.append(f"{format_tables(failed)} could not be compared")
    return f"{'; '.join(parts)}."


def list_caveats(parities: Sequence[Parity]) -> list[str]:
    """What the verdict leaves out, in sentences."""
    sentences = []
    if flying := sum(p.in_flight for p in parities):
        left_out = f"{_format_rows(flying)} in flight {_were(flying)} left out"
        sentences.append(f"{left_out}: they are newer than what was compared.")
    if allowed := sum(p.allowed for p in parities):
        words = parities[0].words
        sentences.append(
            f"{_format_rows(allowed)} {_were(allowed)} only in the {words[1]}, which the write disposition allows: "
            "it never deletes."
        )
    for p in parities:
        if p.without:
            sentences.append(f"{format_table(p)} does not have, and was compared without: {p.without}.")
        if p.level != "counts" and (left := p.why.partition(NOT_COMPARED)[2]):
            sentences.append(f"Not compared in {format_table(p)}: {left}.")
        if p.duplicates and p.node.partition(".")[0] not in ("source", "exposure"):  # those are repaired
            keys = "1 key stands" if p.duplicates == 1 else f"{p.duplicates:,} keys stand"
            sentences.append(
                f"{keys} for several rows of {format_table(p)} or of what it replaces, whose values were not compared:"
                " declare another `key:`, of all columns that make a row one."
            )
    if levels := {p.level for p in parities} - {"rows"}:
        sentences.append(f"Values were not compared row by row where the level is {' or '.join(sorted(levels))}.")
    return sentences


def format_finding(parity: Parity) -> str:
    """What one comparison found: `20 rows differ: 5 only in origin, 15 different`."""
    if parity.status == "failed":
        return "could not be compared"
    if parity.is_equal:
        rows = "" if parity.rows_origin is None else f": {_format_rows(parity.rows_origin)}"
        without = f", without {parity.without}" if parity.without else ""
        return f"equal{without}{rows}"
    parts = []
    if apart := _count_rows_apart(parity):
        kinds = {kind: count for kind, count in count_kinds(parity).items() if count}
        by_kind = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        which = "" if list(kinds) == ["different"] else f": {by_kind}"
        parts.append(f"{_format_rows(apart)} differ{_verb_ending(apart)}{which}")
    if apart := _count_aggregates_apart(parity):
        parts.append(f"{apart:,} of {len(parity.aggregates):,} aggregates differ{_verb_ending(apart)}")
    origin, destination = parity.words
    counts = format_count(parity.rows_origin), format_count(parity.rows_destination)
    return "; ".join(parts) or f"{counts[0]} rows in {origin}, {counts[1]} in {destination}"


def count_kinds(parity: Parity) -> dict[str, int | None]:
    """The kinds of differences, as they are called for these two sides, with their counts."""
    origin, destination = parity.words
    return {
        f"only in {origin}": parity.only_in_origin,
        f"only in {destination}": parity.only_in_destination,
        "different": parity.different,
        "duplicate": parity.duplicates,
    }


def group_by_words(parities: Sequence[Parity]) -> list[list[Parity]]:
    """Those whose sides have the same names together, in the order in which these came."""
    groups: dict[tuple[str, str], list[Parity]] = {}
    for parity in parities:
        groups.setdefault(parity.words, []).append(parity)
    return list(groups.values())


def distinguish_origins(parities: Sequence[Parity]) -> list[Parity]:
    """The parities, with the origin beside the table where several are of one table."""
    several = {table for table, number in Counter(map(format_table, parities)).items() if number > 1}
    return [
        replace(p, destination=f"{p.destination} ({p.words[0]} {_shorten(p.origin)})")
        if format_table(p) in several
        else p
        for p in parities
    ]


def group_by_cause(parities: Sequence[Parity]) -> list[list[Parity]]:
    """Each alone, but those that failed for the same reason together: a missing privilege is reported once."""
    groups: dict[object, list[Parity]] = {}
    for place, parity in enumerate(parities):
        groups.setdefault(parity.error if parity.status == "failed" else place, []).append(parity)
    return list(groups.values())


def format_tables(parities: Sequence[Parity]) -> str:
    """`landing.orders, landing.items, landing.payments and 3 more`."""
    names = [format_table(p) for p in parities[:_MOST_NAMES]]
    if (more := len(parities) - _MOST_NAMES) > 0:
        names.append(f"{more} more")
    return _format_list(names)


def format_table(parity: Parity) -> str:
    """The destination's table without the name of its database: `shop_landing.orders`."""
    return parity.destination.partition(": ")[2] or parity.destination


def format_state(parity: Parity) -> str:
    """The state that was compared, in a sentence: `at LSN 0/16B3748`, `as of 2026-11-21 15:30:00 UTC`."""
    if parity.at == "now":
        return f"as of {parity.started_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"where {parity.at}" if parity.is_bounded else f"at {parity.at}"


def suggest_command(parity: Parity) -> str:
    """What to run where the sides differ; empty where they are equal, or there is nothing more to find out.

    The message of a failure has a command of its own.
    """
    if parity.status != "different":
        return ""
    selection = format_shell_selector(parity.node)
    kind = parity.node.partition(".")[0]
    command = "verify" if kind in ("source", "exposure") else "reconcile"
    if parity.level != "rows" and parity.rows_origin is None:
        return ""  # metrics, which have no rows
    if parity.level != "rows":
        return f"dbt-bridge {command} --select {selection} --level rows"
    if kind == "source":
        return f"dbt-bridge repair --select {selection} --dry-run"
    if kind == "exposure":
        return f"dbt-bridge deliver --select {selection} --dry-run"
    if (parity.differences or 0) <= len(parity.examples):
        return ""  # all differences are shown: what comes next is for people to decide
    return f"dbt-bridge {command} --select {selection} --show 1000 --report {command}.html"


def _format_equal(equal: int, parities: Sequence[Parity]) -> str:
    number, word = len(parities), parities[0].words[0]
    tables = "delivered tables" if word == "model" else "tables"
    if number == 1:
        who = f"{format_table(parities[0])} {'holds' if equal else 'does not hold'}"
    elif equal == number:
        who = f"Both {tables} hold" if number == 2 else f"All {number} {tables} hold"
    else:
        who = f"{equal or 'None'} of {number} {tables} {'hold' if equal > 1 else 'holds'}"
    compared = [p for p in parities if p.status != "failed"]
    levels = {p.level for p in compared}
    same = _SAME[levels.pop()] if len(levels) == 1 else "the same as"
    states = {format_state(p) for p in compared}
    state = f", {states.pop()}" if len(states) == 1 else _format_times(compared)
    if word == "model":
        other = "its model" if number == 1 else "their models"
    else:
        other = "the origin" if word == "origin" else f"the {word} system"
    return f"{who} {same} {other}{state}"


def _format_times(parities: Sequence[Parity]) -> str:
    """From when to when tables were compared one after the other; empty where their states have names."""
    if any(p.at != "now" for p in parities):
        return ""
    began, ended = min(p.started_at for p in parities), max(p.finished_at for p in parities)
    return f", between {began.astimezone(UTC):%Y-%m-%d %H:%M:%S} and {ended.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _format_different(parities: Sequence[Parity]) -> str:
    parts = [_format_apart(p) for p in parities[:_MOST_NAMES]]
    if (more := len(parities) - _MOST_NAMES) > 0:
        parts.append(f"those of {more} more")
    things = sum(max(1, _count_rows_apart(p) + _count_aggregates_apart(p)) for p in parities)
    return f"{_format_list(parts)} differ{_verb_ending(things)}"


def _format_apart(parity: Parity) -> str:
    """`20 rows and 1 aggregate of landing.orders`."""
    parts = []
    if apart := _count_rows_apart(parity):
        parts.append(_format_rows(apart))
    if apart := _count_aggregates_apart(parity):
        parts.append(f"{apart:,} aggregate{'' if apart == 1 else 's'}")
    return f"{' and '.join(parts) or 'the number of rows'} of {format_table(parity)}"


def _count_rows_apart(parity: Parity) -> int:
    return parity.differences or 0 if parity.level == "rows" else 0


def _count_aggregates_apart(parity: Parity) -> int:
    return sum(not aggregate.same for aggregate in parity.aggregates)


def _verb_ending(number: int) -> str:
    """Of one thing: it differs. Of several: they differ."""
    return "s" if number == 1 else ""


def _shorten(text: str) -> str:
    """A query is known by how it begins."""
    return text if len(text) <= _LEGIBLE else f"{text[: _LEGIBLE - 3].rstrip()}..."


def _format_list(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _format_rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"
