"""Which columns of two systems belong together."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import duckdb
import pytest

from dbt_bridge.connectors.duckdb.queries import DuckDBQueries
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.reconciliation import DeclaredTolerance, Pairing, Reconciliation
from dbt_bridge.prove.pair_columns import (
    NamedColumns,
    Paired,
    Value,
    pair_declared,
)


def pair(legacy: str, new: str, legacy_key: str = "", **declared: Any) -> Paired:
    """Columns of both sides, separated by blanks."""
    database = DuckDBQueries("old", duckdb.connect(), "memory")
    model = Reconciliation("model.shop.orders", "orders", "orders", "main.orders", query="q", **declared)
    sides = NamedColumns("legacy", legacy.split(), database), NamedColumns("new", new.split(), database)
    return pair_declared(model, *sides, tuple(legacy_key.split()))


def test_names_meet_whatever_their_case_and_the_new_ones_are_told() -> None:
    found = pair("ID Amount gone", "id AMOUNT fresh")

    assert found.legacy == {"id": Value('"ID"', "ID"), "AMOUNT": Value('"Amount"', "Amount")}
    assert found.new == {"id": Value('"id"', "id"), "AMOUNT": Value('"AMOUNT"', "AMOUNT")}
    assert (found.only_legacy, found.only_new, found.key) == (("gone",), ("fresh",), ())


def test_two_names_of_one_spelling_are_no_guess() -> None:
    found = pair("a A b", "a A B")
    assert {name: value.column for name, value in found.legacy.items()} == {"a": "a", "A": "A", "B": "b"}
    with pytest.raises(UsageError, match="no column has the same name"):
        pair("a A", "Ä á")


def test_a_mapping_is_a_column_or_an_expression() -> None:
    found = pair(
        "total st", "amount status flag", columns={
            "amount": Pairing("TOTAL"), "status": Pairing("upper(st) -- loud"), "flag": Pairing("st", "flag = 1"),
        },
    )  # fmt: skip
    assert found.legacy["amount"] == Value('"total"', "total")
    assert found.legacy["status"] == Value("(\nupper(st) -- loud\n)")
    assert found.new["flag"] == Value("(\nflag = 1\n)")
    assert found.only_legacy == ()


def test_a_value_of_no_column_can_be_compared() -> None:
    found = pair("a b gone", "a c fresh", columns={"both": Pairing("a || B", "a || c")}, new_filter="Fresh > 1")
    assert list(found.new) == ["a", "both"]
    assert (found.only_legacy, found.only_new) == (("gone",), ())  # the others are in an expression, or in a filter


@pytest.mark.parametrize(
    ("declared", "legacy_key", "key"),
    [
        ({"key": {"ID": "old_id"}, "default_key": ("x",)}, "x", ("id",)),
        ({"default_key": ("X",)}, "y", ("x",)),
        ({"default_key": ("nothing",)}, "Y", ("y",)),
        ({"default_key": ("id",)}, "Y", ("y",)),  # the legacy side has no `id`
        ({"default_key": ("x", "id")}, "old_id", ()),
        ({"columns": {"id": Pairing("old_id")}}, "old_id", ("id",)),
        ({"columns": {"id": Pairing("'A' || old_id")}, "key": {"id": "id"}}, "", ("id",)),
        ({"exclude": ("Y",)}, "Y", ()),
        ({}, "", ()),
    ],
)
def test_the_key_is_the_declared_one_the_models_or_the_legacy_ones(
    declared: dict[str, Any], legacy_key: str, key: tuple[str, ...]
) -> None:
    found = pair("old_id x Y", "id x y", legacy_key, **declared)
    assert found.key == key
    assert set(key) <= set(found.legacy)


def test_only_some_columns_and_not_others() -> None:
    assert list(pair("a b c", "a b c", only=("C", "a")).new) == ["a", "c"]
    left = pair("a b c", "a b d", exclude=("B", "c"))
    assert (list(left.new), left.only_legacy, left.only_new) == (["a"], (), ("d",))


@pytest.mark.parametrize(
    ("declared", "what", "mend"),
    [
        ({"key": {"order_i": "order_id"}}, "the new side has no column 'order_i'", "did you mean 'order_id'"),
        ({"key": {"order_id": "ordr_id"}}, "the legacy side has no column 'ordr_id'", "did you mean 'order_id'"),
        ({"columns": {"amont": Pairing("total")}}, "the new side has no column 'amont'", "did you mean 'amount'"),
        ({"columns": {"amount": Pairing("totl")}}, "the legacy side has no column 'totl'", "did you mean 'total'"),
        ({"columns": {"amount": Pairing("", "x + 1")}}, "the legacy side has no column 'amount'", "it has"),
        ({"only": ("amount",)}, "the legacy side has no column 'amount'", "it has"),
        ({"only": ("amoun",)}, "the new side has no column 'amoun'", "did you mean 'amount'"),
        ({"exclude": ("order_ids",)}, "`exclude` names 'order_ids'", "did you mean 'order_id'"),
        (
            {"tolerances": {"total": DeclaredTolerance(Decimal(1), False, "1")}},
            "`tolerances` names 'total'",
            "one of order_id",
        ),
        (
            {"tolerances": {"order_i": DeclaredTolerance(Decimal(1), False, "1")}},
            "is not compared",
            "did you mean 'order_id'",
        ),
    ],
)
def test_a_name_that_is_nowhere_is_refused(declared: dict[str, Any], what: str, mend: str) -> None:
    with pytest.raises(UsageError) as refused:
        pair("order_id total", "order_id amount", **declared)
    assert what in refused.value.what
    assert mend in refused.value.mend
