"""An exposure is delivered only when everything upstream passed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dbt_bridge.deliver.gate import find_refusal, refuse_unknown_columns
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.node_record import UNFINISHED, NodeRecord
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.nouns.table import Relation

SEGMENTS = Delivery(
    node="exposure.shop.crm_segments",
    name="crm_segments",
    model="model.shop.dim_customers",
    relation=Relation("marts", "dim_customers"),
    ancestors=frozenset({"model.shop.dim_customers", "model.shop.stg_customers", "source.shop.raw.customers"}),
    gates=frozenset({"test.shop.unique_dim_customers_id.abc123"}),
    destination="crm",
    schema="crm",
    table="segments",
    write_disposition="merge",
    primary_key=("customer_id",),
)
MODEL, PARENT, TEST = "model.shop.dim_customers", "model.shop.stg_customers", "test.shop.unique_dim_customers_id.abc123"
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
AGAIN = "dbt-bridge build --select +exposure:crm_segments"


def built(node: str, status: str, build: str = "1", *, minutes: int = 0, relation: str = "") -> NodeRecord:
    """A record of a node that took a second, so many minutes after noon."""
    began = NOON + timedelta(minutes=minutes)
    return NodeRecord(
        node, "shop", "shop", "dev", "wh.main", relation, status, "dbt-bridge build", build, build, began,
        began + timedelta(seconds=1),
    )  # fmt: skip


def known(*records: NodeRecord) -> dict[str, NodeRecord]:
    return {record.node: record for record in records}


ALL_PASSED = known(built(MODEL, "success"), built(PARENT, "success"), built(TEST, "pass"))


def test_everything_passed() -> None:
    assert find_refusal(SEGMENTS, ALL_PASSED) is None


def test_a_warning_does_not_hold_back() -> None:
    assert find_refusal(SEGMENTS, ALL_PASSED | known(built(TEST, "warn"))) is None


@pytest.mark.parametrize("status", ["error", "skipped", "partial success", "no-op", "cloned, and not tested"])
def test_an_ancestor_that_did_not_build_holds_back_and_is_named(status: str) -> None:
    why = find_refusal(SEGMENTS, ALL_PASSED | known(built(PARENT, status)))

    assert why == f"model stg_customers: {status}: {AGAIN}"


def test_a_failed_test_holds_back_and_is_named() -> None:
    why = find_refusal(SEGMENTS, ALL_PASSED | known(built(TEST, "fail")), options=" --target prod")

    assert why == f"test unique_dim_customers_id: fail: {AGAIN} --target prod"


@pytest.mark.parametrize(
    ("node", "what"),
    [(PARENT, "model stg_customers was not built"), (TEST, "test unique_dim_customers_id did not run")],
)
def test_what_was_never_built_or_tested_here_holds_back(node: str, what: str) -> None:
    ran = {one: record for one, record in ALL_PASSED.items() if one != node}

    assert find_refusal(SEGMENTS, ran) == f"{what} here, as far as is known: {AGAIN}"


def test_a_build_that_did_not_end_holds_back() -> None:
    why = find_refusal(SEGMENTS, ALL_PASSED | known(built(MODEL, UNFINISHED)))

    assert why == (
        f"model dim_customers: dbt-bridge build began at 2026-11-30 12:00:00 UTC and did not come to its end: {AGAIN}"
    )


def test_rows_that_were_built_again_after_their_test_hold_back() -> None:
    seen = replace(SEGMENTS, tested={TEST: frozenset({MODEL})})
    again = ALL_PASSED | known(built(MODEL, "success", "2", minutes=5))

    assert find_refusal(SEGMENTS, ALL_PASSED) is None
    assert find_refusal(seen, again) == (
        "model dim_customers was built again (dbt-bridge build, 2026-11-30 12:05:00 UTC) after test"
        f" unique_dim_customers_id had passed, so what is in it now was not tested: {AGAIN}"
    )
    assert find_refusal(seen, again | known(built(TEST, "pass", "3", minutes=6))) is None
    assert find_refusal(seen, again | known(built(TEST, "pass", "2", minutes=4))) is None, (
        "dbt keeps the order in a run"
    )


def test_a_hook_that_failed_holds_back_until_it_has_passed() -> None:
    end = "operation.shop.shop-on-run-end-0"
    hooked = replace(SEGMENTS, hooks=frozenset({end}))

    assert find_refusal(hooked, ALL_PASSED) is None, "a dbt that tells nothing of hooks"
    assert find_refusal(hooked, ALL_PASSED | known(built(end, "success"))) is None
    assert find_refusal(hooked, ALL_PASSED | known(built(end, "error"))) == (
        f"hook shop-on-run-end-0: error (dbt-bridge build, 2026-11-30 12:00:00 UTC): {AGAIN}"
    )
    assert find_refusal(SEGMENTS, ALL_PASSED | known(built(end, "error"))) is None, "the project has it no more"


def test_a_relation_of_another_name_is_not_what_was_built() -> None:
    here = replace(SEGMENTS, relations={MODEL: '"wh"."prod"."dim_customers"'})
    ran = ALL_PASSED | known(built(MODEL, "success", relation='"wh"."dev"."dim_customers"'))

    assert find_refusal(here, ran) == (
        f'model dim_customers was built as "wh"."dev"."dim_customers", and is "wh"."prod"."dim_customers" now: {AGAIN}'
    )


def test_a_key_that_the_relation_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"primary_key names 'customer_id'[\s\S]*'customer_ident'"):
        refuse_unknown_columns(SEGMENTS, ["customer_ident", "segment"])
