"""What was found is told in a terminal: in full, without a cut number, and whatever the values are."""

from __future__ import annotations

import io
import json
import math
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbt_bridge.nouns.both import Both
from dbt_bridge.nouns.parity import (
    DELIVERED,
    Aggregate,
    Difference,
    Parity,
)
from dbt_bridge.nouns.selector import format_shell_selector
from dbt_bridge.verify.report.display import format_both, format_value
from dbt_bridge.verify.report.terminal import ReportOptions, print_parities
from dbt_bridge.verify.report.verdict import (
    format_finding,
    format_verdict,
    list_caveats,
    suggest_command,
)

BEGAN = datetime(2026, 11, 21, 15, 30, tzinfo=UTC)
ROWS = dict.fromkeys(("only_in_origin", "only_in_destination", "different", "duplicates"), 0)
NOT_COUNTED = dict.fromkeys(("rows_origin", "rows_destination", *ROWS))


def parity(table: str, **given: Any) -> Parity:
    known: dict[str, Any] = {
        "load_id": "20261121T153000000000-a1b2c3", "node": f"source.acme.shop.{table}", "status": "equal",
        "origin": f"shop_pg: shop.{table}", "destination": f"duckdb: landing.{table}", "level": "rows",
        "at": "LSN 0/16B3748", "started_at": BEGAN, "finished_at": BEGAN + timedelta(seconds=4.5),
        "duration_seconds": 4.5, "method": "digests", "rows_origin": 1000, "rows_destination": 1000, "key": ("id",),
        **ROWS,
    }  # fmt: skip
    return Parity(**{**known, **given})


