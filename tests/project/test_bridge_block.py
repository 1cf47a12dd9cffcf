"""What a `bridge` block may say, and how a wrong one is answered."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.bridge_keys import DeliveryKeys, Names, SourceBlock, SourceKeys, TableKeys
from dbt_bridge.nouns.project import Delivery, LandingSource, LandingTable
from dbt_bridge.project.bridge_block import (
    Block,
    read_block,
    read_delivery_block,
    read_table_block,
    refuse_unused,
    select_keys,
)

WHERE = "source shop (models/sources.yml)"


def read_source(raw: Any) -> Block[SourceBlock]:
    return read_block(SourceBlock, raw, WHERE)


def read_table(raw: Any, source: dict[str, Any] | None = None) -> TableKeys:
    return read_table_block(raw, WHERE, read_source({"origin": "shop_pg", **(source or {})}))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("10 minutes", 600), ("1 hour 30 minutes", 5400), ("2 days", 172800), ("1 WEEK", 604800), (5, 5), ("0.5", 0.5)],
)
def test_a_lag_is_seconds_or_a_span(written: object, seconds: float) -> None:
    assert read_table({"cursor": "id", "lag": written}).lag == seconds


@pytest.mark.parametrize("written", ["soon", "10 minuts", "-1 hour", -5, float("inf"), float("nan")])
def test_a_lag_that_is_no_span_is_refused(written: object) -> None:
    with pytest.raises(UsageError, match="lag"):
        read_table({"lag": written})


def test_a_tables_block_goes_over_its_sources_key_by_key() -> None:
    source = {"origin": "shop_pg", "replication": "incremental", "cursor": "updated_at", "primary_key": "id"}
    table = read_table({"cursor": "changed_at"}, source)
    assert (table.replication, table.cursor, table.primary_key) == ("incremental", "changed_at", ("id",))


def test_one_name_is_a_list_of_one() -> None:
    block = read_source({"origin": "shop_pg", "exclude": "tmp_*", "primary_key": ["a", "b"]}).keys
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
        ({"origin": "shop_pg", "slot": "Shop"}, "lower-case letters, digits and underscores", "correct `slot`"),
        ({"origin": "shop_pg", "slot": "a" * 56}, "at most 55 characters", "correct `slot`"),
        ({"origin": "shop_pg", "max_wal": "10 apples"}, 'a text like "500MB"', "correct `max_wal`"),
        ({"origin": "shop_pg", "max_wal": 0}, "greater than 0", "correct `max_wal`"),
        ({"origin": "shop_pg", "columns": {"only": ["a"]}}, "columns.only", "valid are include, exclude"),
        ({"origin": "shop_pg", "mask": {"email": "md5"}}, "mask.email", "correct `mask.email`"),
        ({"origin": "shop_pg", "deletes": "keep"}, "deletes: 'keep'", "correct `deletes`"),
        ({"origin": "shop_pg", "tables": "orders"}, "every table of the schema", "correct `tables`"),
        ({"origin": "shop_pg", "write_disposition": "replace"}, "write_disposition", "correct `write_disposition`"),
        ({"origin": "shop_pg", "types": {"a": 1}}, "types.a", "correct `types.a`"),
        ("shop_pg", "not a mapping", "bridge: {origin"),
        (None, "not a mapping", "bridge: {origin"),
        ({"origin": "x", "primary_key": ["id", "id"]}, "names 'id' twice", "correct `primary_key`"),
        ({"origin": "x", "primary_key": ""}, "at least 1 character", "correct `primary_key"),
        ({"origin": "x", "max_wal": True}, "is a number of bytes", "correct `max_wal`"),
        ({"origin": "x", "columns": {"exlude": "a"}}, "no key `columns.exlude`", "did you mean 'exclude'?"),
    ],
)
def test_a_wrong_source_block_is_named_with_what_mends_it(raw: Any, what: str, mend: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_source(raw)
    assert refused.value.what.startswith(WHERE)
    assert what in refused.value.what
    assert mend in refused.value.mend


def test_incremental_needs_a_cursor() -> None:
    with pytest.raises(UsageError, match="needs a cursor") as refused:
        read_table({"replication": "incremental"})
    assert "cursor: <column>" in refused.value.mend


def test_an_origin_belongs_to_the_source_not_to_a_table() -> None:
    with pytest.raises(UsageError, match="no key 'origin'"):
        read_table({"origin": "other"})


def test_a_delivery_says_how_it_writes() -> None:
    with pytest.raises(UsageError, match="lacks write_disposition"):
        read_block(DeliveryKeys, {"destination": "crm"}, "exposure crm")


def test_a_merge_delivery_needs_a_key() -> None:
    with pytest.raises(UsageError, match="needs a key"):
        read_delivery_block({"destination": "crm", "write_disposition": "merge"}, "exposure crm")


@pytest.mark.parametrize(
    ("written", "size"), [(1000, 1000), ("1000", 1000), ("10GB", 10 << 30), ("1.5 mb", 3 << 19), ("8kB", 8192)]
)
def test_a_bound_is_bytes_or_a_size_as_postgres_writes_it(written: object, size: int) -> None:
    assert read_source({"origin": "shop_pg", "max_wal": written}).keys.max_wal == size


def test_columns_are_a_list_of_what_lands_or_say_what_does_not() -> None:
    assert read_table({"columns": ["id", "name_*"]}).columns.include == ("id", "name_*")
    columns = read_table({"columns": {"exclude": "*_secret"}}).columns
    assert (columns.include, columns.exclude) == ((), ("*_secret",))
    assert [columns.lets_land(name) for name in ("id", "a_secret")] == [True, False]


def test_what_a_source_hides_stays_hidden_in_a_table_that_hides_more() -> None:
    source = {"origin": "x", "mask": {"email": "sha256"}, "columns": {"exclude": ["ssn"]}}
    table = read_table({"mask": {"phone": "sha256"}, "columns": ["id", "email", "phone", "ssn"]}, source)
    assert table.mask == {"email": "sha256", "phone": "sha256"}
    assert (table.columns.lets_land("id"), table.columns.lets_land("ssn")) == (True, False)
    assert read_table({"columns": ["id"]}, source).mask == {}, "email does not land here, which hides it too"


def test_what_does_not_suit_a_table_is_not_taken_from_its_source() -> None:
    follows = {"origin": "x", "replication": "cdc", "deletes": "soft", "history": True}
    copied = read_table({"replication": "initial_copy"}, follows)
    assert (copied.deletes, copied.history) == ("hard", False)
    increments = {"origin": "x", "replication": "incremental", "cursor": "id", "lag": 5, "write_disposition": "merge"}
    followed = read_table({"replication": "cdc", "deletes": "soft"}, increments)
    assert (followed.cursor, followed.lag, followed.write_disposition) == (None, 0, None)
    assert followed.deletes == "soft"


@pytest.mark.parametrize(
    ("raw", "what", "mend"),
    [
        ({"deletes": "soft"}, "`deletes` needs replication: cdc", "add `replication: cdc`"),
        ({"history": True}, "`history` needs replication: cdc", "add `replication: cdc`"),
        ({"replication": "cdc", "cursor": "id"}, "`cursor` has no use", "take `cursor` out"),
        ({"replication": "cdc", "lag": 5}, "`lag` has no use", "take `lag` out"),
        ({"replication": "cdc", "write_disposition": "merge"}, "merge is what", "say `append` for a log"),
        (
            {"replication": "cdc", "write_disposition": "append", "history": True},
            "`history` has no use with write_disposition: append",
            "take `history` out",
        ),
        (
            {"columns": {"exclude": ["e*"]}, "mask": {"email": "sha256"}},
            "`mask` names 'email', which `columns` leaves out",
            "take 'email' out of `mask`",
        ),
        ({"columns": ["name"], "primary_key": "id"}, "leaves out 'id', which `primary_key` names", "let 'id' land"),
        ({"mask": {"a": "sha256"}, "types": {"a": "json"}}, "in `mask` and in `types`", "out of `types`"),
        (
            {"replication": "incremental", "cursor": "id", "mask": {"id": "sha256"}},
            "the cursor 'id' cannot be masked",
            "another cursor",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(raw: Any, what: str, mend: str) -> None:
    with pytest.raises(UsageError) as refused:
        read_table(raw)
    assert refused.value.what.startswith(WHERE)
    assert what in refused.value.what
    assert mend in refused.value.mend


def test_a_masked_key_still_finds_its_rows() -> None:
    assert read_table({"primary_key": "email", "mask": {"email": "sha256"}}).primary_key == ("email",)


@pytest.mark.parametrize("key", ["slot", "max_wal", "deletes", "history"])
def test_a_source_says_nothing_of_change_data_capture_that_none_of_its_tables_has(key: str) -> None:
    raw = {"origin": "x", key: {"slot": "s", "max_wal": 1, "deletes": "soft", "history": True}[key]}
    source, copied = read_source(raw), read_table({}, raw)
    with pytest.raises(UsageError, match=f"`{key}` needs replication: cdc"):
        refuse_unused(source, [copied], WHERE)
    refuse_unused(source, [copied, read_table({"replication": "cdc"}, raw)], WHERE)


@dataclass(frozen=True, kw_only=True)
class MoreKeys(TableKeys):
    """What one more line in `TableKeys` would be."""

    sorted_by: Names = ()


@dataclass(frozen=True)
class MoreLanding(MoreKeys):
    node: str


def test_a_new_key_is_declared_once_and_is_read_checked_and_handed_on() -> None:
    block = read_block(MoreKeys, {"sorted_by": "id", "cursor": "at"}, WHERE)
    assert (block.keys.sorted_by, block.written) == (("id",), {"sorted_by", "cursor"})
    landing = MoreLanding("source.shop.shop.orders", **select_keys(MoreKeys, block.keys))
    assert (landing.sorted_by, landing.cursor, landing.lag) == (("id",), "at", 0)
    with pytest.raises(UsageError, match="no key 'sorted_bi'") as refused:
        read_block(MoreKeys, {"sorted_bi": "id"}, WHERE)
    assert "did you mean 'sorted_by'?" in refused.value.mend
    with pytest.raises(UsageError, match="names 'id' twice"):
        read_block(MoreKeys, {"sorted_by": ["id", "id"]}, WHERE)


@pytest.mark.parametrize(
    ("keys", "value"), [(TableKeys, LandingTable), (SourceKeys, LandingSource), (DeliveryKeys, Delivery)]
)
def test_what_a_run_gets_has_every_key_that_can_be_written(keys: type[Any], value: type[Any]) -> None:
    assert issubclass(value, keys)
    assert {key.name for key in fields(keys)} <= {key.name for key in fields(value)}


def test_only_a_merge_deletes_its_own_rows() -> None:
    with pytest.raises(UsageError, match="`deletes: own` is for write_disposition: merge"):
        read_delivery_block({"destination": "crm", "write_disposition": "append", "deletes": "own"}, "exposure crm")


def test_columns_of_a_delivery_have_its_key() -> None:
    block = {"destination": "crm", "write_disposition": "merge", "primary_key": "id", "columns": ["name"]}
    with pytest.raises(UsageError, match="leaves out 'id'"):
        read_delivery_block(block, "exposure crm")
