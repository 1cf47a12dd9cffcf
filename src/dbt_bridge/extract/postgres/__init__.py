"""The Postgres origin: one exported snapshot, described by the catalog and read as Arrow."""

from dbt_bridge.extract.postgres.origin import PostgresOrigin

__all__ = ["PostgresOrigin"]
