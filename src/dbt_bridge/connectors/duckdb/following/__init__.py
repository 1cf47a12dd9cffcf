"""Changes of a log are applied to DuckDB: to landings, their histories, and tables without a key."""