ORDERS = parity(
    "orders", status="different", rows_origin=5_000_000, rows_destination=5_000_000, only_in_origin=5,
    only_in_destination=5, different=10, columns={"status": 4, "amount": 6}, examples=(
        Difference("only_in_origin", {"id": "17"}, (), {"status": "new"}, {}),
        Difference("different", {"id": "18"}, ("amount",), {"amount": "10.00"}, {"amount": None}),
    ),
)  # fmt: skip
ITEMS = parity("items", status="failed", error="permission denied\n  -> GRANT SELECT ON items TO dbt", **NOT_COUNTED)
SUMS = parity(
    "payments", status="different", level="aggregates", method="", at="now", **dict.fromkeys(ROWS),
    aggregates=(
        Aggregate("amount", "sum", "1000", "1001", same=False, variance=0.001, tolerance="0.01%"),
        Aggregate("fee", "sum", "100000", "100001", same=True, variance=0.00001, tolerance="0.01%"),
        Aggregate("amount", "max", "9", "9", same=True, variance=0.0),
    ),
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(*parities: Parity, **given: Any) -> str:
    out = io.StringIO()
    print_parities(parities, out, **given)
    return out.getvalue()


@pytest.mark.parametrize(
    ("parities", "expected"),
    [
        ([parity("a")], "landing.a holds the same rows as the origin, at LSN 0/16B3748."),
        ([parity("a"), parity("b")], "Both tables hold the same rows as the origin, at LSN 0/16B3748."),
        ([parity("a"), parity("b"), ORDERS],
         "2 of 3 tables hold the same rows as the origin, at LSN 0/16B3748; 20 rows of landing.orders differ."),
        ([replace(ORDERS, only_in_origin=0, only_in_destination=0, different=1, words=("legacy", "new"), at="now")],
         "landing.orders does not hold the same rows as the legacy system, as of 2026-11-21 15:30:00 UTC; "
         "1 row of landing.orders differs."),
        ([parity("a"), ITEMS],
         "1 of 2 tables holds the same rows as the origin, at LSN 0/16B3748; landing.items could not be compared."),
        ([ITEMS], "landing.items could not be compared."),
        ([parity("a", status="different", level="counts", at="now", rows_destination=9)],
         "landing.a does not hold as many rows as the origin, as of 2026-11-21 15:30:00 UTC; "
         "the number of rows of landing.a differs."),
        ([parity("a", status="different", aggregates=SUMS.aggregates)],
         "landing.a does not hold the same rows as the origin, at LSN 0/16B3748; 1 aggregate of landing.a differs."),
        ([replace(ORDERS, aggregates=SUMS.aggregates), parity("b")],
         "1 of 2 tables holds the same rows as the origin, at LSN 0/16B3748; "
         "20 rows and 1 aggregate of landing.orders differ."),
        ([parity(t, level="counts", at="updated_at <= 7", is_bounded=True) for t in "abc"],
         "All 3 tables hold as many rows as the origin, where updated_at <= 7."),
        ([parity("a", at="now"), parity("b", at="now", started_at=BEGAN + timedelta(seconds=2))],
         "Both tables hold the same rows as the origin, "
         "between 2026-11-21 15:30:00 and 2026-11-21 15:30:04 UTC."),
        ([], "Nothing was compared."),
    ],
)  # fmt: skip
def test_the_verdict_is_one_sentence(parities: list[Parity], expected: str) -> None:
    assert format_verdict(parities) == expected


def test_rows_and_aggregates_that_differ_are_both_told() -> None:
    assert format_finding(replace(ORDERS, aggregates=SUMS.aggregates)) == (
        "20 rows differ: 5 only in origin, 5 only in destination, 10 different; 1 of 3 aggregates differs"
    )
    assert format_finding(parity("a", status="different", aggregates=SUMS.aggregates)) == "1 of 3 aggregates differs"
    assert format_finding(parity("a", status="different", level="counts", rows_destination=9)) == (
        "1,000 rows in origin, 9 in destination"
    )


def test_what_was_left_out_is_said_with_the_verdict() -> None:
    told = list_caveats([parity("a", in_flight=1), parity("b", allowed=1200), SUMS])
    assert [text.split(":")[0] for text in told] == [
        "1 row in flight was left out",
        "1,200 rows were only in the destination, which the write disposition allows",
        "Values were not compared row by row where the level is aggregates.",
    ]
    assert list_caveats([parity("a")]) == []
    assert list_caveats([parity("a", why="as asked; not compared: only legacy has x, y")]) == [
        "Not compared in landing.a: only legacy has x, y."
    ]


def test_keys_that_are_no_keys_of_a_migration_have_a_next_step() -> None:
    doubled = {"status": "different", "duplicates": 8, "words": ("legacy", "new")}
    assert list_caveats([parity("orders", node="model.acme.orders", **doubled)]) == [
        "8 keys stand for several rows of landing.orders or of what it replaces, whose values were not compared:"
        " declare another `key:`, of all columns that make a row one."
    ]
    assert list_caveats([parity("orders", **doubled)]) == [], "a landing table is repaired"


def test_what_differs_is_told_with_both_values_and_the_next_command() -> None:
    text = printed(parity("customers"), ORDERS)
    assert "landing.orders: 20 rows differ: 5 only in origin, 5 only in destination, 10 different" in text
    assert "totals: match 4,999,985, only in origin 5, only in destination 5, different 10" in text
    assert "different by column: amount 6, status 4" in text
    assert [cell.strip() for cell in _line(text, "10.00").split("│")[1:-1]] == [
        "different", "id = 18", "amount", "10.00", "NULL",
    ]  # fmt: skip
    assert [cell.strip() for cell in _line(text, "id = 17").split("│")[1:-1]] == [
        "only in origin", "id = 17", "", "1 row: status = new", "no row",
    ]  # fmt: skip
    assert "and 18 more" in text
    assert "  -> dbt-bridge repair --select source:shop.orders --dry-run\n" in text


def test_a_comparison_that_could_not_run_says_why_and_what_to_do() -> None:
    text = printed(ITEMS)
    assert "permission denied\n  -> GRANT SELECT ON items TO dbt" in text
    assert "1 failed" in text
    assert "equal" not in text


def test_one_reason_why_several_tables_could_not_be_compared_is_told_once() -> None:
    refused = [replace(ITEMS, destination=f"duckdb: landing.t{number}") for number in range(5)]
    other = parity("late", status="failed", error="landing.late has not landed\n  -> dbt-bridge sync", **NOT_COUNTED)
    text = printed(*refused, parity("orders"), other)
    assert text.count("permission denied") == text.count("GRANT SELECT") == 1
    assert "landing.t0, landing.t1, landing.t2 and 2 more: could not be compared" in text
    assert "landing.late: could not be compared" in text


def test_a_table_that_failed_leaves_the_others_their_title_and_their_counts() -> None:
    text = printed(parity("a"), replace(ITEMS, method=""), parity("b"))
    assert text.startswith("rows by digests, LSN 0/16B3748")
    assert "rows in" in text
    assert "compared ┃" not in text


def test_why_rows_were_compared_that_way_is_no_news_of_the_terminal() -> None:
    text = printed(parity("a", why="the wire carries 80 MB/s; not compared: only legacy has x"))
    assert "80 MB/s" not in text
    assert text.count("only legacy has x") == 1


def test_tables_and_what_models_replace_are_told_apart_in_their_own_words() -> None:
    model = parity(
        "fct", node="model.acme.fct", destination="duckdb: main.fct", origin="old: fct", words=("legacy", "new")
    )
    text = printed(parity("a"), model, parity("b"))
    tables, models = text.split("Both tables hold the same rows as the origin, at LSN 0/16B3748.")
    assert "legacy" not in tables
    assert "landing.b" in tables
    assert models.strip().endswith("main.fct holds the same rows as the legacy system, at LSN 0/16B3748.")
    assert "destination" not in models


def test_what_was_delivered_is_compared_with_its_model_and_told_apart_from_what_landed() -> None:
    crm = parity(
        "x", node="exposure.acme.crm", destination="pg: crm.x", origin="duckdb: main.x", words=DELIVERED, at="now"
    )
    text = printed(parity("a"), crm, parity("b"))
    assert "Both tables hold the same rows as the origin, at LSN 0/16B3748." in text
    assert "crm.x holds the same rows as its model, as of 2026-11-21 15:30:00 UTC." in text
    assert "Both delivered tables hold the same rows as their models" in printed(crm, replace(crm, destination="pg: y"))


def test_two_comparisons_of_one_table_are_told_apart_by_their_origins() -> None:
    old = {"node": "model.acme.fct", "destination": "duckdb: main.fct", "words": ("legacy", "new")}
    one, other = (
        parity("x", origin="my: x", **old),
        parity("x", origin="pg: x", **{**old, **NOT_COUNTED}, status="failed"),
    )
    assert "main.fct (legacy pg: x): could not be compared" in printed(one, other)
    assert "main.fct (legacy my: x)" in printed(one, other)
    assert "(legacy" not in printed(one)
    query = parity("x", origin="pg: select count(*) as number from a.table join another.table", **old, status="failed")
    assert "main.fct (legacy pg: select count(*) as number from a.table jo...): could not" in printed(one, query)


def test_rows_that_only_differ_are_not_counted_twice() -> None:
    only = replace(ORDERS, only_in_origin=0, only_in_destination=0, different=16)
    assert format_finding(only) == "16 rows differ"
    assert format_finding(replace(only, duplicates=1)) == "17 rows differ: 16 different, 1 duplicate"


def test_columns_are_no_matter_where_rows_are_counted_only() -> None:
    counted = parity("a", level="counts", why="not compared: only legacy has x")
    assert list_caveats([counted]) == ["Values were not compared row by row where the level is counts."]


def test_a_narrow_terminal_tells_states_below_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = Terminal()
    print_parities(
        [parity("customers"), parity("orders", at="updated_at <= 2026-11-21 16:42:41.595715+00", is_bounded=True)], out
    )
    lines = out.getvalue().splitlines()
    assert "updated_at <= 2026-11-21 16:42:41.595715+00: landing.orders" in lines
    assert any("landing.customers │ equal: 1,000 rows" in line for line in lines)


def test_names_stay_whole_where_states_can_be_told_below() -> None:
    long = [parity(f"a_name_that_is_rather_long_{number}", at="now") for number in range(3)]
    text = printed(*long, parity("cursor", at="updated_at <= 2026-11-21 15:30:00", is_bounded=True, in_flight=3))
    assert all(f"│ landing.a_name_that_is_rather_long_{number} │" in text for number in range(3))
    assert "rows in" in text
    assert "updated_at <= 2026-11-21 15:30:00: landing.cursor\nnow: the others\n" in text


def test_a_number_that_engines_write_otherwise_is_no_news() -> None:
    zeros = Aggregate("", "revenue", "720126.60", "720126.6", same=True, variance=0.0, tolerance="0.01%")
    assert "720126" not in printed(parity("a", aggregates=(zeros,)))


def test_examples_in_the_terminal_are_of_every_kind_too() -> None:
    changed = [Difference("different", {"id": str(i)}, ("a",), {"a": "1"}, {"a": "2"}) for i in range(100, 190)]
    lost = [Difference("only_in_origin", {"id": str(i)}, (), {"a": "1"}) for i in range(200, 203)]
    text = printed(replace(ORDERS, examples=(*changed, *lost)))
    assert [i for i in range(100, 300) if f"id = {i} " in text] == [*range(100, 107), 200, 201, 202]


def test_a_command_names_only_options_that_it_has() -> None:
    assert "and 18 more\n" in printed(ORDERS)
    told = printed(ORDERS, shown=ReportOptions(more="--show N", commands=False))
    assert "and 18 more: --show N\n" in told
    assert "dbt-bridge repair" not in told


def test_metrics_are_readable_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    last = Aggregate("", "revenue.last", "2026-01-02 03:04:05.5", "2026-01-02 03:04:06", same=False)
    out = Terminal()
    model = {**NOT_COUNTED, "level": "aggregates", "node": "model.acme.fct", "words": ("legacy", "new")}
    print_parities([parity("fct", status="different", aggregates=(last,), **model)], out)
    cells = [cell.strip() for cell in _line(out.getvalue(), "revenue.last").split("│")[1:-2]]
    assert cells == ["revenue.last", "2026-01-02 03:04:05.5", "2026-01-02 03:04:06"]
    assert "  -> " not in out.getvalue(), "metrics have no rows to look at"


def test_where_all_is_told_of_a_model_no_command_tells_more() -> None:
    model = replace(ORDERS, node="model.acme.fct", words=("legacy", "new"))
    assert suggest_command(model) == "dbt-bridge reconcile --select fct --show 1000 --report reconcile.html"
    assert suggest_command(replace(model, only_in_origin=1, only_in_destination=0, different=1)) == ""


def test_aggregates_are_told_with_their_variance_also_within_the_tolerance() -> None:
    text = printed(SUMS)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if " sum " in line]
    assert cells == [
        ["amount", "sum", "1000", "1001", "+0.1 %", "0.01%", "different"],
        ["fee", "sum", "100000", "100001", "+0.001 %", "0.01%", "within"],
    ]
    assert " max " not in text
    assert "+0.001 %" in printed(replace(SUMS, status="equal", aggregates=SUMS.aggregates[1:]))


