"""What a delivery finds in DuckDB: tables that are not ours, and what is remembered of those that went before."""
