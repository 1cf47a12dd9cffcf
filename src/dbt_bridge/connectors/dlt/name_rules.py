"""How warehouses and destinations that dlt reaches read names, by dbt's adapter type or dlt's destination type.

What stands nowhere here is taken to confuse upper and lower case: two names that differ in it are refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from dbt_bridge.nouns.names import BIGQUERY, DUCKDB, EXACT, LOWER, POSTGRES, SNOWFLAKE, NameRules

NAME_RULES: Mapping[str, NameRules] = {
    "snowflake": SNOWFLAKE,
    "bigquery": BIGQUERY,
    "clickhouse": EXACT,
    "redshift": LOWER,
    "databricks": LOWER,
    "spark": LOWER,
    "athena": LOWER,
    "glue": LOWER,
    "trino": LOWER,
    "postgres": POSTGRES,
    "duckdb": DUCKDB,
    "motherduck": DUCKDB,
    "ducklake": DUCKDB,
}
