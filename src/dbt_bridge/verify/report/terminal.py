"""What comparisons found, in a terminal: a table of all, then what differs, with examples and the next command.

Names and values come from databases. They are printed as `Text`, in which rich reads no markup, and spelled so that
they cannot steer the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from dbt_bridge.nouns.parity import (
    Aggregate,
    Difference,
    Parity,
    of_every_kind,
)
from dbt_bridge.verify.report.display import (
    MASKED,
    format_both,
    format_message,
    format_name,
    format_row,
)
from dbt_bridge.verify.report.verdict import (
    count_kinds,
    distinguish_origins,
    format_finding,
    format_state,
    format_table,
    format_tables,
    format_verdict,
    group_by_cause,
    group_by_words,
    list_caveats,
    suggest_command,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

EXAMPLES = 10
_STYLES = {"equal": "green", "different": "red", "failed": "red"}
_LONG = 40  # signs of a name that are broken only where nothing else helps
_WIDE = 140  # columns where there is no terminal


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What is told beside the counts.

    Attributes:
        examples: differences that are shown of each table, at most.
        more: what shows more of them; empty where the command has no such option.
        commands: also what to run next.
        whole: all that was asked for was compared, so that a verdict can be given.
    """

    examples: int = EXAMPLES
    more: str = ""
    commands: bool = True
    whole: bool = True


def print_parities(
    parities: Sequence[Parity], out: IO[str] | None = None, shown: ReportOptions = ReportOptions()
) -> None:
    """Print what was found, to standard output: those whose sides have the same names together.

    Why rows were compared the way they were is in JSON and in the report.
    """
    from rich.console import Console

    out = out or sys.stdout
    console = Console(file=out, width=None if out.isatty() else _WIDE, highlight=False)
    for group in group_by_words(parities):
        _print_group(distinguish_origins(group), console, shown)


def _print_group(parities: Sequence[Parity], console: Console, shown: ReportOptions) -> None:
    """Comparisons whose sides have the same names."""
    console.print(_overview(parities, console))
    for alike in group_by_cause(parities):
        _tell(console, alike, shown)
        if shown.commands and (command := suggest_command(alike[0])):
            _say(console, f"  -> {format_name(command)}")
    if not shown.whole:
        return
    _say(
        console,
        f"\n{format_name(format_verdict(parities))}",
        "bold green" if all(p.is_equal for p in parities) else "bold red",
    )
    for caveat in list_caveats(parities):
        _say(console, format_name(caveat))


def _overview(parities: Sequence[Parity], console: Console) -> RenderableType:
    """One line for each comparison; as a terminal gets narrower with states below, broken names, and without counts."""
    from rich.console import Group
    from rich.measure import Measurement
    from rich.text import Text

    numbers = {heading: of for heading, of in _numbers(parities).items() if any(of(p) is not None for p in parities)}
    lines = [Text(format_name(line)) for line in _states([p for p in parities if p.status != "failed"])]
    for how, below, broken in ((_how, [], False), (_by, lines, False), (_how, [], True)):
        wide = _table(parities, numbers, how, broken=broken)
        if Measurement.get(console, console.options.update(max_width=10_000), wide).minimum <= console.width:
            return Group(wide, *below)
    return Group(_table(parities, {}, _by if lines else _how, broken=True), *lines)


def _states(parities: Sequence[Parity]) -> list[str]:
    """Which tables were compared at which state, where there are several; the most common one is that of the others."""
    states: dict[str, list[str]] = {}
    for p in parities:
        states.setdefault(p.at, []).append(format_table(p))
    if len(states) < 2:
        return []
    *rare, (usual, others) = sorted(states.items(), key=lambda state: len(state[1]))
    told = [f"{at}: {', '.join(tables)}" for at, tables in rare]
    return [*told, f"{usual}: {'the others' if len(others) > 1 else others[0]}"]


