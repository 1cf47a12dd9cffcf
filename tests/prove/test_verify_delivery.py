"""`verify` of what was delivered, and `build --verify` as the gate before it."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest
from tests.projects import NODE, dbt_result, table
from tests.prove import test_verify as landing
from tests.prove.test_verify import Shop

from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.project import Delivery
from dbt_bridge.nouns.table import Relation
from dbt_bridge.observe.progress import Silent
from dbt_bridge.prove.recorder import VerifyOptions
from dbt_bridge.prove.verify import verify
from dbt_bridge.run.build import build
from dbt_bridge.run.outcomes import BuildOutcome
from dbt_bridge.run.sync import SyncOptions

filled, shop = landing.filled, landing.shop

DELIVERY = Delivery(
    node="exposure.shop.crm",
    name="crm",
    model="model.shop.customers",
    relation=Relation("shop_landing", "customers"),
    ancestors=frozenset({"model.shop.customers", f"{NODE}customers"}),
    gates=frozenset(),
    destination="crm_pg",
    schema="crm",
    table="customers",
    write_disposition="replace",
    primary_key=("id",),
)


def built(shop: Shop, *, verify: bool = False, **options: object) -> BuildOutcome:
    statuses = {DELIVERY.model: "success"}
    how = SyncOptions(**options)  # type: ignore[arg-type]
    return build(shop.project, lambda: dbt_result(statuses), how, Silent(), verify=verify)


def test_nothing_is_delivered_that_comes_from_what_differs(shop: Shop, filled: psycopg.Connection) -> None:
    shop.project = replace(shop.project, deliveries=(DELIVERY,))
    shop.spoil("DELETE FROM shop_landing.lines WHERE order_id = 1")
    outcome = built(shop, verify=True)  # the delivery does not come from the lines
    assert [(r.hop, r.status) for r in outcome.receipts][-1] == ("deliver", "success")
    assert not outcome.ok, "something differs all the same"

    shop.spoil("UPDATE shop_landing.customers SET name = 'wrong' WHERE id = 1")
    filled.execute("UPDATE customers SET name = 'newer' WHERE id = 2")
    outcome = built(shop, verify=True)
    last = outcome.receipts[-1]
    assert (last.hop, last.status, outcome.ok) == ("deliver", "skipped", False)
    assert "shop.customers" in (last.error or "") and "verify" in (last.error or "")
    assert filled.execute("SELECT name FROM crm.customers WHERE id = 2").fetchone() == ("c2",)
    assert built(shop).ok, "without --verify nobody compares"
    versions = table("customers", "incremental", cursor="id", primary_key=("name",))
    shop.project = replace(shop.project, sources=(replace(shop.project.sources[0], tables=(versions,)),))
    last = built(shop, verify=True).receipts[-1]
    assert (last.status, "it could not be compared with its origin" in str(last.error)) == ("skipped", True)
    for bound in ({"until_lsn": "0/1"}, {"max_seconds": 1.0}):  # which the verification would not keep
        with pytest.raises(UsageError, match="--verify brings cdc tables to an LSN of its own"):
            built(shop, verify=True, **bound)


@pytest.mark.parametrize("disposition", ["replace", "merge", "append"])
def test_a_delivered_table_is_compared_with_its_model(shop: Shop, filled: psycopg.Connection, disposition: str) -> None:
    shop.project = replace(
        shop.project,
        deliveries=(replace(DELIVERY, write_disposition=disposition),),  # type: ignore[arg-type]
    )
    assert verify(shop.project, VerifyOptions(), Silent())[-1].status == "failed", "it was not delivered yet"
    assert built(shop).ok
    assert verify(shop.project, VerifyOptions(), Silent())[-1].status == "equal"
    filled.execute("INSERT INTO crm.customers (id, name) VALUES (70000, 'by hand')")
    extra = verify(shop.project, VerifyOptions(), Silent())[-1]
    if disposition == "replace":
        assert (extra.status, extra.only_in_destination) == ("different", 1)
        for wrong in ({"destination": "nowhere"}, {"columns": ("id", "nme")}):  # the tables have been compared by then
            declared = replace(shop.project, deliveries=(replace(DELIVERY, **wrong),))
            found = verify(declared, VerifyOptions(), Silent())
            assert [p.status for p in found] == ["equal", "equal", "failed"]
    else:  # which never delete
        assert (extra.status, extra.allowed) == ("equal", 1)
    filled.execute("UPDATE crm.customers SET credit = 0 WHERE id = 4")
    filled.execute("DELETE FROM crm.customers WHERE id = 5")
    wrong = verify(shop.project, VerifyOptions(), Silent())[-1]
    assert wrong.status == "different"
    if disposition != "append":
        assert (wrong.different, wrong.only_in_origin, dict(wrong.columns)) == (1, 1, {"credit": 1})
    else:
        assert wrong.only_in_origin == 2
