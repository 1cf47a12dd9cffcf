"""What every database must do that is a side of a reconciliation.

class TestSnow(QueriesTests):
    @pytest.fixture
    def queries(self, tmp_path):
        yield create_orders(SnowQueries(...), connection.execute)
"""
# ruff: noqa: S608

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pyarrow as pa
import pytest

from dbt_bridge.contracts.queries import Queries
from dbt_bridge.errors import BridgeError
from dbt_bridge.nouns.reconciliation import Selection, in_parentheses
from dbt_bridge.nouns.table import TableName

TABLE = TableName("", 'Or"d`er:s %')
AMOUNT, NAME = 'am"ou`nt', "na:me %s"
ROWS = [(1, Decimal("10.50"), "a:b 100%"), (2, Decimal("-3.25"), None), (3, None, "NULL")]


def create_orders(queries: Queries, run: Callable[[str], object]) -> Queries:
    """A table with hostile names: its key is only in the catalog of those that keep one."""
    q = queries.quote_identifier
    run(
        f"CREATE TABLE {queries.relation(TABLE)} (id int PRIMARY KEY, {q(AMOUNT)} decimal(12,2), {q(NAME)} varchar(20))"
    )
    for number, amount, name in ROWS:
        literal = "NULL" if name is None else f"'{name}'"
        run(f"INSERT INTO {queries.relation(TABLE)} VALUES ({number}, {amount if amount else 'NULL'}, {literal})")
    return queries


def selection(queries: Queries, rows: str, relation: TableName | None = None, condition: str = "") -> Selection:
    q = queries.quote_identifier
    values = {"id": q("id"), AMOUNT: q(AMOUNT), "shout: %": f"upper({q(NAME)}) -- {{{{ not jinja }}}}\n"}
    return Selection(rows, values, condition, relation, {"id": "id", AMOUNT: AMOUNT} if relation else {})


class QueriesTests:
    """Needs the fixture `queries`: a database with the table of `create_orders`.

    Attributes:
        has_keys: whether the database knows primary keys.
    """

    has_keys = True

    def test_a_relation_is_selected_filtered_counted_and_found_by_key(self, queries: Queries) -> None:
        rows = queries.relation(TABLE)
        chosen = selection(
            queries, rows, TABLE, f"{queries.quote_identifier(NAME)} LIKE '%:%' OR id = 2 -- and no more"
        )

        side = queries.side("for people", chosen)

        assert queries.names(rows) == ["id", AMOUNT, NAME]
        assert queries.key(TABLE) == (("id",) if self.has_keys else ())
        assert (side.name, side.count()) == ("for people", 2)
        read = side.rows(["shout: %", "id", AMOUNT]).read_all().sort_by("id")
        assert read.schema.types == [side.table.column(name).type for name in read.column_names]  # type: ignore[union-attr]
        assert read.to_pylist() == [
            {"shout: %": "A:B 100%", "id": 1, AMOUNT: Decimal("10.50")},
            {"shout: %": None, "id": 2, AMOUNT: Decimal("-3.25")},
        ]
        keys = pa.table({"id": pa.array([2, 3, 99], read.schema.field("id").type)})
        assert side.rows([AMOUNT], keys).read_all().to_pylist() == [{AMOUNT: Decimal("-3.25")}]
        both = read.select(["shout: %", AMOUNT])  # NULL equals NULL
        assert sorted(side.rows(["id"], both).read_all()["id"].to_pylist()) == [1, 2]

    def test_a_query_is_a_relation_too(self, queries: Queries) -> None:
        sql = f"SELECT * FROM {queries.relation(TABLE)} WHERE id <> 2 -- it ends in a comment;\n;"

        side = queries.side("q", selection(queries, in_parentheses(sql)))

        assert side.rows(["id", AMOUNT]).read_all().sort_by("id")[AMOUNT].to_pylist() == [10.5, None]
        assert side.count() == 2

    def test_a_metric_is_a_small_table(self, queries: Queries) -> None:
        sql = f"SELECT count(*) AS n, sum({queries.quote_identifier(AMOUNT)}) AS total FROM {queries.relation(TABLE)};"

        columns, rows = queries.result(sql)

        assert [column.name for column in columns] == ["n", "total"]
        (row,) = rows.to_pylist()
        assert (row["n"], Decimal(str(row["total"]))) == (3, Decimal("7.25"))

    @pytest.mark.parametrize("sql", ["SELECT nothing FROM nowhere", "SELEC 1"])
    def test_what_the_database_refuses_is_an_error_of_ours(self, queries: Queries, sql: str) -> None:
        with pytest.raises(BridgeError):
            queries.result(sql)
        with pytest.raises(BridgeError):
            queries.names(in_parentheses(sql))
        assert queries.result("SELECT 1 AS a")[1].to_pylist() == [{"a": 1}]  # and it goes on

    def test_columns_of_one_name_are_both_given_or_refused(self, queries: Queries) -> None:
        """Postgres calls each sum `sum`."""
        try:
            columns, rows = queries.result(f"SELECT sum(id) AS sum, sum(id * 2) AS sum FROM {queries.relation(TABLE)}")
        except BridgeError as error:
            assert "two columns named 'sum'" in error.what or "Duplicate column name 'sum'" in error.what
        else:
            assert [int(column[0].as_py()) for column in rows.columns] == [6, 12]
            assert len(columns) == 2
