"""The demo's shop: about 200,000 rows at scale 1, made by the server itself from the statements beside this file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from string import Template

import psycopg

from dbt_bridge.simulate.mix import Mix

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows of the tables that everything else follows from."""

    customers: int
    products: int
    orders: int

    @classmethod
    def of_scale(cls, scale: float) -> Sizes:
        return cls(max(100, round(10_000 * scale)), max(20, round(500 * scale)), max(400, round(40_000 * scale)))

    def in_sql(self, file: str) -> bytes:
        text = (_HERE / file).read_text(encoding="utf-8")
        return Template(text).substitute(customers=self.customers, products=self.products, orders=self.orders).encode()


def fill(url: str, sizes: Sizes) -> int:
    """Create and fill the schema `shop`; answers the number of rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sizes.in_sql("shop.sql"))
        return _count_rows(connection)


def make_business(sizes: Sizes) -> Mix:
    """A day of it: orders come, go on their way and are erased; customers move, prices change."""
    return Mix(inserts=sizes.orders // 20, updates=sizes.orders // 20, deletes=sizes.orders // 100)


def _count_rows(connection: psycopg.Connection) -> int:
    row = connection.execute(_ROWS).fetchone()
    assert row is not None
    return int(row[0])


_ROWS = """
    SELECT (SELECT count(*) FROM shop.customers)
         + (SELECT count(*) FROM shop.addresses)
         + (SELECT count(*) FROM shop.products)
         + (SELECT count(*) FROM shop.orders)
         + (SELECT count(*) FROM shop.order_items)
         + (SELECT count(*) FROM shop.payments)
"""