def _numbers(parities: Sequence[Parity]) -> dict[str, Callable[[Parity], int | None]]:
    origin, destination = parities[0].words
    usual: dict[str, Callable[[Parity], int | None]] = {
        f"rows in\n{origin}": lambda p: p.rows_origin,
        f"rows in\n{destination}": lambda p: p.rows_destination,
        f"only in\n{origin}": lambda p: p.only_in_origin,
        f"only in\n{destination}": lambda p: p.only_in_destination,
        "different": lambda p: p.different,
    }
    rare: dict[str, Callable[[Parity], int | None]] = {
        "duplicates": lambda p: p.duplicates,
        "in flight": lambda p: p.in_flight,
        "allowed": lambda p: p.allowed,
    }
    return usual | {heading: of for heading, of in rare.items() if any(map(of, parities))}


def _table(
    parities: Sequence[Parity],
    numbers: Mapping[str, Callable[[Parity], int | None]],
    how: Callable[[Parity], str],
    *,
    broken: bool,
) -> Table:
    """Without `numbers`, what was found is told in words. A count is never cut.

    Args:
        how: they were compared: the table's title where it is the same for all.
        broken: names may be broken anywhere; else only those that are very long.
    """
    from rich.table import Table
    from rich.text import Text

    compared = {how(p) for p in parities if p.status != "failed"} or {how(p) for p in parities}
    title = format_name(compared.pop()) if len(compared) == 1 else ""
    table = Table(title=Text(title), title_justify="left", show_footer=True, footer_style="bold")
    least = 12 if broken else min(_LONG, max(len(format_name(format_table(p))) for p in parities))
    table.add_column("table", footer=f"{len(parities)} in total", overflow="fold", min_width=max(12, least))
    if not title:
        table.add_column("compared", overflow="fold", min_width=12 if broken else min(_LONG, max(map(len, compared))))
    for heading, of in numbers.items():
        table.add_column(heading, justify="right", footer=_total([of(p) for p in parities]), no_wrap=True)
    if not numbers:
        table.add_column("found", overflow="fold")
    # They run side by side, so the total is the time from the first start to the last end.
    wall = (max(p.finished_at for p in parities) - min(p.started_at for p in parities)).total_seconds()
    table.add_column("seconds", justify="right", footer=f"{wall:.1f}", no_wrap=True)
    table.add_column("status", footer=_statuses(parities), no_wrap=True)
    for p in parities:
        row = [Text(format_name(format_table(p))), *([] if title else [Text(format_name(how(p)))])]
        row += [Text(_count(of(p))) for of in numbers.values()] or [Text(format_finding(p))]
        table.add_row(*row, f"{p.duration_seconds:.1f}", Text(p.status, style=_STYLES[p.status]))
    return table


def _how(parity: Parity) -> str:
    """`rows by digests, LSN 0/16B3748`."""
    return f"{_by(parity)}, {parity.at}"


def _by(parity: Parity) -> str:
    return f"{parity.level}{f' by {parity.method}' if parity.method else ''}"


def _tell(console: Console, alike: Sequence[Parity], how: ReportOptions) -> None:
    """What is to be said of one comparison, or of several that failed for one reason.

    Nothing is said of equal ones but aggregates that differ within their tolerance.
    """
    parity = alike[0]
    apart = [a for a in parity.aggregates if not (a.same and is_exact(a))]
    if parity.is_equal and not apart:
        return
    _say(
        console,
        f"\n{format_name(format_tables(alike))}: {format_finding(parity)} ({format_name(format_state(parity))})",
        "bold",
    )
    if parity.status == "failed":
        _say(console, format_message(parity.error or "no reason was given"))
        return
    if (same := parity.matching) is not None:
        kinds = {"match": same, **{kind: count for kind, count in count_kinds(parity).items() if count}}
        _say(console, f"  totals: {_counts(kinds)}")
    if parity.columns:
        ordered = dict(sorted(parity.columns.items(), key=lambda item: -item[1]))
        _say(console, f"  different by column: {_counts(ordered)}")
    if apart:
        console.print(_aggregates(apart, parity.words, console.width))
    if parity.examples and how.examples:
        shown = of_every_kind(parity.examples, how.examples)
        console.print(_examples(shown, parity.words, console.width))
        if (more := (parity.differences or len(parity.examples)) - len(shown)) > 0:
            _say(console, f"  and {more:,} more{f': {how.more}' if how.more else ''}")


