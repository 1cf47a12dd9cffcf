"""What comparisons found, in a terminal: a table of all, then what differs, with examples and the next command.

Names and values come from databases. They are printed as `Text`, in which rich reads no markup, and written so that
they cannot steer the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import (
    Aggregate,
    Difference,
    Parity,
    of_every_kind,
)
from dbt_bridge.verify.report.differences import (
    format_column,
    format_difference,
    format_percent,
    is_exact,
    words_of,
)
from dbt_bridge.verify.report.display import format_both, format_count, format_message, format_name
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
    """What is printed beside the counts.

    Attributes:
        examples: how many differences of each table are shown, at most.
        more: the option that shows more of them; empty where the command has none.
        commands: also print what to run next.
        whole: everything that was selected was compared, so that a verdict can be given.
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
        _print_details(alike, console, shown)
        if shown.commands and (command := suggest_command(alike[0])):
            _print(console, f"  -> {format_name(command)}")
    if not shown.whole:
        return
    _print(
        console,
        f"\n{format_name(format_verdict(parities))}",
        "bold green" if all(p.is_equal for p in parities) else "bold red",
    )
    for caveat in list_caveats(parities):
        _print(console, format_name(caveat))


def _overview(parities: Sequence[Parity], console: Console) -> RenderableType:
    """One line for each comparison; as a terminal gets narrower with states below, broken names, and without counts."""
    from rich.console import Group
    from rich.measure import Measurement
    from rich.text import Text

    numbers = {heading: of for heading, of in _numbers(parities).items() if any(of(p) is not None for p in parities)}
    lines = [Text(format_name(line)) for line in _list_states([p for p in parities if p.status != "failed"])]
    for how, below, broken in ((_how, [], False), (_by, lines, False), (_how, [], True)):
        wide = _overview_table(parities, numbers, how, broken=broken)
        if Measurement.get(console, console.options.update(max_width=10_000), wide).minimum <= console.width:
            return Group(wide, *below)
    return Group(_overview_table(parities, {}, _by if lines else _how, broken=True), *lines)


def _list_states(parities: Sequence[Parity]) -> list[str]:
    """Which tables were compared at which state, where there are several; the most common one is that of the others."""
    states: dict[str, list[str]] = {}
    for p in parities:
        states.setdefault(p.at, []).append(format_table(p))
    if len(states) < 2:
        return []
    *rare, (usual, others) = sorted(states.items(), key=lambda state: len(state[1]))
    lines = [f"{at}: {', '.join(tables)}" for at, tables in rare]
    return [*lines, f"{usual}: {'the others' if len(others) > 1 else others[0]}"]


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


