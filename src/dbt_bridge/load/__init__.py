"""Rows land: DuckDB, Postgres and Delta natively, every other destination through dlt."""
