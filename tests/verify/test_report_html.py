"""The report in one HTML file: it says what was found, loads nothing, and runs nothing that a value brings."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import duckdb
import pytest

from dbt_bridge import __version__
from dbt_bridge.nouns.parity import (
    DELIVERED,
    Aggregate,
    Difference,
    Parity,
)
from dbt_bridge.verify.report.html import as_html
from dbt_bridge.verify.report.lookup_sql import Lookup, write_lookups

BEGAN = datetime(2026, 11, 21, 15, 30, tzinfo=UTC)
EQUAL = Parity(
    load_id="20261121T153000000000-a1b2c3", node="source.acme.shop.customers", origin="shop_pg: shop.customers",
    destination="duckdb: landing.customers", level="rows", status="equal", at="LSN 0/16B3748", started_at=BEGAN,
    finished_at=BEGAN + timedelta(seconds=4.5), duration_seconds=4.5, method="digests", why="a fast wire", key=("id",),
    rows_origin=1000, rows_destination=1000, only_in_origin=0, only_in_destination=0, different=0, duplicates=0,
)  # fmt: skip
ORDERS = replace(
    EQUAL, node="source.acme.shop.orders", origin="shop_pg: shop.orders", destination="duckdb: landing.orders",
    status="different", rows_origin=5_000_000, rows_destination=5_000_000, only_in_origin=5, only_in_destination=5,
    different=10, columns={"amount": 4, "status": 6}, examples=(
        Difference("only_in_origin", {"id": "17"}, (), {"status": "new"}, {}),
        Difference("different", {"id": "18"}, ("amount", "status"), {"amount": "10.00", "status": None},
                   {"amount": "10.01", "status": ""}),
    ),
)  # fmt: skip
FAILED = replace(
    EQUAL, node="source.acme.shop.items", destination="duckdb: landing.items", status="failed",
    error="permission denied\n  -> GRANT SELECT ON items TO dbt", rows_origin=None, rows_destination=None,
    only_in_origin=None, only_in_destination=None, different=None, duplicates=None,
)  # fmt: skip
SUMS = replace(
    FAILED, node="source.acme.shop.payments", destination="duckdb: landing.payments", status="different", error=None,
    level="aggregates", method="", aggregates=(
        Aggregate("fee", "sum", "100000", "100001", same=True, variance=0.00001, tolerance="0.01%"),
    ),
)  # fmt: skip
VOID = {"meta", "wbr", "input", "rect"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    inside: tuple[str, ...]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """A page's elements in order, each with all of its text; refuses what a browser would have to guess."""

    source: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[Element] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), "an attribute twice"
        element = Element(tag, {k: v or "" for k, v in attrs}, tuple(e.tag for e in self._open))
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, class_: str = "") -> list[Element]:
        return [
            e
            for e in self.elements
            if e.tag == tag and set(class_.split()) <= set(e.attributes.get("class", "").split())
        ]

    def rows(self, caption: str) -> list[list[str]]:
        """The cells of the table with this caption."""
        (found,) = re.findall(rf"<caption>{caption}.*?</table>", self.source, re.DOTALL)
        cells = (re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in found.split("<tr")[2:])
        return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in cells]


def page(*parities: Parity, **given: Any) -> Page:
    return Page(as_html(parities, **{"title": "Verification of acme", **given}))


def test_the_first_thing_to_read_is_the_verdict() -> None:
    found = page(EQUAL, ORDERS, FAILED, about={"target": "prod"})
    assert [e.text for e in found.elements if e.tag in ("h1", "p")][:2] == [
        "Verification of acme",
        "1 of 3 tables holds the same rows as the origin, at LSN 0/16B3748; 20 rows of landing.orders differ; "
        "landing.items could not be compared.",
    ]
    assert [e.attributes["class"] for e in found.all("p", "verdict")] == ["verdict failed"]
    about = found.all("footer")[0].text
    assert [part in about for part in (f"dbt-bridge{__version__}", "targetprod", EQUAL.load_id, "15:30:04 UTC")] == [
        True
    ] * 4
    assert [e.attributes["class"] for e in page(EQUAL).all("p", "verdict")] == ["verdict equal"]
    assert [e.attributes["class"] for e in page().all("p", "verdict")] == ["verdict failed"], "nothing is no proof"


