"""The report of a verification as one HTML file: a verdict for a manager, differences and next steps for an engineer.

The file loads nothing, and its own policy allows nothing but its own style and script. Every text goes through jinja2's
autoescape; values are written as in the terminal (`display`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING

from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import LANDED, Aggregate, Parity
from dbt_bridge.verify.report.differences import (
    DifferenceLine,
    format_column,
    format_difference,
    format_percent,
    is_exact,
    words_of,
)
from dbt_bridge.verify.report.display import format_both, format_count, format_message, format_name
from dbt_bridge.verify.report.lookup_sql import Lookup, write_lookups
from dbt_bridge.verify.report.verdict import (
    count_kinds,
    distinguish_origins,
    format_finding,
    format_state,
    format_table,
    format_verdict,
    group_by_words,
    list_caveats,
    suggest_command,
)

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

_WIDTH = 200  # characters of a value that are shown
_BAR = 1000  # units of the bar's width
_SLIVER = 12  # units that every kind has at least, so that one row of millions is seen


def as_html(parities: Sequence[Parity], *, title: str, about: Mapping[str, str] | None = None) -> str:
    """The whole report.

    Args:
        about: what else the reader should know about the run: project, target, selection.
    """
    sides, parities = parities, distinguish_origins(parities)
    sections = [
        _Section.of(number, parity, _facts(known))
        for number, (parity, known) in enumerate(zip(parities, sides, strict=True), 1)
    ]
    style, script = (_read_part(file) for file in ("report.css", "report.js"))
    return _template().render(
        title=format_name(title),
        verdict=format_name(" ".join(map(format_verdict, group_by_words(parities))) or format_verdict([])),
        status=_status(parities),
        caveats=[format_name(caveat) for caveat in list_caveats(parities)],
        tiles=_tiles(parities),
        sections=sections,
        words=_common_words(parities),
        about={
            format_name(key): format_name(value)
            for key, value in {**_about(parities), **(about or {})}.items()
            if value
        },
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; "
        "form-action 'none'",
        bar=_BAR,
    )


@dataclass(frozen=True, slots=True)
class _Segment:
    """A part of the bar: a kind of rows, its share of the width, and what it says."""

    kind: str
    label: str
    count: int
    start: int
    width: int


@dataclass(frozen=True, slots=True)
class _Tile:
    """A number at the top of the report."""

    kind: str
    number: str
    label: str


@dataclass(frozen=True, slots=True)
class _AggregateLine:
    column: str
    what: str
    values: Both[str]
    variance: str
    tolerance: str
    status: str


@dataclass(frozen=True, slots=True)
class _Section:
    """One comparison, as the template shows it: texts as `display` writes them, not yet escaped."""

    anchor: str
    table: str
    status: str
    found: str
    words: Both[str]
    facts: Mapping[str, str]
    counts: Sequence[str]
    segments: Sequence[_Segment]
    columns: Mapping[str, int]
    aggregates: Sequence[_AggregateLine]
    examples: Sequence[DifferenceLine]
    more: int
    error: str
    lookups: Sequence[Lookup]
    command: str

    @classmethod
    def of(cls, number: int, parity: Parity, facts: Mapping[str, str]) -> _Section:
        shown, words = len(parity.examples), words_of(parity)
        return cls(
            anchor=f"table-{number}",
            table=format_name(format_table(parity)),
            status=parity.status,
            found=format_finding(parity),
            words=words,
            facts=facts,
            counts=[
                *map(format_count, (parity.rows_origin, parity.rows_destination)),
                *map(format_count, list(count_kinds(parity).values())),
            ],
            segments=_segments(parity),
            columns={
                format_name(c): n for c, n in sorted(parity.columns.items(), key=lambda item: (-item[1], item[0]))
            },
            aggregates=[_aggregate_line(aggregate) for aggregate in parity.aggregates],
            examples=[line for d in parity.examples for line in format_difference(d, words, _WIDTH)],
            more=max(0, (parity.differences or shown) - shown) if shown else 0,
            error=format_message(parity.error or "") if parity.status == "failed" else "",
            lookups=[replace(lookup, sql=format_message(lookup.sql)) for lookup in write_lookups(parity)],
            command=format_name(suggest_command(parity)),
        )


def _facts(parity: Parity) -> dict[str, str]:
    """What was compared and how; what is empty or zero is left out."""
    origin, destination = parity.words
    facts = {
        origin: parity.origin,
        destination: parity.destination,
        "dbt node": parity.node,
        "state": format_state(parity),
        "level": parity.level,
        "method": parity.method,
        "why": parity.why,
        "key": ", ".join(parity.key)
        or ("" if parity.level != "rows" or parity.status == "failed" else "none: whole rows are compared"),
        "matching rows": format_count(same) if (same := parity.matching) is not None else "",
        "rows in flight, left out": format_count(parity.in_flight) if parity.in_flight else "",
        f"only in {destination}, allowed": format_count(parity.allowed) if parity.allowed else "",
        "read over the wires": f"{parity.bytes:,} bytes" if parity.bytes is not None else "",
        "seconds": f"{parity.duration_seconds:,.1f}",
    }
    return {format_name(key): format_name(value) for key, value in facts.items() if value}


def _segments(parity: Parity) -> list[_Segment]:
    """The bar: shares of all rows of both sides; none where they were not compared."""
    same = parity.matching
    if same is None:
        return []
    kinds = {"matching": same, **{label: count or 0 for label, count in count_kinds(parity).items()}}
    classes = ("match", "missing", "extra", "changed", "double")
    seen = [(kind, label, n) for kind, (label, n) in zip(classes, kinds.items(), strict=True) if n]
    total = sum(n for _, _, n in seen)
    widths = [max(_SLIVER, round(n / total * _BAR)) for _, _, n in seen]
    if widths:  # the widest gives what the slivers took
        widths[widths.index(max(widths))] += _BAR - sum(widths)
    starts = [sum(widths[:i]) for i in range(len(widths))]
    return [_Segment(*one, start, width) for one, start, width in zip(seen, starts, widths, strict=True)]


def _aggregate_line(aggregate: Aggregate) -> _AggregateLine:
    return _AggregateLine(
        format_column(aggregate),
        format_name(aggregate.what),
        format_both(Both(aggregate.origin, aggregate.destination), _WIDTH),
        format_percent(aggregate.variance),
        format_name(aggregate.tolerance) or "-",
        "different" if not aggregate.same else "equal" if is_exact(aggregate) else "within tolerance",
    )


def _status(parities: Sequence[Parity]) -> str:
    """Of the whole run: a failure is never shown as a match."""
    statuses = {p.status for p in parities}
    return next((s for s in ("failed", "different", "equal") if s in statuses), "failed")


def _tiles(parities: Sequence[Parity]) -> list[_Tile]:
    counts = {status: sum(p.status == status for p in parities) for status in ("equal", "different", "failed")}
    rows = sum(p.rows_origin or 0 for p in parities if p.status != "failed")
    apart = sum(p.differences or 0 for p in parities)
    return [
        *(_Tile(status if number else "", str(number), f"tables {status}") for status, number in counts.items()),
        _Tile("", f"{rows:,}", f"rows in {_common_words(parities).origin}"),
        _Tile("different" if apart else "", f"{apart:,}", "rows that differ"),
    ]


def _common_words(parities: Sequence[Parity]) -> Both[str]:
    """What both sides are called where all comparisons are shown."""
    words = {words_of(p) for p in parities}
    return words.pop() if len(words) == 1 else Both(*LANDED)


def _about(parities: Sequence[Parity]) -> dict[str, str]:
    if not parities:
        return {}
    began, ended = min(p.started_at for p in parities), max(p.finished_at for p in parities)
    return {
        "run": ", ".join(sorted({p.load_id for p in parities})),
        "started": _format_moment(began),
        "finished": _format_moment(ended),
        "dbt-bridge": version("dbt-bridge"),
    }


def _format_moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["break_at_signs"] = _break_at_signs
    return environment.from_string(_read_part("report.html.jinja"))


def _break_at_signs(text: str) -> Markup:
    """A long name, which a narrow page breaks after a dot or an underscore rather than anywhere."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"(?<=[._])(?=\w)", "<wbr>", str(escape(text))))


def _read_part(file: str) -> str:
    return files(__package__).joinpath(file).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """How a content security policy allows this one inline element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