def _overview_table(
    parities: Sequence[Parity],
    numbers: Mapping[str, Callable[[Parity], int | None]],
    how: Callable[[Parity], str],
    *,
    broken: bool,
) -> Table:
    """The table of all comparisons. A count is never cut.

    Args:
        numbers: heading -> the number of a comparison; without any, a column says in words what was found.
        how: how they were compared: the table's title where it is the same for all.
        broken: names may be broken anywhere; otherwise only those that are very long.
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
        table.add_column(heading, justify="right", footer=_format_total([of(p) for p in parities]), no_wrap=True)
    if not numbers:
        table.add_column("found", overflow="fold")
    # They run side by side, so the total is the time from the first start to the last end.
    wall = (max(p.finished_at for p in parities) - min(p.started_at for p in parities)).total_seconds()
    table.add_column("seconds", justify="right", footer=f"{wall:.1f}", no_wrap=True)
    table.add_column("status", footer=_format_statuses(parities), no_wrap=True)
    for p in parities:
        row = [Text(format_name(format_table(p))), *([] if title else [Text(format_name(how(p)))])]
        row += [Text(format_count(of(p))) for of in numbers.values()] or [Text(format_finding(p))]
        table.add_row(*row, f"{p.duration_seconds:.1f}", Text(p.status, style=_STYLES[p.status]))
    return table


def _how(parity: Parity) -> str:
    """`rows by digests, LSN 0/16B3748`."""
    return f"{_by(parity)}, {parity.at}"


def _by(parity: Parity) -> str:
    return f"{parity.level}{f' by {parity.method}' if parity.method else ''}"


def _print_details(alike: Sequence[Parity], console: Console, shown: ReportOptions) -> None:
    """One comparison, or several that failed for one reason.

    Of equal ones nothing is printed but aggregates that differ within their tolerance.
    """
    parity = alike[0]
    apart = [a for a in parity.aggregates if not (a.same and is_exact(a))]
    if parity.is_equal and not apart:
        return
    _print(
        console,
        f"\n{format_name(format_tables(alike))}: {format_finding(parity)} ({format_name(format_state(parity))})",
        "bold",
    )
    if parity.status == "failed":
        _print(console, format_message(parity.error or "no reason was given"))
        return
    if (same := parity.matching) is not None:
        kinds = {"match": same, **{kind: count for kind, count in count_kinds(parity).items() if count}}
        _print(console, f"  totals: {_format_counts(kinds)}")
    if parity.columns:
        ordered = dict(sorted(parity.columns.items(), key=lambda item: -item[1]))
        _print(console, f"  different by column: {_format_counts(ordered)}")
    if apart:
        console.print(_aggregate_table(apart, words_of(parity), console.width))
    if parity.examples and shown.examples:
        examples = of_every_kind(parity.examples, shown.examples)
        console.print(_example_table(examples, words_of(parity), console.width))
        if (more := (parity.differences or len(parity.examples)) - len(examples)) > 0:
            _print(console, f"  and {more:,} more{f': {shown.more}' if shown.more else ''}")


def _example_table(examples: Sequence[Difference], words: Both[str], width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for heading in ("kind", "key", "column", *words):
        table.add_column(heading, overflow="fold")
    for difference in examples:
        for line in format_difference(difference, words, max(20, (width - 50) // 2)):
            table.add_row(*map(Text, (line.kind, line.key, line.column, *line.values)))
    return table


def _aggregate_table(aggregates: Sequence[Aggregate], words: Both[str], width: int) -> Table:
    """Without columns that would be empty."""
    from rich.table import Table
    from rich.text import Text

    values = [format_both(Both(a.origin, a.destination), max(40, (width - 70) // 2)) for a in aggregates]
    columns = {
        "column": [format_column(a) for a in aggregates],
        "aggregate": [format_name(a.what) for a in aggregates],
        words.origin: [value.origin for value in values],
        words.destination: [value.destination for value in values],
        "variance": [format_percent(a.variance) for a in aggregates],
        "tolerance": [format_name(a.tolerance) for a in aggregates],
    }
    filled = {heading: cells for heading, cells in columns.items() if any(cell not in ("", "-") for cell in cells)}
    table = Table()
    for heading in filled:
        is_number = heading == "variance"
        table.add_column(heading, overflow="fold", no_wrap=is_number, justify="right" if is_number else "left")
    table.add_column("status", no_wrap=True)
    for aggregate, *cells in zip(aggregates, *filled.values(), strict=True):
        status = Text("within", style="green") if aggregate.same else Text("different", style="red")
        table.add_row(*map(Text, cells), status)
    return table


def _print(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, soft_wrap=True)


def _format_counts(counts: Mapping[str, int | None]) -> str:
    return ", ".join(f"{format_name(what)} {format_count(number)}" for what, number in counts.items())


def _format_total(numbers: Sequence[int | None]) -> str:
    """The sum; `>=` it where some of them were not counted."""
    known = [number for number in numbers if number is not None]
    if not known:
        return "-"
    return f"{sum(known):,}" if len(known) == len(numbers) else f">= {sum(known):,}"


def _format_statuses(parities: Sequence[Parity]) -> str:
    counts = {status: sum(p.status == status for p in parities) for status in _STYLES}
    return "\n".join(f"{number} {status}" for status, number in counts.items() if number)