def _examples(examples: Sequence[Difference], words: tuple[str, str], width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("kind", "key", "column", *words):
        table.add_column(heading, overflow="fold")
    for difference in examples:
        for row in format_difference(difference, words, max(20, (width - 50) // 2)):
            table.add_row(*map(Text, row))
    return table


def format_difference(
    difference: Difference, words: tuple[str, str], width: int
) -> Iterator[tuple[str, str, str, str, str]]:
    """A difference as (kind, key, column, origin, destination): one line for each column that differs."""
    kind, key = format_kind(difference, words), format_row(difference.key, width)
    if difference.kind != "different" or not difference.columns:
        yield kind, key, "", *_whole(difference, width)
        return
    for column in difference.columns:
        told = column in difference.origin or column in difference.destination
        both = difference.origin.get(column), difference.destination.get(column)
        yield kind, key, format_name(column), *(format_both(*both, width) if told else (MASKED, MASKED))
        kind = key = ""


def format_kind(difference: Difference, words: tuple[str, str]) -> str:
    return {
        "only_in_origin": f"only in {words[0]}",
        "only_in_destination": f"only in {words[1]}",
        "different": "different",
        "duplicate": "duplicate",
    }[difference.kind]


def _whole(difference: Difference, width: int) -> tuple[str, str]:
    """Both sides of a row that only one of them has, or that one has several times."""
    counts = list(difference.rows)
    if difference.kind == "only_in_origin" and difference.key:
        counts[1] = 0
    if difference.kind == "only_in_destination" and difference.key:
        counts[0] = 0
    values = (difference.origin, difference.destination)
    origin, destination = (_side(count, given, width) for count, given in zip(counts, values, strict=True))
    return origin, destination


def _side(count: int, values: Mapping[str, str | None], width: int) -> str:
    rows = "no row" if not count else "1 row" if count == 1 else f"{count:,} rows"
    return f"{rows}: {format_row(values, width)}" if count and values else rows


def _aggregates(aggregates: Sequence[Aggregate], words: tuple[str, str], width: int) -> Table:
    """Without columns that would be empty."""
    from rich.table import Table
    from rich.text import Text

    values = [format_both(a.origin, a.destination, max(40, (width - 70) // 2)) for a in aggregates]
    columns = {
        "column": [format_column(a) for a in aggregates],
        "aggregate": [format_name(a.what) for a in aggregates],
        words[0]: [origin for origin, _ in values],
        words[1]: [destination for _, destination in values],
        "variance": [format_percent(a.variance) for a in aggregates],
        "tolerance": [format_name(a.tolerance) for a in aggregates],
    }
    told = {heading: cells for heading, cells in columns.items() if any(cell not in ("", "-") for cell in cells)}
    table = Table()
    for heading in told:
        is_number = heading == "variance"
        table.add_column(heading, overflow="fold", no_wrap=is_number, justify="right" if is_number else "left")
    table.add_column("status", no_wrap=True)
    for aggregate, *cells in zip(aggregates, *told.values(), strict=True):
        status = Text("within", style="green") if aggregate.same else Text("different", style="red")
        table.add_row(*map(Text, cells), status)
    return table


def format_column(aggregate: Aggregate) -> str:
    """The column; metrics have none but their own name."""
    return format_name(aggregate.column) or ("(rows)" if aggregate.what == "count" else "")


def is_exact(aggregate: Aggregate) -> bool:
    """Both sides have the same value, which engines may write with more or fewer zeros."""
    return aggregate.origin == aggregate.destination or aggregate.variance == 0


def format_percent(variance: float | None) -> str:
    """`+0.1 %`; small ones with as many digits as it takes."""
    if variance is None:
        return "-"
    return f"{variance * 100:+.3g} %" if abs(variance) < 10 else f"{variance * 100:+,.0f} %"


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, soft_wrap=True)


def _counts(counts: Mapping[str, int | None]) -> str:
    return ", ".join(f"{format_name(what)} {_count(number)}" for what, number in counts.items())


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _total(numbers: Sequence[int | None]) -> str:
    """The sum; `>=` it where some of them were not counted."""
    known = [number for number in numbers if number is not None]
    if not known:
        return "-"
    return f"{sum(known):,}" if len(known) == len(numbers) else f">= {sum(known):,}"


def _statuses(parities: Sequence[Parity]) -> str:
    counts = {status: sum(p.status == status for p in parities) for status in _STYLES}
    return "\n".join(f"{number} {status}" for status, number in counts.items() if number)
