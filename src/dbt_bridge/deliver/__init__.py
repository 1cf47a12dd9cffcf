"""Rows leave the warehouse, behind a gate."""
