"""What a `bridge` block may say, and how a wrong one is answered."""

from __future__ import annotations

from typing import Any

import pytest

from dbt_bridge.declared import ExposureBridge, SourceBridge, checked, checked_exposure, checked_table
from dbt_bridge.errors import UsageError

WHERE = "source shop (models/sources.yml)"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("10 minutes", 600), ("1 hour 30 minutes", 5400), ("2 days", 172800), ("1 WEEK", 604800), (5, 5), ("0.5", 0.5)],
)
def test_a_lag_is_seconds_or_a_span(written: object, seconds: float) -> None:
    assert checked_table({"cursor": "id", "lag": written}, WHERE, {}).lag == seconds


@pytest.mark.parametrize("written", ["soon", "10 minuts", "-1 hour", -5, float("inf"), float("nan")])
def test_a_lag_that_is_no_span_is_refused(written: object) -> None:
    with pytest.raises(UsageError, match="lag"):
        checked_table({"lag": written}, WHERE, {})


def test_a_tables_block_goes_over_its_sources_key_by_key() -> None:
    source = {"origin": "shop_pg", "replication": "incremental", "cursor": "updated_at", "primary_key": "id"}
    table = checked_table({"cursor": "changed_at"}, WHERE, source)
    assert (table.replication, table.cursor, table.primary_key) == ("incremental", "changed_at", ("id",))


def test_one_name_is_a_list_of_one() -> None:
    block = checked(SourceBridge, {"origin": "shop_pg", "exclude": "tmp_*", "primary_key": ["a", "b"]}, WHERE)
    assert (block.exclude, block.primary_key) == (("tmp_*",), ("a", "b"))


@pytest.mark.parametrize(
    ("raw", "what", "mend"),
    [
        ({"orign": "shop_pg"}, "no key 'orign'", "did you mean 'origin'?"),
        ({"origin": "shop_pg", "schemas": "x"}, "no key 'schemas'", "did you mean 'schema'?"),
        ({"origin": "shop_pg", "zzz": 1}, "no key 'zzz'", "valid are replication, cursor"),
        ({"replication": "initial_copy"}, "lacks origin", "add `origin: ...`"),
        ({"origin": ""}, "origin", "correct `origin`"),
        ({"origin": "shop_pg", "replication": "full"}, "replication: 'full'", "correct `replication`"),
        ({"origin": "shop_pg", "replication": "cdc"}, "change data capture", "replication: incremental"),
        ({"origin": "shop_pg", "tables": "orders"}, "every table of the schema", "correct `tables`"),
        ({"origin": "shop_pg", "write_disposition": "replace"}, "write_disposition", "correct `write_disposition`"),
        ({"origin": "shop_pg", "types": {"a": 1}}, "types.a", "correct `types.a`"),
        ("shop_pg", "not a mapping", "bridge: {origin"),
        (None, "not a mapping", "bridge: {origin"),
    ],
)
def test_a_wrong_source_block_is_named_with_what_mends_it(raw: Any, what: str, mend: str) -> None:
    with pytest.raises(UsageError) as refused:
        checked(SourceBridge, raw, WHERE)
    assert refused.value.what.startswith(WHERE)
    assert what in refused.value.what
    assert mend in refused.value.mend


def test_incremental_needs_a_cursor() -> None:
    with pytest.raises(UsageError, match="needs a cursor") as refused:
        checked_table({"replication": "incremental"}, WHERE, {"origin": "shop_pg"})
    assert "cursor: <column>" in refused.value.mend


def test_an_origin_belongs_to_the_source_not_to_a_table() -> None:
    with pytest.raises(UsageError, match="no key 'origin'"):
        checked_table({"origin": "other"}, WHERE, {"origin": "shop_pg"})


def test_a_delivery_says_how_it_writes() -> None:
    with pytest.raises(UsageError, match="lacks write_disposition"):
        checked(ExposureBridge, {"destination": "crm"}, "exposure crm")


def test_a_merge_delivery_needs_a_key() -> None:
    with pytest.raises(UsageError, match="needs a key"):
        checked_exposure({"destination": "crm", "write_disposition": "merge"}, "exposure crm")