def test_two_systems_have_their_own_words() -> None:
    text = printed(replace(ORDERS, words=("legacy", "new"), node="model.acme.dim_orders", examples=()))
    assert "totals: match 4,999,985, only in legacy 5, only in new 5, different 10" in text
    assert "dbt-bridge reconcile --select dim_orders" in text
    assert "destination" not in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 250])
@pytest.mark.parametrize("method", ["digests", "buckets"])
def test_no_number_is_cut_however_narrow_the_terminal(width: int, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = Terminal()
    many = replace(ORDERS, rows_origin=123_456_789_012, rows_destination=123_456_789_012, different=1_234_567_890)
    print_parities([parity("customers", in_flight=3), replace(many, method=method), ITEMS], out)
    overview, _, told = out.getvalue().partition("landing.orders: ")
    assert "…" not in overview
    assert told.startswith("1,234,567,900 rows differ")
    if width >= 160:
        assert "123,456,789,012" in overview


def test_rows_without_a_key_are_told_whole_and_counted() -> None:
    keyless = replace(
        ORDERS, key=(), only_in_origin=2, only_in_destination=0, different=0,
        examples=(Difference("only_in_origin", {}, (), {"a": "1", "b": ""}, {}, (3, 1)),),
    )  # fmt: skip
    assert [cell.strip() for cell in _line(printed(keyless), "3 rows").split("│")[1:-1]] == [
        "only in origin", "", "", '3 rows: a = 1, b = ""', "1 row",
    ]  # fmt: skip


def test_a_masked_column_is_named_and_its_values_are_not() -> None:
    masked = Difference("different", {"id": "1"}, ("email", "name"), {"name": "x"}, {"name": "(masked)"})
    text = printed(replace(ORDERS, examples=(masked,)))
    assert [cell.strip() for cell in _line(text, "email").split("│")[3:-1]] == ["email", "(masked)", "(masked)"]
    assert [cell.strip() for cell in _line(text, " name ").split("│")[3:-1]] == ["name", "x", '"(masked)"']


HOSTILE = "[bold red]x[/] \x1b[2J\x1b]0;owned\x07 \u202etxt.exe\u2066 \r\n<script>alert(1)</script>\0"


def test_nothing_that_a_database_holds_steers_the_terminal() -> None:
    names = {"origin": f"pg: {HOSTILE}", "destination": f"duckdb: {HOSTILE}", "node": f"source.acme.shop.{HOSTILE}"}
    values = {HOSTILE: HOSTILE}
    told = Difference("different", values, (HOSTILE,), values, {HOSTILE: f"{HOSTILE}!"})
    apart = Aggregate(HOSTILE, HOSTILE, HOSTILE, "1", same=False, tolerance=HOSTILE)
    out = io.StringIO()
    print_parities(
        [
            replace(ORDERS, **names, at=HOSTILE, method=HOSTILE, columns={HOSTILE: 1}, examples=(told,)),
            replace(SUMS, **names, aggregates=(apart,)),
            replace(ITEMS, **names, error=HOSTILE),
        ],
        out,
    )
    text = out.getvalue()
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    assert "[bold red]x[/]" in text


def test_the_next_command_survives_a_shell() -> None:
    command = suggest_command(replace(ORDERS, node="source.acme.shop.a b'; rm -rf $(x)"))
    *_, chosen, last = shlex.split(command)
    assert (chosen, last) == ("source:shop.a_b';_rm_-rf_$(x)".replace("_", "[!a-zA-Z0-9_]"), "--dry-run")


@pytest.mark.parametrize("table", ["Weird Table", "a,b", "a.b", "x+", "+x", "@x", "100%", "[x]", "what?", "*"])
def test_the_selector_of_any_name_is_one_that_dbt_takes_for_it(table: str) -> None:
    (spoken,) = shlex.split(format_shell_selector(f"source.acme.shop.{table}"))
    method, _, value = spoken.partition(":")
    source, name = value.split(".")
    assert (method, source) == ("source", "shop")
    assert fnmatchcase(table, name)
    assert not set(name) & set(" ,+@*?")


@pytest.mark.parametrize("table", ["order items", "order+items", "order.items", "order*items"])
def test_the_selector_of_a_name_takes_no_other_word_for_it(table: str) -> None:
    (spoken,) = shlex.split(format_shell_selector(f"source.acme.shop.{table}"))
    assert not any(fnmatchcase(f"shop.order{letter}items", spoken.partition(":")[2]) for letter in "_x1")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "NULL"), ("NULL", '"NULL"'), ("", '""'), (" a", '" a"'), ("a b", "a b"), ("12.50", "12.50"),
        ("C:\\new", "C:\\new"), ('"x"', '"\\"x\\""'), ("a\nb\\", '"a\\nb\\\\"'), ("\u00a0", '"\\xa0"'),
        ("Zürich", "Zürich"), ("a\u200bb", '"a\\u200bb"'), ("x" * 30, '"xxxxxxxxxxxxxxxxxxxx"… (30 characters)'),
    ],
)  # fmt: skip
def test_a_value_is_spelled_so_that_it_is_taken_for_no_other(value: str | None, expected: str) -> None:
    assert format_value(value, 20) == expected


