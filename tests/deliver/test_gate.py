"""An exposure is delivered only when everything upstream passed."""

import pytest

from dbt_bridge.deliver.gate import find_refusal, refuse_unknown_columns
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.nouns.relation import Relation

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
ALL_PASSED = {
    "model.shop.dim_customers": "success",
    "model.shop.stg_customers": "success",
    "test.shop.unique_dim_customers_id.abc123": "pass",
}


def test_everything_passed() -> None:
    assert find_refusal(SEGMENTS, ALL_PASSED) is None


def test_a_warning_does_not_hold_back() -> None:
    assert find_refusal(SEGMENTS, ALL_PASSED | {"test.shop.unique_dim_customers_id.abc123": "warn"}) is None


@pytest.mark.parametrize("status", ["error", "skipped", "partial success"])
def test_an_ancestor_that_did_not_build_holds_back_and_is_named(status: str) -> None:
    why = find_refusal(SEGMENTS, ALL_PASSED | {"model.shop.stg_customers": status})

    assert why == f"model stg_customers: {status}"


def test_a_failed_test_holds_back_and_is_named() -> None:
    why = find_refusal(SEGMENTS, ALL_PASSED | {"test.shop.unique_dim_customers_id.abc123": "fail"})

    assert why == "test unique_dim_customers_id: fail"


def test_an_ancestor_outside_the_run_holds_back() -> None:
    ran = {k: v for k, v in ALL_PASSED.items() if k != "model.shop.stg_customers"}

    assert find_refusal(SEGMENTS, ran) == (
        "model stg_customers was not part of this dbt run: dbt-bridge build --select +exposure:crm_segments"
    )


def test_a_key_that_the_relation_lacks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"primary_key names 'customer_id'[\s\S]*'customer_ident'"):
        refuse_unknown_columns(SEGMENTS, ["customer_ident", "segment"])
