"""The demo's proof: the same question asked at both ends, in each engine's own words, must have the same answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg


@dataclass(frozen=True, slots=True)
class Check:
    """One question.

    Attributes:
        what: for the printed table.
        database: the Postgres database that is asked: shop or crm.
        postgres, duckdb: each one row of counts and sums.
    """

    what: str
    database: str
    postgres: LiteralString
    duckdb: LiteralString


@dataclass(frozen=True, slots=True)
class Answer:
    """Both answers to a check."""

    check: Check
    postgres: tuple[object, ...]
    duckdb: tuple[object, ...]

    @property
    def same(self) -> bool:
        return self.postgres == self.duckdb


CHECKS: Sequence[Check] = (
    Check(
        "customers: rows, emails, letters in names, credit",
        "shop",
        "SELECT count(*), count(email), sum(length(full_name)), sum(credit_limit) FROM shop.customers",
        "SELECT count(*), count(email), sum(length(full_name)), sum(credit_limit) FROM shop_landing.customers",
    ),
    Check(
        "customers: tags, newest change",
        "shop",
        "SELECT sum(cardinality(tags)), extract(epoch FROM max(updated_at))::bigint FROM shop.customers",
        "SELECT sum(len(tags)), epoch(max(updated_at))::bigint FROM shop_landing.customers",
    ),
    Check(
        "addresses: rows, postal codes, letters in cities",
        "shop",
        "SELECT count(*), count(postal_code), sum(length(city)) FROM shop.addresses",
        "SELECT count(*), count(postal_code), sum(length(city)) FROM shop_landing.addresses",
    ),
    Check(
        "products: rows, prices",
        "shop",
        "SELECT count(*), sum(price) FROM shop.products",
        "SELECT count(*), sum(price) FROM shop_landing.products",
    ),
    Check(
        "orders: rows, amounts, delivered",
        "shop",
        "SELECT count(*), sum(total_amount), count(*) FILTER (WHERE status = 'delivered') FROM shop.orders",
        "SELECT count(*), sum(total_amount), count(*) FILTER (WHERE status = 'delivered') FROM shop_landing.orders",
    ),
    Check(
        "order_items: rows, quantities, prices",
        "shop",
        "SELECT count(*), sum(quantity), sum(quantity * unit_price) FROM shop.order_items",
        "SELECT count(*), sum(quantity), sum(quantity * unit_price) FROM shop_landing.order_items",
    ),
    Check(
        "payments: rows, money that stayed",
        "shop",
        "SELECT count(*), sum(amount) FILTER (WHERE NOT refunded) FROM shop.payments",
        "SELECT count(*), sum(amount) FILTER (WHERE NOT refunded) FROM shop_landing.payments",
    ),
    Check(
        "fct_orders, an incremental model: rows, amounts",
        "shop",
        "SELECT count(*), sum(total_amount) FROM shop.orders",
        "SELECT count(*), sum(total_amount) FROM main.fct_orders",
    ),
    Check(
        "customers_history, a dbt snapshot: current versions",
        "shop",
        "SELECT count(*), count(*) FILTER (WHERE country = 'PL') FROM shop.customers",
        "SELECT count(*), count(*) FILTER (WHERE country_code = 'PL') FROM main.customers_history"
        " WHERE dbt_valid_to IS NULL",
    ),
    Check(
        "crm.segments, delivered: rows, champions, value",
        "crm",
        "SELECT count(*), count(*) FILTER (WHERE segment = 'champion'), sum(lifetime_value) FROM crm.segments",
        "SELECT count(*), count(*) FILTER (WHERE segment = 'champion'), sum(lifetime_value)"
        " FROM main.customer_segments",
    ),
)


def ask_both_ends(urls: Mapping[str, str], warehouse: Path) -> list[Answer]:
    """Ask every check at both ends.

    Args:
        urls: of the Postgres databases, by name.
        warehouse: the DuckDB file.
    """
    import duckdb

    with (
        psycopg.connect(urls["shop"]) as shop,
        psycopg.connect(urls["crm"]) as crm,
        duckdb.connect(str(warehouse), read_only=True) as landed,
    ):
        there = {"shop": shop, "crm": crm}
        return [
            Answer(
                check,
                there[check.database].execute(check.postgres).fetchone() or (),
                landed.execute(check.duckdb).fetchone() or (),
            )
            for check in CHECKS
        ]
