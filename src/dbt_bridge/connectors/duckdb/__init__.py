"""DuckDB as the embedded warehouse: rows, checkpoints and receipts in one transaction."""
