"""Business in the demo's shop: each transaction is one statement, as an application's would be one commit.

insert   an order with one to three lines and, mostly, its payment
update   an order goes on its way, comes back or is cancelled; a customer moves; a price changes
delete   an order is erased, with its lines and payments
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, LiteralString

import psycopg

from dbt_bridge.errors import OriginError
from dbt_bridge.simulate.writer import NothingToChange

TABLES = ("customers", "addresses", "products", "orders", "order_items", "payments")
_COUNTRIES = ("AT", "BR", "CA", "CZ", "DE", "ES", "FR", "GB", "GR", "IN", "JP", "KR", "MX", "NO", "PL", "US")
_METHODS = ("card", "card", "bank_transfer", "wallet", "voucher")

# The shop's clock never goes back, as its incremental models rely on.
_INSERT: LiteralString = """
WITH clock AS (
    SELECT greatest(now(), (SELECT max(updated_at) + interval '1 microsecond' FROM shop.orders)) AS at
), customer AS (
    SELECT customer_id, (SELECT min(address_id) FROM shop.addresses a WHERE a.customer_id = c.customer_id) AS address_id
    FROM shop.customers c
    WHERE customer_id >= %(customer)s
    ORDER BY customer_id
    LIMIT 1
), lines AS MATERIALIZED (
    SELECT line.number, p.product_id, line.quantity, p.price, line.discount
    FROM unnest(%(products)s::int[], %(quantities)s::int[], %(discounts)s::numeric[])
         WITH ORDINALITY AS line (product, quantity, discount, number)
    CROSS JOIN LATERAL (
        SELECT product_id, price FROM shop.products WHERE product_id >= line.product ORDER BY product_id LIMIT 1
    ) AS p
), new_order AS (
    INSERT INTO shop.orders
    SELECT (SELECT max(order_id) + 1 FROM shop.orders), customer_id, address_id, %(status)s::shop.order_status,
           (SELECT sum(round(quantity * price * (1 - discount), 2)) FROM lines), %(note)s, at, NULL, at
    FROM customer, clock
    RETURNING order_id, total_amount
), new_lines AS (
    INSERT INTO shop.order_items
    SELECT order_id, number, product_id, quantity, price, discount FROM new_order, lines
    RETURNING 1
), new_payment AS (
    INSERT INTO shop.payments
    SELECT md5('payment ' || order_id || ' 1')::uuid, order_id, %(method)s::shop.payment_method, total_amount, false,
           at, at
    FROM new_order, clock
    WHERE %(status)s = 'paid'
    RETURNING 1
)
SELECT (SELECT count(*) FROM new_order), (SELECT count(*) FROM new_lines), (SELECT count(*) FROM new_payment)
"""
_UPDATE_ORDER: LiteralString = """
WITH clock AS (
    SELECT greatest(now(), (SELECT max(updated_at) + interval '1 microsecond' FROM shop.orders)) AS at
), picked AS (
    SELECT order_id, status FROM shop.orders WHERE order_id >= %(order)s ORDER BY order_id LIMIT 1 FOR UPDATE
), moved AS (
    UPDATE shop.orders o
    SET status = CASE p.status::text WHEN 'placed' THEN 'cancelled' WHEN 'paid' THEN 'shipped'
                      WHEN 'shipped' THEN 'delivered' WHEN 'delivered' THEN 'returned' ELSE o.status::text
                 END::shop.order_status,
        note = CASE WHEN p.status IN ('returned', 'cancelled') THEN %(note)s ELSE o.note END,
        shipped_at = CASE WHEN p.status = 'paid' THEN at ELSE o.shipped_at END,
        updated_at = at
    FROM picked p, clock
    WHERE o.order_id = p.order_id
    RETURNING o.order_id
), refunded AS (
    UPDATE shop.payments y
    SET refunded = true, updated_at = at
    FROM picked p, clock
    WHERE y.order_id = p.order_id AND p.status = 'delivered'
    RETURNING 1
)
SELECT (SELECT count(*) FROM moved), (SELECT count(*) FROM refunded)
"""
_UPDATE_CUSTOMER: LiteralString = """
UPDATE shop.customers
SET country = %(country)s,
    newsletter = NOT newsletter,
    credit_limit = %(credit)s,
    updated_at = greatest(now(), (SELECT max(updated_at) + interval '1 microsecond' FROM shop.customers))
