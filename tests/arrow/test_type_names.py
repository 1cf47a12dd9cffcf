"""Type overrides of the YAML."""

import pyarrow as pa
import pytest

from dbt_bridge.arrow.type_names import apply_overrides, parse_type
from dbt_bridge.errors import UsageError
from dbt_bridge.nouns.table import Column, Table, TableName

ORDERS = Table(TableName("shop", "orders"), (Column("id", pa.int64()), Column("amount", pa.string(), "numeric")))


def test_an_override_changes_only_its_column() -> None:
    table = apply_overrides(ORDERS, {"amount": "decimal(38, 10)"})

    assert [c.type for c in table.columns] == [pa.int64(), pa.decimal128(38, 10)]
    assert table.columns[1].origin_type == "numeric"


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no column 'amuont'[\s\S]*'amount'"):
        apply_overrides(ORDERS, {"amuont": "text"})


@pytest.mark.parametrize(
    ("wrong", "hint"), [("txt", "text"), ("decimal(39,2)", "1 to 38"), ("decimal(4,5)", "1 to 38")]
)
def test_an_unknown_type_is_refused_with_a_hint(wrong: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint.replace("(", r"\(")):
        parse_type(wrong)