def test_of_two_long_values_the_place_is_shown_where_they_part() -> None:
    origin, destination = format_both(Both("a" * 5000 + "X" + "b" * 5000, "a" * 5000 + "Y" + "b" * 5000), 20)
    assert origin == '…"aaaaaXbbbbbbbbbbbbbb"… (10,001 characters)'
    assert destination == '…"aaaaaYbbbbbbbbbbbbbb"… (10,001 characters)'


def test_two_values_that_look_alike_are_told_apart() -> None:
    assert tuple(format_both(Both("caf\u00e9", "cafe\u0301"), 20)) == ('"caf\\xe9"', '"cafe\\u0301"')


TEXTS = st.one_of(st.none(), st.text(st.sampled_from('aA "\\…\n\t\0é\u0301\u200b\u202e1(N'), max_size=30), st.text())


@given(TEXTS, TEXTS, st.integers(4, 40))
def test_values_that_differ_are_never_spelled_the_same(one: str | None, other: str | None, width: int) -> None:
    told = format_both(Both(one, other), width)
    assert (told.origin == told.destination) == (one == other)
    assert all(text.isprintable() for text in told)


def test_json_has_every_count_and_no_number_that_json_lacks() -> None:
    endless = Aggregate("x", "sum", "1", "Infinity", same=False, variance=math.inf)
    document = json.loads(json.dumps(replace(ORDERS, aggregates=(endless,)).as_json(), allow_nan=False))
    assert (document["differences"], document["matching"], document["at"]) == (20, 4_999_985, "LSN 0/16B3748")
    assert document["started_at"] == "2026-11-21T15:30:00+00:00"
    assert document["aggregates"][0]["variance"] is None
    assert document["examples"][1]["destination"] == {"amount": None}
    assert "keys" not in document


def _line(text: str, part: str) -> str:
    (found,) = [line for line in text.splitlines() if part in line and "│" in line]
    return found