def test_what_landed_and_what_was_delivered_have_a_verdict_each() -> None:
    crm = replace(EQUAL, destination="pg: crm.x", words=DELIVERED)
    assert [e.text for e in page(EQUAL, crm).all("p", "verdict")] == [
        "landing.customers holds the same rows as the origin, at LSN 0/16B3748. "
        "crm.x holds the same rows as its model, at LSN 0/16B3748."
    ]


def test_of_two_comparisons_of_one_table_each_side_is_named_as_it_is() -> None:
    told = {"destination": "duckdb: main.fct", "words": ("legacy", "new")}
    text = as_html([replace(EQUAL, origin=f"{name}: x", **told) for name in ("my", "pg")], title="a")
    assert text.count("<dt>new</dt><dd><bdi>duckdb: main.fct</bdi></dd>") == 2
    assert "main.<wbr>fct (legacy my: x)" in text


def test_every_table_has_its_counts_and_what_differs_has_both_values() -> None:
    found = page(EQUAL, ORDERS, FAILED)
    assert [[row[0], row[1], *row[3:]] for row in found.rows("What was found")] == [
        ["landing.customers", "equal", "1,000", "1,000", "0", "0", "0", "0"],
        ["landing.orders", "different", "5,000,000", "5,000,000", "5", "5", "10", "0"],
        ["landing.items", "failed", "-", "-", "-", "-", "-", "-"],
    ]
    assert found.rows("Rows that differ; 18 more") == [
        ["only in origin", "id = 17", "", "1 row: status = new", "no row"],
        ["different", "id = 18", "amount", "10.00", "10.01"],
        ["", "", "status", "NULL", '""'],
    ]
    assert found.rows("In how many rows") == [["status", "6"], ["amount", "4"]]
    commands = [e.text for e in found.all("pre")]
    assert "dbt-bridge repair --select source:shop.orders --dry-run" in commands
    assert FAILED.error in commands


def test_aggregates_have_their_variance_and_tolerance() -> None:
    assert page(SUMS).rows("Aggregates") == [
        ["fee", "sum", "100000", "100001", "+0.001 %", "0.01%", "within tolerance"]
    ]


def test_one_row_of_millions_is_seen_in_the_bar() -> None:
    one = replace(ORDERS, rows_origin=10**9, only_in_origin=0, only_in_destination=0, different=1)
    rects = page(one).all("rect")
    widths = {e.attributes["class"]: int(e.attributes["width"]) for e in rects}
    assert sum(widths.values()) == 1000
    assert widths["changed"] >= 10
    assert [int(e.attributes["x"]) for e in rects] == [0, widths["match"]]


def test_it_needs_no_network_and_no_script() -> None:
    found = page(EQUAL, ORDERS, FAILED, SUMS)
    assert "://" not in found.source
    assert "url(" not in found.source
    loading = {"link", "img", "iframe", "object", "embed", "base", "video", "audio", "source"}
    assert not loading & {e.tag for e in found.elements}
    assert {e.attributes["href"][0] for e in found.all("a")} == {"#"}
    assert [e.attributes for e in found.all("form")] == [{"class": "filter", "role": "search", "hidden": ""}]
    shown = [e for e in found.elements if "hidden" in e.attributes]
    assert [e.tag for e in shown] == ["form"], "only what needs the script waits for it"


def test_its_policy_allows_its_own_style_and_script_and_nothing_else() -> None:
    found = page(ORDERS)
    (policy,) = (e.attributes["content"] for e in found.all("meta") if "http-equiv" in e.attributes)
    (style,), (script,) = found.all("style"), found.all("script")
    digests = [base64.b64encode(hashlib.sha256(e.text.encode()).digest()).decode() for e in (style, script)]
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{digests[0]}'",
        f"script-src 'sha256-{digests[1]}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not [e.tag for e in found.elements for name in e.attributes if name == "style" or name.startswith("on")]


HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' autofocus onfocus='alert(1)",
    "</title></style><svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "<!--",
    "]]>\u202e\u2028\0\x1b[31m",
    "&lt;b&gt; &amp;",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_or_value_is_shown_and_does_nothing(text: str) -> None:
    values = {text: text}
    hostile = replace(
        ORDERS, node=f"source.acme.shop.{text}", origin=f"pg: {text}", destination=f"duckdb: {text}", at=text,
        method=text, why=text, load_id=text, key=(text,), columns={text: 1},
        examples=(Difference("different", values, (text,), values, {text: f"{text}!"}),),
        aggregates=(Aggregate(text, text, text, f"{text}!", same=False, tolerance=text),),
    )  # fmt: skip
    found = page(hostile, replace(hostile, status="failed", error=text), title=text, about={text: text})
    tame = page(
        replace(hostile, examples=ORDERS.examples[1:], key=("id",)),
        replace(hostile, status="failed", error="x"),
    )
    assert {e.tag for e in found.elements} == {e.tag for e in tame.elements}
    assert {name for e in found.elements for name in e.attributes} <= {n for e in tame.elements for n in e.attributes}
    assert len(found.all("script")) == len(found.all("style")) == len(found.all("title")) - len(found.all("rect")) == 1
    assert [e.text for e in found.all("script")] == [e.text for e in page(EQUAL).all("script")]
    if text.isprintable():
        assert found.all("h1")[0].text == text
        assert all(e.text.startswith(text) for e in found.all("h3"))
    assert [char for char in found.source if not char.isprintable() and char != "\n"] == []


def test_headings_and_tables_can_be_found_by_those_who_do_not_see_them() -> None:
    found = page(EQUAL, ORDERS, FAILED, SUMS)
    assert found.all("html")[0].attributes == {"lang": "en"}
    levels = [int(e.tag[1]) for e in found.elements if re.fullmatch(r"h\d", e.tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(found.all("caption")) == len(found.all("table"))
    assert {e.attributes.get("scope") for e in found.all("th")} == {"row", "col"}
    assert all("label" in e.inside for e in [*found.all("input"), *found.all("select")])
    assert all(e.attributes["aria-label"] for e in found.all("svg"))
    ids = [e.attributes["id"] for e in found.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert {e.attributes["href"][1:] for e in found.all("a")} <= set(ids)


def test_the_sql_finds_just_the_rows_that_were_told() -> None:
    keys = [("1", "it's"), ("1", None), ("2", '"; DROP TABLE x; --')]
    examples = tuple(Difference("only_in_origin", {"id": a, 'na"me': b}) for a, b in keys)
    told = replace(ORDERS, key=("id", 'na"me'), examples=examples, destination="duckdb: main.orders")
    with duckdb.connect() as connection:
        connection.execute('CREATE TABLE orders (id int, "na""me" text, x int)')
        connection.executemany("INSERT INTO orders VALUES (?, ?, 1)", [*keys, ("2", "it's"), ("2", None)])
        origin, destination = write_lookups(told)
        found = connection.execute(destination.sql).fetchall()
        connection.execute("CREATE OR REPLACE TABLE orders AS SELECT id FROM orders")
        (lookup,) = write_lookups(replace(told, key=("id",), origin="shop_pg: (a query)"))
        assert len(connection.execute(lookup.sql).fetchall()) == 5
    assert (origin.side, destination.side) == ("origin", "destination")
    assert sorted(found, key=str) == sorted([(int(a), b, 1) for a, b in keys], key=str)


def test_there_is_no_sql_that_could_mean_other_rows() -> None:
    def told(**given: Any) -> list[Lookup]:
        return write_lookups(replace(ORDERS, **given))

    assert len(told()) == 2
    assert told(key=()) == []
    assert told(words=("legacy", "new")) == []
    assert told(examples=(Difference("different", {"id": "a\\b"}), Difference("different", {"id": "a\nb"}))) == []
    assert [lookup.side for lookup in told(origin="pg: a.b.c", destination="duckdb: x.y")] == ["destination"]
