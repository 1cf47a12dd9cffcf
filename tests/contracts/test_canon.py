"""Which form two columns are compared in, where their Arrow types do not say it alone."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dbt_bridge.connectors.postgres.wire.digest_sql import build_element
from dbt_bridge.contracts.canon import Canon, choose_canon
from dbt_bridge.nouns.table import Column


def column(origin_type: str, type_: pa.DataType | None = None) -> Column:
    return Column("c", type_ or pa.string(), origin_type)


@pytest.mark.parametrize(
    ("origin", "destination", "canon"),
    [
        (column("character(5)"), column("VARCHAR"), Canon("text", form="char")),
        (column("text"), column("char(5)"), Canon("text", form="char")),
        (column('"char"'), column("VARCHAR"), Canon("text")),
        (column("uuid", pa.uuid()), column("UUID"), Canon("uuid")),
        (column("uuid", pa.uuid()), column(""), Canon("text", form="uuid")),
        (column("jsonb", pa.json_()), column(""), Canon("json")),
        (column("jsonb"), column("JSON"), Canon("json")),
        (column("numeric"), column("VARCHAR"), Canon("text")),
        (column("numeric"), column("", pa.decimal128(38, 9)), Canon("decimal", scale=9)),
        (column("numeric(9,2)", pa.decimal128(9, 2)), column("", pa.decimal128(18, 4)), Canon("decimal", scale=4)),
        (column("bigint", pa.int64()), column("", pa.uint64()), Canon("decimal")),
        (column("integer", pa.int32()), column("", pa.uint32()), Canon("int")),
        (column("boolean", pa.bool_()), column("tinyint(1)", pa.int8()), Canon("int", bits=32)),
        (column("interval", pa.month_day_nano_interval()), column(""), Canon("text")),
        (column("uuid[]", pa.list_(pa.uuid())), column(""), Canon("text")),
        (column("jsonb[]", pa.list_(pa.string())), column("", pa.list_(pa.string())), Canon("list", of=Canon("json"))),
        (column("date", pa.date32()), column("", pa.timestamp("ns")), Canon("timestamp", fine=True)),
        (column("text", pa.null()), column("date", pa.date32()), Canon("date")),
    ],
)
def test_both_columns_agree_on_a_form_whichever_comes_first(origin: Column, destination: Column, canon: Canon) -> None:
    assert choose_canon(origin, destination) == canon
    assert choose_canon(destination, origin) == canon


def test_a_name_with_quotes_stays_one_name_in_sql() -> None:
    assert build_element('"a ""b"""', "integer", Canon("int", bits=32)) == '"a ""b"""::int4'