WHERE customer_id = (
    SELECT customer_id FROM shop.customers WHERE customer_id >= %(customer)s ORDER BY customer_id LIMIT 1
)
RETURNING 1
"""
_UPDATE_PRODUCT: LiteralString = """
UPDATE shop.products
SET price = %(price)s
WHERE product_id = (
    SELECT product_id FROM shop.products WHERE product_id >= %(product)s ORDER BY product_id LIMIT 1
)
RETURNING 1
"""
_DELETE: LiteralString = """
WITH picked AS (
    SELECT order_id FROM shop.orders WHERE order_id >= %(order)s ORDER BY order_id LIMIT 1 FOR UPDATE
), payments AS (
    DELETE FROM shop.payments y USING picked p WHERE y.order_id = p.order_id RETURNING 1
), lines AS (
    DELETE FROM shop.order_items i USING picked p WHERE i.order_id = p.order_id RETURNING 1
), orders AS (
    DELETE FROM shop.orders o USING picked p WHERE o.order_id = p.order_id RETURNING 1
)
SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM lines), (SELECT count(*) FROM payments)
"""
_ENDS: LiteralString = """
SELECT (SELECT max(customer_id) FROM shop.customers), (SELECT max(product_id) FROM shop.products),
       (SELECT min(order_id) FROM shop.orders), (SELECT max(order_id) FROM shop.orders)
"""
_EXISTS: LiteralString = "SELECT count(*) FROM pg_tables WHERE schemaname = 'shop' AND tablename = ANY(%s)"


def is_shop(connection: psycopg.Connection) -> bool:
    """Whether this is the demo's database."""
    row = connection.execute(_EXISTS, [list(TABLES)]).fetchone()
    return row is not None and row[0] == len(TABLES)


class Shop:
    """Writes to the demo's shop.

    Args:
        draws: every choice comes from it.
    """

    def __init__(self, connection: psycopg.Connection, draws: random.Random) -> None:
        self._connection = connection
        self._draws = draws
        row = connection.execute(_ENDS).fetchone()
        if row is None or None in row[:2]:
            raise OriginError("the shop has no customers or no products", mend="dbt-bridge demo --keep makes a new one")
        self._customers, self._products, *_ = row

    def write(self, kind: str) -> Counter[tuple[str, str]]:
        if kind == "insert":
            return self._insert()
        return self._update() if kind == "update" else self._delete()

    def _insert(self) -> Counter[tuple[str, str]]:
        draw, lines = self._draws, self._draws.randint(1, 3)
        given = {
            "customer": draw.randint(1, self._customers),
            "products": [draw.randint(1, self._products) for _ in range(lines)],
            "quantities": [draw.randint(1, 5) for _ in range(lines)],
            "discounts": [draw.choice(("0", "0", "0", "0.1500")) for _ in range(lines)],
            "status": draw.choice(("placed", "paid", "paid")),
            "note": draw.choice((None, None, None, "ring twice 🔔")),
            "method": draw.choice(_METHODS),
        }
        orders, items, payments = self._one(_INSERT, given)
        return _rows("insert", orders=orders, order_items=items, payments=payments)

    def _update(self) -> Counter[tuple[str, str]]:
        draw = self._draws
        what = draw.choices(("order", "customer", "product"), weights=(7, 2, 1))[0]
        if what == "customer":
            credit = draw.choice((None, f"{draw.randint(0, 500_000) / 100:.2f}"))
            customer, country = draw.randint(1, self._customers), draw.choice(_COUNTRIES)
            self._one(_UPDATE_CUSTOMER, {"customer": customer, "country": country, "credit": credit})
            return _rows("update", customers=1)
        if what == "product":
            price = f"{draw.randint(199, 15_000) / 100:.2f}"
            self._one(_UPDATE_PRODUCT, {"product": draw.randint(1, self._products), "price": price})
            return _rows("update", products=1)
        orders, payments = self._one(_UPDATE_ORDER, {"order": self._an_order(), "note": f"note {draw.randint(1, 999)}"})
        return _rows("update", orders=orders, payments=payments)

    def _delete(self) -> Counter[tuple[str, str]]:
        orders, items, payments = self._one(_DELETE, {"order": self._an_order()})
        return _rows("delete", orders=orders, order_items=items, payments=payments)

    def _an_order(self) -> int:
        row = self._connection.execute(_ENDS).fetchone()
        if row is None or row[2] is None:
            raise NothingToChange("the shop has no order left to change", mend="simulate more inserts than deletes")
        return self._draws.randint(row[2], row[3])

    def _one(self, sql: LiteralString, given: dict[str, Any]) -> tuple[int, ...]:
        row = self._connection.execute(sql, given).fetchone()
        if row is None or not row[0]:
            # Another writer took the row between the draw and the statement.
            raise psycopg.errors.LockNotAvailable("the row is gone")
        return row


def _rows(what: str, **tables: int) -> Counter[tuple[str, str]]:
    return Counter({(f"shop.{table}", what): count for table, count in tables.items() if count})
